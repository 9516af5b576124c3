"""The header of a GGUF file, read without its library.

That one makes an object of every token of the vocabulary, which takes it 20 seconds for a large
one; here lists of text are passed over.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError

_SCALARS = dict(enumerate("BbHhIif?", start=0)) | {10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9
_VERSIONS = (2, 3)
_MOST_KEPT = 1024
"""Entries of a list that is kept; longer ones are vocabularies."""
# Weights and bytes of a block, by ggml's number of a type.
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    30: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
}


@dataclass(frozen=True)
class GgufHeader:
    """Settings, and the shape of each tensor as torch has it: (outputs, inputs)."""

    settings: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def read_gguf_header(path: Path) -> GgufHeader:
    """Settings and shapes of a GGUF file, all little-endian: "GGUF", its version, how many tensors
    and settings it has, the settings, and where each tensor is.

    Raises:
        UserError: the file is truncated, or is not GGUF of version 2 or 3.
    """
    damaged = UserError(f"{path} is not a whole GGUF file: copy it again.")
    if path.stat().st_size == 0:
        raise damaged
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        try:
            magic, version, tensors, settings = reader.take("4sIQQ")
            if magic != b"GGUF" or version not in _VERSIONS:
                raise damaged
            found = dict(reader.setting() for _ in range(settings))
            places = [reader.tensor() for _ in range(tensors)]
        except (struct.error, ValueError, LookupError, OverflowError, RecursionError):
            raise damaged from None
        start = _aligned(reader.at, found.get("general.alignment", 32))
        if any(start + offset + size > len(data) for _, _, offset, size in places):
            raise damaged
    return GgufHeader(found, {name: shape for name, shape, _, _ in places})


class _Reader:
    """Reads on from a place in bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        start, self.at = self.at, self.at + length
        return self.data[start : self.at].decode("utf-8", "replace")

    def setting(self) -> tuple[str, Any]:
        name = self.text()
        (kind,) = self.take("I")
        return name, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _LIST:
            return self.list()
        return self.take(_SCALARS[kind])[0]

    def list(self) -> list[Any] | None:
        """A short list; None for one that was passed over."""
        kind, count = self.take("IQ")
        if count <= _MOST_KEPT:
            return [self.value(kind) for _ in range(count)]
        if kind in _SCALARS:
            self.at += count * struct.calcsize(_SCALARS[kind])
            return None
        if kind != _STRING:
            raise ValueError(f"a long list of type {kind}")
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", self.data, self.at)
            self.at += 8 + length
        return None

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, offset in the file's data and bytes (0 where the type is not known)."""
        name = self.text()
        (dimensions,) = self.take("I")
        lengths = self.take(f"{dimensions}Q")
        kind, offset = self.take("IQ")
        weights, size = _BLOCKS.get(kind, (1, 0))
        return name, lengths[::-1], offset, math.prod(lengths) // weights * size


def _aligned(place: int, alignment: Any) -> int:
    return -(-place // alignment) * alignment if isinstance(alignment, int) and alignment else place
