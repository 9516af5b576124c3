"""Vectors in fewer bytes, as search engines store them: INT8 and single bits."""

from typing import Literal, get_args

import numpy as np

from edgeprune.base.errors import UserError

Precision = Literal["float32", "int8", "ubinary"]
"""The type that a vector's values are stored as."""
_LARGEST = 127


def compact(vectors: np.ndarray, precision: str) -> np.ndarray:
    """Vectors [texts, size] float32, stored otherwise.

    int8: each by its own largest value, [texts, size]: the cosine of two is nearly that of the
    vectors, while their length is lost.
    ubinary: a bit a value, set where that is above zero, eight a byte, the first the highest,
    [texts, size / 8 rounded up] uint8: compared by the number of bits that differ (Hamming).

    Raises:
        UserError: an unknown precision.
    """
    if precision == "float32":
        return vectors
    if precision == "int8":
        largest = np.abs(vectors).max(axis=-1, keepdims=True)
        scaled = vectors * (_LARGEST / np.where(largest > 0, largest, 1))
        return np.rint(scaled).astype(np.int8)
    if precision == "ubinary":
        return np.packbits(vectors > 0, axis=-1)
    known = ", ".join(get_args(Precision))
    raise UserError(f"There are no vectors of {precision!r}: take one of {known}.")
