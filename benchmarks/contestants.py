"""Peers as contestants of edgeprune's bench: an environment of peers/setup.py and its script."""

import shlex
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"


def peer_words(environment: str, script: str, *arguments: object) -> list[str]:
    """The command line of a peer's script."""
    python = PEERS / environment / "bin" / "python"
    return [str(word) for word in (python, HERE / "peers" / script, *arguments)]


def peer_command(environment: str, script: str, *arguments: object) -> str:
    """The same, as bench names a contestant."""
    return f"command:{shlex.join(peer_words(environment, script, *arguments))}"


def is_missing(environment: str) -> bool:
    """Whether `python benchmarks/peers/setup.py NAME` has still to be run."""
    return not (PEERS / environment).exists()
