"""Answers of graphs: arrays that stand in a file until they are compared.

A decoder's logits take 0.2 to 1 MB a token, and several graphs' answers to the same texts wait for
each other; in memory they would outweigh the model.
"""

import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Feed = Mapping[str, np.ndarray]
Outputs = Sequence[Feed]
_PART = 1 << 20


class Kept(Mapping[str, np.ndarray]):
    """Arrays by name, in a temporary file; each is read whenever it is asked for."""

    def __init__(self, values: Feed) -> None:
        # Without a name, so that it cannot outlive the process.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
        for name, value in values.items():
            self._places[name] = self._file.tell(), value.dtype, value.shape
            np.ascontiguousarray(value).tofile(self._file)
        self._file.flush()

    def __getitem__(self, name: str) -> np.ndarray:
        offset, dtype, shape = self._places[name]
        self._file.seek(offset)
        count = int(np.prod(shape, dtype=np.int64))
        return np.fromfile(self._file, dtype, count).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Difference:
    """Of two arrays a and b; NaN anywhere makes it NaN."""

    size: float
    """||a||."""
    apart: float
    """||a - b||."""
    largest: float
    """The largest |a - b|."""

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> "Difference":
        """Computed part by part in float64, so that no copy of a whole array is made."""
        if a.shape != b.shape:
            raise ValueError(f"an output of {a.shape} became one of {b.shape}")
        flat_a, flat_b = a.reshape(-1), b.reshape(-1)
        size = apart = largest = 0.0
        for start in range(0, flat_a.size, _PART):
            part = flat_a[start : start + _PART].astype(np.float64)
            size += float(part @ part)
            part -= flat_b[start : start + _PART]
            apart += float(part @ part)
            largest = float(np.maximum(largest, np.abs(part, out=part).max()))
        return cls(size**0.5, apart**0.5, largest)
