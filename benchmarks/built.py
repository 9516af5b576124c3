"""Builds whose measuring is the benchmark's own work."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.measures import evaluate

_KEPT = ("conditions", "values", "original", "difference", "difference_interval")

_BARELY_MEASURED = (
    "measure.seconds=1",
    "measure.launches=1",
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


def speed_row(name: str, output: Path, seconds: float) -> dict[str, Any]:
    """A result's line: the speed of a build's bundle beside its original's."""
    return {"name": name, "speed": speed_beside(output / "bundle", output / "original", seconds)}


def quality_row(name: str, output: Path, measure: str, data: Path) -> dict[str, Any]:
    """A result's line: a measure of a build's bundle beside its original's, on a file or folder."""
    return {"name": name, **quality_beside(output / "bundle", output / "original", measure, data)}


def speed_beside(candidate: Path, baseline: Path, seconds: float) -> dict[str, Any]:
    """The speed of one model beside another, interleaved."""
    speed = compare(candidate, baseline, BenchSettings(time_limit=seconds)).to_json()
    for side in ("candidate", "baseline"):
        speed[side]["name"] = side  # not where it lies on this machine
    return speed


def quality_beside(candidate: Path, baseline: Path, measure: str, data: Path) -> dict[str, Any]:
    """A measure of one model beside another, on a file or folder."""
    found = evaluate(candidate, measure, data, against=baseline).to_json()
    return {key: found[key] for key in _KEPT if key in found}
