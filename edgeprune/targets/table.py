"""Tables of measured times: a JSON file per kind of processor, a point per shape."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgeprune.base.files import read_json


class Shaped(Protocol):
    """A measurement of a linear of [inputs, outputs] at a number of rows."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def rows(self) -> int: ...


P = TypeVar("P", bound=Shaped)


def nearest(points: Sequence[P], inputs: int, outputs: int, rows: int) -> tuple[P, float]:
    """The point with the nearest number of rows, then of the nearest size; and the factor between
    its multiplications and those asked for."""

    def distance(point: P) -> tuple[float, float]:
        size = point.inputs * point.outputs / (inputs * outputs)
        return abs(math.log(point.rows / rows)), abs(math.log(size))

    point = min(points, key=distance)
    return point, inputs * outputs * rows / (point.inputs * point.outputs * point.rows)


def read_table(folder: Path, target: str) -> dict[str, Any] | None:
    """A target's table; None where the target is unmeasured."""
    file = folder / f"{target}.json"
    return read_json(file) if file.is_file() else None


def write_table(content: Mapping[str, Any], folder: Path, output: Path | None = None) -> Path:
    """Write a table, which names its "target", to `output` or its place in `folder`."""
    output = output or folder / f"{content['target']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return output
