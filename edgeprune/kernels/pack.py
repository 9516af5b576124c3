"""A sparse matrix as a file stores it: a mask of blocks, and the blocks.

    mask    uint8 [ceil(N / outputs), ceil(units / 8)]   bit u % 8 of byte u / 8: the block is there
    values  [blocks, outputs, inputs]                    the blocks, row by row of the mask

with units = ceil(K / inputs). A bit per place is less than an index per block up to 94 % sparsity,
and can name no block outside of the matrix.
"""

from dataclasses import dataclass

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.kernels.formats import FORMATS, Format


@dataclass(frozen=True)
class Packed:
    """A matrix of [K, N], inputs by outputs."""

    format: Format
    K: int
    N: int
    mask: np.ndarray
    values: np.ndarray

    @property
    def bytes(self) -> int:
        return self.mask.nbytes + self.values.nbytes

    @property
    def sparsity(self) -> float:
        """Share of the weights that are not stored, blocks at a ragged edge counted whole."""
        places = self.mask.shape[0] * -(-self.K // self.format.inputs)
        return 1 - len(self.values) / places


def pack(weight: np.ndarray, name: str) -> Packed:
    """Store the blocks of `weight` that are not all zero.

    Args:
        weight: [K, N] (inputs, outputs), of the format's type: codes for int8.
        name: one of FORMATS.

    Raises:
        UserError: no such format, or the weight is not a matrix of its type.
    """
    if name not in FORMATS:
        raise UserError(f"There is no sparse format {name!r}: choose from {', '.join(FORMATS)}.")
    form = FORMATS[name]
    if weight.ndim != 2 or 0 in weight.shape or weight.dtype != form.dtype:
        raise UserError(
            f"{name} stores a matrix of {form.dtype}, inputs by outputs, and this is "
            f"{weight.dtype} {list(weight.shape)}."
        )
    inputs, outputs = weight.shape
    padding = ((0, -inputs % form.inputs), (0, -outputs % form.outputs))
    whole = np.pad(weight, padding)
    units, rows = whole.shape[0] // form.inputs, whole.shape[1] // form.outputs
    blocks = whole.reshape(units, form.inputs, rows, form.outputs).transpose(2, 0, 3, 1)
    present = blocks.any(axis=(2, 3))
    mask = np.packbits(present, axis=1, bitorder="little")
    return Packed(form, inputs, outputs, mask, np.ascontiguousarray(blocks[present]))


def unpack(packed: Packed) -> np.ndarray:
    """The matrix [K, N] again."""
    form = packed.format
    units = -(-packed.K // form.inputs)
    present = np.unpackbits(packed.mask, axis=1, count=units, bitorder="little").astype(bool)
    blocks = np.zeros((*present.shape, form.outputs, form.inputs), form.dtype)
    blocks[present] = packed.values
    whole = blocks.transpose(1, 3, 0, 2).reshape(units * form.inputs, -1)
    return np.ascontiguousarray(whole[: packed.K, : packed.N])
