"""How a missing part of edgeprune is installed: no package index has a release of it yet."""


def install(extra: str = "") -> str:
    """The command that installs edgeprune with an extra, and where it works, within a sentence."""
    return f"`pip install '.{f'[{extra}]' if extra else ''}'` in a checkout of edgeprune"
