"""Tables of measured times: a JSON file per kind of processor, a point per shape."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_json
from edgeprune.targets import store


class Shaped(Protocol):
    """A measurement of a linear of [inputs, outputs] at a number of rows."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def rows(self) -> int: ...


P = TypeVar("P", bound=Shaped)
T = TypeVar("T")
_THREADS = 1
"""Threads of what these tables hold times of."""


def nearest(points: Sequence[P], inputs: int, outputs: int, rows: int) -> tuple[P, float]:
    """The point with the nearest number of rows, then of the nearest size; and the factor between
    its multiplications and those asked for."""

    def distance(point: P) -> tuple[float, float]:
        size = point.inputs * point.outputs / (inputs * outputs)
        return abs(math.log(point.rows / rows)), abs(math.log(size))

    point = min(points, key=distance)
    return point, inputs * outputs * rows / (point.inputs * point.outputs * point.rows)


def own_table(folder: Path, target: str) -> Path | None:
    """The table of a target that was measured on this machine, which is one; None where it was
    not."""
    if not store.times_folder().is_dir():  # asking the processor takes seconds
        return None
    file = store.place(folder.name, target, store.facts(_THREADS))
    return file if file.is_file() else None


def table_file(folder: Path, target: str) -> Path | None:
    """A target's table: this machine's own, or the one that ships; None where it is unmeasured.

    Args:
        folder: of those that ship; their kind, in the store, has its name.
    """
    shipped = folder / f"{target}.json"
    return own_table(folder, target) or (shipped if shipped.is_file() else None)


def read_table(file: Path, read: Callable[[dict[str, Any]], T]) -> T:
    """The content of a table's file; read once, until it is written anew."""
    stat = file.stat()
    known: T = _read(file, stat.st_mtime_ns, stat.st_size, read)
    return known


@functools.cache
def _read(file: Path, written: int, size: int, read: Callable[[dict[str, Any]], Any]) -> Any:
    try:
        return read(read_json(file))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}): remove it, or measure it again with `edgeprune "
            "calibrate`."
        ) from None


def keep_table(content: Mapping[str, Any], folder: Path) -> Path:
    """Write a table, which names its "target", as this machine's own; returns its file.

    Raises:
        UserError: nothing may be written there.
    """
    return store.keep(content, folder.name, content["target"], store.facts(_THREADS))


def write_table(content: Mapping[str, Any], folder: Path, output: Path | None = None) -> Path:
    """Write a table, which names its "target", to `output` or its place in `folder`."""
    output = output or folder / f"{content['target']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return output
