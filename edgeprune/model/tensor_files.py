"""The tensors of a model on disk by name: shapes from the headers, values read when asked for.

They lie in safetensors files, or, where a folder holds TENSORS, wherever that says: a stage of a
streamed model (streamed.py) writes what it changed and names the rest where it lies. There a tensor
may also be stored as integers with their scales, and is read at the values that these stand for.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_json
from edgeprune.model.family import Shape
from edgeprune.model.safetensors_header import read_header

TENSORS = "tensors.json"
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""The numpy type by which each safetensors type is read; of BF16 the upper half of a float32."""
_INTEGERS = {"I8": np.int8, "U8": np.uint8}
CODES, SCALES, ZERO_POINTS = "codes", "scales", "zero_points"
"""Names in the file of a tensor that is stored as integers: (rows, columns), and (rows,) or
(rows, groups)."""


@dataclass(frozen=True)
class Part:
    """A tensor within one that is fused, stacked or transposed."""

    number: int | None = None
    """Along a first axis, that of a stack."""
    turned: bool = False
    """Stored as (inputs, outputs)."""
    heads: int = 1
    """The number of times that the rows of all parts follow each other."""
    rows: tuple[int, int] | None = None
    """First and last but one row in each of these; None: all."""

    def of(self, stored: np.ndarray) -> np.ndarray:
        """The tensor, perhaps as a view."""
        whole = stored if self.number is None else stored[self.number]
        whole = whole.T if self.turned else whole
        if self.rows is None:
            return whole
        apart = whole.reshape(self.heads, -1, *whole.shape[1:])[:, slice(*self.rows)]
        return apart.reshape(-1, *whole.shape[1:])


@dataclass(frozen=True)
class Place:
    """The file that holds a tensor, and its name there."""

    file: Path
    name: str = CODES
    part: Part | None = None
    """Which part of what is stored, where that is more than this tensor."""
    integers: bool = False
    """The file holds its codes, scales and, of groups, zero points."""
    group: int | None = None
    """Columns that share a scale; None: the whole row."""


@dataclass(frozen=True)
class _Stored:
    """The place in a file where the values of one tensor begin."""

    file: Path
    offset: int
    dtype: str
    shape: Shape

    def read(self, kinds: Mapping[str, Any]) -> np.ndarray:
        return np.memmap(self.file, np.dtype(kinds[self.dtype]), "r", self.offset, self.shape)


class TensorFiles:
    """Tensors in files. One is in memory while it is read, and no longer."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places: dict[str, Place] = {}
        self._headers: dict[Path, dict[str, _Stored]] = {}
        for name, place in places.items():
            self.put(name, place)

    @classmethod
    def of(cls, files: Iterable[Path]) -> Self:
        """All tensors of safetensors files, under their own names."""
        return cls({name: Place(file, name) for file in files for name in read_header(file)})

    @classmethod
    def listed(cls, folder: Path) -> Self:
        """Read what `write_list` wrote.

        Raises:
            UserError: a file that is named is gone, or was changed since.
        """
        content = read_json(folder / TENSORS)
        for name, known in content["files"].items():
            file = folder / name
            if not file.is_file() or _stamp(file) != known:
                raise UserError(
                    f"{file} was removed or changed since {folder} was written, which reads it: "
                    "build again with --fresh."
                )
        places = {name: _place(place, folder) for name, place in content["tensors"].items()}
        return cls(places)

    def write_list(self, folder: Path, build: Path) -> None:
        """Write into `folder` where each tensor lies; by relative paths what lies in `build`."""
        files: dict[str, Any] = {}
        tensors = {}
        for name, place in self._places.items():
            inside = place.file.is_relative_to(build)
            path = os.path.relpath(place.file, folder) if inside else str(place.file.resolve())
            files[path] = _stamp(place.file)
            tensors[name] = {**asdict(place), "file": path}
        text = json.dumps({"files": files, "tensors": tensors}, indent=1)
        (folder / TENSORS).write_text(text)

    def put(self, name: str, place: Place) -> None:
        """Say where a tensor lies from now on."""
        self._headers.pop(place.file, None)  # it may have been written anew
        self._places[name] = place

    def place(self, name: str) -> Place:
        """The place of a tensor."""
        return self._places[name]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Tensor name -> shape."""
        return {name: self.shape(name) for name in self}

    @property
    def files(self) -> list[Path]:
        """The files that hold them."""
        return list(dict.fromkeys(place.file for place in self._places.values()))

    def shape(self, name: str) -> Shape:
        """A tensor's shape."""
        part, shape = self._places[name].part, self._stored(name).shape
        return shape if part is None else part.of(np.broadcast_to(np.int8(0), shape)).shape

    def dtype(self, name: str) -> str:
        """The type of a tensor's values as safetensors calls it, "F32" where they are integers."""
        return "F32" if self._places[name].integers else self._stored(name).dtype

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32; mapped from its file where it is stored so.

        Raises:
            UserError: it does not hold floating point numbers.
        """
        place, stored = self._places[name], self._stored(name)
        if place.integers:
            return self._dequantized(place)
        if stored.dtype not in _FLOATS:
            raise UserError(
                f"{stored.file} holds {name} as {stored.dtype}, and weights are read as "
                f"{', '.join(_FLOATS)}: save the model again in one of these."
            )
        values = np.asarray(stored.read(_FLOATS))
        if place.part is not None:
            values = np.ascontiguousarray(place.part.of(values))
        if stored.dtype == "BF16":
            wide = values.astype(np.uint32)
            return np.left_shift(wide, 16, out=wide).view(np.float32)
        return values.astype(np.float32, copy=False)

    def _dequantized(self, place: Place) -> np.ndarray:
        """codes * scales of a row, or (codes - zero_points) * scales of a row's groups."""
        header = self._header(place.file)
        codes = np.asarray(header[CODES].read(_INTEGERS))
        scales = np.asarray(header[SCALES].read(_FLOATS))
        if place.group is None:
            return codes.astype(np.float32) * scales[:, None]
        zeros = np.asarray(header[ZERO_POINTS].read(_INTEGERS))
        wide = (
            np.repeat(each, place.group, axis=1)[:, : codes.shape[1]] for each in (zeros, scales)
        )
        zero, scale = wide
        values = codes.astype(np.float32)
        values -= zero
        values *= scale
        return values

    def _stored(self, name: str) -> _Stored:
        place = self._places[name]
        return self._header(place.file)[place.name]

    def _header(self, file: Path) -> dict[str, _Stored]:
        if file not in self._headers:
            self._headers[file] = {
                name: _Stored(file, entry["offset"], entry["dtype"], tuple(entry["shape"]))
                for name, entry in read_header(file).items()
            }
        return self._headers[file]


def _place(listed: dict[str, Any], folder: Path) -> Place:
    """A place as `write_list` wrote it."""
    part = listed["part"]
    if part is not None:
        part = Part(**{**part, "rows": part["rows"] and tuple(part["rows"])})
    return Place(**{**listed, "file": folder / listed["file"], "part": part})


def _stamp(file: Path) -> list[int]:
    """The bytes of a file, and when they were last written: these change with its content."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]
