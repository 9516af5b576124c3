"""Builds whose measuring is the benchmark's own work."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_BARELY_MEASURED = (
    "measure.seconds=1",
    "measure.profile=false",
    "measure.curve=[]",
    "measure.stages=false",
)


def build_once(
    recipe: str, output: Path, overrides: Iterable[str] = (), options: Iterable[str] = ()
) -> Path:
    """`edgeprune build` into a folder, unless it is there whole; the folder.

    Args:
        overrides: `--set`, each.
        options: the command's other options.
    """
    if not (output / "report.json").exists():
        command = [sys.executable, "-m", "edgeprune", "build", recipe, "--output", str(output)]
        command += options
        for override in (*_BARELY_MEASURED, *overrides):
            command += ["--set", override]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{output.name}: the build failed")
    return output
