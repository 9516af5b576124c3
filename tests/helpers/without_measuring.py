"""Builds whose measuring, card and report are left out: an old build's record stands for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.measure.record import Measured

_OLD = Path(__file__).parents[1] / "fixtures" / "first_release" / "encoder" / "report.json"
MEASURED = Measured.model_validate(json.loads(_OLD.read_text(encoding="utf-8"))["stages"][-1])


def leave_out_measuring(
    monkeypatch: pytest.MonkeyPatch, measure: Callable[..., Measured] = lambda *_: MEASURED
) -> None:
    """Let builds call `measure` in place of the measure stage, and write no card or report."""
    finish: dict[str, Any] = {
        "missed": lambda *_: [],
        "model_card": lambda _bundle: "A card.",
        "write_report": lambda output, _facts: output / "report.html",
    }
    monkeypatch.setattr("edgeprune.pipeline.measure.stage.run", measure)
    for name, instead in finish.items():
        monkeypatch.setattr(f"edgeprune.pipeline.finish.{name}", instead)
