"""The command that installs a missing part: no package index has a release of edgeprune yet."""


def install(extra: str = "") -> str:
    """The command that installs edgeprune with an extra, worded for the middle of a sentence."""
    return f"`pip install '.{f'[{extra}]' if extra else ''}'` in a checkout of edgeprune"
