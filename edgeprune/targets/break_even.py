"""The sparsity from which a sparse linear is faster: a measured table per kind of processor.

`edgeprune calibrate` measures a machine's own (store.py); `benchmarks/break_even.py` one that
ships, which is kept in tables/ under the target's name. A target without one is planned
conservatively: blocks of 4x16, from a sparsity at which they take at most half of dense INT8's
instructions on every set that the operators are compiled for; and no time is predicted.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.targets.table import nearest, read_table, table_file

FOLDER = Path(__file__).parent / "tables"
UNMEASURED_FORMAT, UNMEASURED_FROM = "int8-4x16", 0.75
# Interpolated shapes differ from measured ones by about this factor.
_LEAST_GAIN = 1.05


@dataclass(frozen=True)
class Point:
    """Times of one shape at one number of rows, in microseconds."""

    inputs: int
    outputs: int
    rows: int
    dense_int8: float
    sparse: Mapping[str, tuple[tuple[float, float], ...]]
    """Format -> (sparsity, microseconds), sparsity rising."""


@dataclass(frozen=True)
class Choice:
    """A table's answer for one linear."""

    format: str
    """The fastest sparse format, by its name in kernels/formats.py."""
    sparsity: float
    """Share of its blocks that are removed."""
    microseconds: float | None
    """Predicted; None where the target is unmeasured."""
    dense_microseconds: float | None
    """Predicted for dense INT8."""


@dataclass(frozen=True)
class BreakEven:
    """One target's table; no points where it is unmeasured."""

    points: tuple[Point, ...] = ()
    evidence: str = "unmeasured"

    def choose(
        self, sparsities: Mapping[str, float], inputs: int, outputs: int, rows: int
    ) -> Choice | None:
        """The sparse format for a linear of [inputs, outputs], or None where dense INT8 is right.

        Args:
            sparsities: by format, the share of the weight's blocks that are all zero.
            rows: batch times tokens.
        """
        if not self.points:
            sparsity = sparsities.get(UNMEASURED_FORMAT, 0.0)
            enough = sparsity >= UNMEASURED_FROM
            return Choice(UNMEASURED_FORMAT, sparsity, None, None) if enough else None
        point, scale = nearest(self.points, inputs, outputs, rows)
        found = [
            Choice(name, sparsity, time * scale, point.dense_int8 * scale)
            for name, sparsity in sparsities.items()
            if (time := _between(point.sparse.get(name, ()), sparsity)) is not None
            and point.dense_int8 >= time * _LEAST_GAIN
        ]
        return min(found, key=lambda choice: choice.microseconds or 0.0, default=None)


def break_even(target: str) -> BreakEven:
    """The table of a target, by its name: this machine's own where there is one."""
    file = table_file(FOLDER, target)
    return BreakEven() if file is None else read_table(file, from_json)


def from_json(content: Mapping[str, Any]) -> BreakEven:
    """The table that search/times/break_even.py measured."""
    points = tuple(
        Point(
            entry["inputs"],
            entry["outputs"],
            entry["rows"],
            entry["dense_int8_us"],
            {name: tuple(map(tuple, line)) for name, line in entry["sparse_us"].items()},
        )
        for entry in content["points"]
    )
    machine = content["machine"]
    evidence = f"{len(points)} shapes, {content['instruction_set']}, {machine['processor']}"
    return BreakEven(points, f"{evidence}, ONNX Runtime {machine['onnxruntime']}")


def _between(line: tuple[tuple[float, float], ...], sparsity: float) -> float | None:
    """The time at a sparsity, on the straight line between its neighbours; None below the first."""
    if not line or sparsity < line[0][0]:
        return None
    for (low, before), (high, after) in itertools.pairwise(line):
        if sparsity <= high:
            return before + (after - before) * (sparsity - low) / (high - low)
    return line[-1][1]
