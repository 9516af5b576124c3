"""A benchmark's results: a line of JSON each, under a name, so that an interrupted run goes on."""

import json
from pathlib import Path
from typing import Any


def read_results(path: Path) -> dict[str, Any]:
    """Name -> result of what is there."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def ratio_text(ratio: dict[str, float]) -> str:
    """How many times faster, with its 95 % interval."""
    return f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"


def add_result(path: Path, result: dict[str, Any]) -> None:
    """Write one more line; `result` has a "name"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(result) + "\n")
