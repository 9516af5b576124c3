"""A sparse matrix as a file stores it: a mask of blocks, and the blocks.

    mask    uint8 [ceil(N / outputs), ceil(units / 8)]   bit u % 8 of byte u / 8: the block is there
    values  [blocks, outputs, inputs]                    the blocks, row by row of the mask

with units = ceil(K / inputs). A bit per block takes less space than an index per stored block up to
94 % sparsity, and cannot address a block outside the matrix.

A quantized matrix is stored whole, in strips of 16 columns and units of 4 inputs:

    codes        uint8 [ceil(N / 16), ceil(K / 32) * bits, 64]
    multipliers  int8  [ceil(N / 16), ceil(K / group), 16]      of a format with groups

Byte 4 n + i of 64 is column n and input i of a unit, and a code is stored plus 2^(bits - 1); with 4
bits, the low half of a byte belongs to an even unit and the high half to the next one.
"""

from dataclasses import dataclass

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.kernels.formats import (
    FORMATS,
    MOST_MULTIPLIER,
    QUANT_FORMATS,
    Format,
    QuantFormat,
)

STRIP = 16
UNIT = 4
BLOCK = 32


@dataclass(frozen=True)
class Packed:
    """A matrix [K, N], inputs by outputs."""

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
        """Share of the weights that are not stored; blocks at a ragged edge count as whole."""
        blocks = self.mask.shape[0] * -(-self.K // self.format.inputs)
        return 1 - len(self.values) / blocks


def pack(weight: np.ndarray, name: str) -> Packed:
    """Store the blocks of `weight` that are not all zero.

    Args:
        weight: [K, N] (inputs, outputs), of the format's type: codes for int8.
        name: one of FORMATS.

    Raises:
        UserError: no such format, or the weight is not a matrix of the format's type.
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
    """The inverse of `pack`: the matrix [K, N]."""
    form = packed.format
    units = -(-packed.K // form.inputs)
    present = np.unpackbits(packed.mask, axis=1, count=units, bitorder="little").astype(bool)
    blocks = np.zeros((*present.shape, form.outputs, form.inputs), form.dtype)
    blocks[present] = packed.values
    whole = blocks.transpose(1, 3, 0, 2).reshape(units * form.inputs, -1)
    return np.ascontiguousarray(whole[: packed.K, : packed.N])


@dataclass(frozen=True)
class PackedCodes:
    """A quantized matrix [K, N], inputs by outputs, without its scales."""

    format: QuantFormat
    K: int
    N: int
    codes: np.ndarray
    multipliers: np.ndarray | None

    @property
    def bytes(self) -> int:
        return self.codes.nbytes + (0 if self.multipliers is None else self.multipliers.nbytes)


def pack_codes(codes: np.ndarray, multipliers: np.ndarray | None, name: str) -> PackedCodes:
    """Store signed codes in the layout of the quantized operators.

    Args:
        codes: [K, N] (inputs, outputs), int8: -8 to 7 for INT4, -128 to 127 for INT8.
        multipliers: [ceil(K / group), N], int8, -15 to 15; None for a format without groups.
        name: one of QUANT_FORMATS.

    Raises:
        UserError: no such format, another shape or type, a number out of its range, or a column
            whose sums could exceed 32 bits.
    """
    if name not in QUANT_FORMATS:
        raise UserError(
            f"There is no quantized format {name!r}: choose from {', '.join(QUANT_FORMATS)}."
        )
    form = QUANT_FORMATS[name]
    if codes.ndim != 2 or 0 in codes.shape or codes.dtype != np.int8:
        raise UserError(
            f"{name} stores a matrix of int8, inputs by outputs, and this is "
            f"{codes.dtype} {list(codes.shape)}."
        )
    K, N = codes.shape
    if codes.min() < form.lowest or codes.max() >= -form.lowest:
        raise UserError(f"{name} stores codes from {form.lowest} to {-form.lowest - 1}: clip them.")
    _check_multipliers(multipliers, form, K, N)
    blocks = -(-K // BLOCK)
    strips = -(-N // STRIP)
    whole = np.pad(codes, ((0, blocks * BLOCK - K), (0, strips * STRIP - N)))
    stored = (whole.astype(np.int16) - form.lowest).astype(np.uint8)
    units: np.ndarray = stored.reshape(-1, UNIT, strips, STRIP).transpose(2, 0, 3, 1)
    if form.bits == 4:
        units = units[:, 0::2] | units[:, 1::2] << 4
    if multipliers is not None:
        padded = np.pad(multipliers, ((0, 0), (0, strips * STRIP - N)))
        stripped = padded.reshape(-1, strips, STRIP).transpose(1, 0, 2)
        multipliers = np.ascontiguousarray(stripped)
    vectors = np.ascontiguousarray(units).reshape(strips, blocks * form.bits, STRIP * UNIT)
    return PackedCodes(form, K, N, vectors, multipliers)


def _check_multipliers(multipliers: np.ndarray | None, form: QuantFormat, K: int, N: int) -> None:
    # The largest sum of products with activations of -128, whole groups counted.
    inputs = np.array([K])
    if form.group is None:
        if multipliers is not None:
            raise UserError(f"{form.name} has a scale for each column and no multipliers.")
    else:
        expected = (-(-K // form.group), N)
        if multipliers is None or multipliers.shape != expected or multipliers.dtype != np.int8:
            found = "there are none"
            if multipliers is not None:
                found = f"these are {multipliers.dtype} {list(multipliers.shape)}"
            raise UserError(f"{form.name} needs multipliers of int8 {list(expected)}, and {found}.")
        sizes = np.abs(multipliers.astype(np.int64))
        if sizes.max() > MOST_MULTIPLIER:
            raise UserError(
                f"{form.name} stores multipliers from {-MOST_MULTIPLIER} to {MOST_MULTIPLIER}: "
                "move what is beyond into the column's scale."
            )
        inputs = sizes.sum(0) * form.group
    if inputs.max() * 128 * -form.lowest >= 2**31:
        raise UserError(
            f"Sums of {K} inputs in {form.name} can exceed 32 bits: "
            "give the linear fewer inputs or smaller multipliers."
        )


def unpack_codes(packed: PackedCodes) -> tuple[np.ndarray, np.ndarray | None]:
    """The inverse of `pack_codes`: codes [K, N] and multipliers [ceil(K / group), N], int8."""
    strips = packed.codes.shape[0]
    units: np.ndarray = packed.codes.reshape(strips, -1, STRIP, UNIT)
    if packed.format.bits == 4:
        units = np.stack([units & 15, units >> 4], 2).reshape(strips, -1, STRIP, UNIT)
    stored = units.transpose(1, 3, 0, 2).reshape(-1, strips * STRIP)[: packed.K, : packed.N]
    codes = (stored.astype(np.int16) + packed.format.lowest).astype(np.int8)
    if packed.multipliers is None:
        return codes, None
    multipliers = packed.multipliers.transpose(1, 0, 2).reshape(-1, strips * STRIP)
    return codes, np.ascontiguousarray(multipliers[:, : packed.N])


def alternate_halves(packed: PackedCodes) -> PackedCodes:
    """Strips of the columns' halves in turns, each half padded to whole strips: 0, N/2, 16, ...

    So one strip of a gated linear lies beside the one that it multiplies.
    """
    half = packed.N // 2
    if half % STRIP:

        def padded(matrix: np.ndarray) -> np.ndarray:
            halves = [np.pad(part, ((0, 0), (0, -half % STRIP))) for part in np.split(matrix, 2, 1)]
            return np.concatenate(halves, 1)

        codes, multipliers = unpack_codes(packed)
        multipliers = None if multipliers is None else padded(multipliers)
        whole = pack_codes(padded(codes), multipliers, packed.format.name)
    else:
        whole = packed
    order = np.arange(len(whole.codes)).reshape(2, -1).T.ravel()
    multipliers = None if whole.multipliers is None else whole.multipliers[order]
    return PackedCodes(packed.format, packed.K, packed.N, whole.codes[order], multipliers)
