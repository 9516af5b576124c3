"""Similarities of vectors, by the function that a sentence encoder names; the larger the nearer."""

import numpy as np

from edgeprune.model.projection import unit_length
from edgeprune.text.prompts import Similarity


def pairwise(left: np.ndarray, right: np.ndarray, by: Similarity) -> np.ndarray:
    """Of each row with the other's of the same number: [n, size] twice to [n]."""
    if by == "cosine":
        left, right = unit_length(left), unit_length(right)
    if by in ("cosine", "dot"):
        products: np.ndarray = (left * right).sum(axis=1)
        return products
    order = 1 if by == "manhattan" else 2
    distances: np.ndarray = np.linalg.norm(left - right, ord=order, axis=1)
    return -distances


def each_with_each(left: np.ndarray, right: np.ndarray, by: Similarity) -> np.ndarray:
    """Of each row with each of the other's: [n, size] and [m, size] to [n, m]."""
    if by == "cosine":
        left, right = unit_length(left), unit_length(right)
    if by in ("cosine", "dot"):
        products: np.ndarray = left @ right.T
        return products
    # Row by row: all differences at once would be n * m * size numbers.
    return np.stack([pairwise(row[None], right, by) for row in left])
