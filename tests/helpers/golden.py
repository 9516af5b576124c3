"""Golden files: what an output was when somebody last looked at it and found it right."""

import difflib
import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "golden"
RENEW = "EDGEPRUNE_RENEW_GOLDEN"
"""The variable under which golden files are written instead of compared; `make golden` sets it."""


def compare_text(name: str, text: str) -> None:
    """Compare a whole file, or write it."""
    file = FOLDER / name
    if os.environ.get(RENEW):
        file.write_text(text, encoding="utf-8")
    _compare(file, file.read_text(encoding="utf-8") if file.exists() else "", text)


def compare_entries(name: str, entries: dict[str, Any]) -> None:
    """Compare some entries of a JSON file, or write them and leave the others."""
    file = FOLDER / name
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if os.environ.get(RENEW):
        kept = dict(sorted((kept | entries).items()))
        file.write_text(_lines(kept), encoding="utf-8")
    _compare(file, _lines({key: kept.get(key) for key in entries}), _lines(entries))


def _lines(entries: dict[str, Any]) -> str:
    """JSON with a line an entry."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compare(file: Path, golden: str, found: str) -> None:
    if golden != found:
        names = (f"golden/{file.name}", "found")
        diff = difflib.unified_diff(golden.splitlines(), found.splitlines(), *names, "", "", 1, "")
        pytest.fail("\n".join([*diff, "If that is meant: make golden"]), pytrace=False)
