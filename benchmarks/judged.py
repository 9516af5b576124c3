"""Commands of edgeprune, and bundles judged by pairs that nothing was chosen by."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

JUDGES = {"stsb": "pairs/stsb.dev.jsonl", "sick": "pairs/sick.dev.jsonl"}
_PLACES = ("data", "bundle", "against")


def data_folder() -> Path:
    """The folder with the texts; where none is named, the script ends."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    return Path(folder)


def judged(output: Path, data: Path) -> dict[str, dict[str, Any]]:
    """A build's bundle beside its original, by each judge.

    Args:
        output: of the build.
    """
    return {
        judge: answer(
            *("evaluate", output / "bundle", "--task", "sts", "--data", data / file),
            *("--against", output / "original"),
        )
        for judge, file in JUDGES.items()
    }


def answer(*arguments: Any) -> dict[str, Any]:
    """What a command answers in JSON, without the places of its files on this machine."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json", "-").stdout)
    return {name: value for name, value in found.items() if name not in _PLACES}


def run(*arguments: Any, allowed: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """One command of edgeprune's; a code that is not allowed ends the script."""
    command = [sys.executable, "-m", "edgeprune", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in allowed:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return done
