"""The tensors of a stage's folder by name: shapes from the headers, values read when written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgeprune.base.errors import UserError
from edgeprune.model.families import Shape
from edgeprune.model.safetensors_header import read_header

_FLOATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
"""The numpy type of each safetensors type."""


@dataclass(frozen=True)
class _Place:
    """The place of a tensor: its file and offset, with its type and shape."""

    file: Path
    offset: int
    dtype: str
    shape: Shape


class Weights:
    """Tensors in safetensors files. One is in memory while it is read, and no longer."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._places = {
            name: _Place(file, entry["offset"], entry["dtype"], tuple(entry["shape"]))
            for file in files
            for name, entry in read_header(file).items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Tensor name -> shape."""
        return {name: place.shape for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32; mapped from its file where it is stored so.

        Raises:
            UserError: it does not hold floating point numbers.
        """
        place = self._places[name]
        if place.dtype not in _FLOATS:
            raise UserError(
                f"{place.file} holds {name} as {place.dtype}, and weights are read as "
                f"{', '.join(_FLOATS)}: save the model again in one of these."
            )
        stored = np.memmap(
            place.file, np.dtype(_FLOATS[place.dtype]), "r", place.offset, place.shape
        )
        return np.asarray(stored).astype(np.float32, copy=False)

    def tensor(self, name: str, transposed: bool = False) -> ir.LazyTensor:
        """A tensor in float32 for a graph, read each time that it is asked for its values.

        Args:
            transposed: swap its two axes.
        """
        shape = self._places[name].shape

        def read() -> ir.Tensor:
            values = self.read(name)
            return ir.Tensor(np.ascontiguousarray(values.T if transposed else values), name=name)

        turned = shape[::-1] if transposed else shape
        return ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(turned), name=name)
