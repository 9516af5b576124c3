"""The header of a safetensors file, read without its library."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError

_SAFETENSORS_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}
_MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Shape, dtype, bytes and place in the file of each tensor of a safetensors file, in the file's
    order.

    Only the header is read: 8 bytes that say its length, little-endian, and then JSON.

    Raises:
        UserError: the file is truncated, or is not safetensors.
    """
    damaged = UserError(f"{path} is not a whole safetensors file: copy it again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise damaged
        try:
            header = json.loads(file.read(length))
            tensors: dict[str, dict[str, Any]] = {
                name: {
                    "shape": [int(n) for n in entry["shape"]],
                    "dtype": str(entry["dtype"]),
                    "bytes": int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                    "offset": 8 + length + int(entry["data_offsets"][0]),
                }
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError, RecursionError):
            raise damaged from None
    for entry in tensors.values():
        bits = _SAFETENSORS_BITS.get(entry["dtype"])
        if bits and math.prod(entry["shape"]) * bits != entry["bytes"] * 8:
            raise damaged
    if sum(entry["bytes"] for entry in tensors.values()) > size - 8 - length:
        raise damaged
    return tensors
