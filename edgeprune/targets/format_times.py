"""Times of a dense linear in each format: a measured table per kind of processor.

`edgeprune calibrate` measures a machine's own (store.py); `benchmarks/format_times.py` one that
ships, which is kept in format_times/ under the target's name. A target without one predicts
nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.targets.table import nearest, read_table, table_file

FOLDER = Path(__file__).parent / "format_times"


@dataclass(frozen=True)
class Point:
    """Microseconds of one shape at one number of rows, by format ("int8", "int4-32")."""

    inputs: int
    outputs: int
    rows: int
    times: Mapping[str, float]


@dataclass(frozen=True)
class FormatTimes:
    """One target's table; no points where it is unmeasured."""

    points: tuple[Point, ...] = ()
    evidence: str = "unmeasured"

    def microseconds(self, form: str, inputs: int, outputs: int, rows: int) -> float | None:
        """The time of a linear of [inputs, outputs] in a format; None where that is unmeasured.

        It is the nearest point's time, scaled by the number of multiplications.
        """
        points = [point for point in self.points if form in point.times]
        if not points:
            return None
        point, scale = nearest(points, inputs, outputs, rows)
        return point.times[form] * scale


def form_name(weights: str, group: int | None) -> str:
    """The tables' name of a plan's format."""
    return weights if group is None else f"{weights}-{group}"


def format_times(target: str) -> FormatTimes:
    """The table of a target, by its name: this machine's own where there is one."""
    file = table_file(FOLDER, target)
    return FormatTimes() if file is None else read_table(file, from_json)


def from_json(content: Mapping[str, Any]) -> FormatTimes:
    """The table that search/times/formats.py measured."""
    points = tuple(
        Point(entry["inputs"], entry["outputs"], entry["rows"], dict(entry["us"]))
        for entry in content["points"]
    )
    machine = content["machine"]
    evidence = f"{len(points)} shapes, {machine['processor']}"
    return FormatTimes(points, f"{evidence}, ONNX Runtime {machine['onnxruntime']}")
