"""Sentence similarity: how well cosines of embeddings order pairs as people did."""

from pathlib import Path

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.evaluate.result import Quality
from edgeprune.runtime.embed import Embedder, normalize
from edgeprune.text.files import number_of, read_rows, text_of


def sts(bundle: Bundle, data: Path, limit: int | None = None) -> Quality:
    """Spearman's rank correlation, times 100, of the embeddings' cosine with the pairs' scores.

    `data` has rows with `text`, `text_pair` and `score`.
    """
    rows = read_rows(data, ["text", "text_pair", "score"], limit)
    left = [text_of(row, "text", data) for row in rows]
    right = [text_of(row, "text_pair", data) for row in rows]
    scores = np.array([number_of(row, "score", data) for row in rows])
    if len(set(scores)) < 2:
        raise UserError(f"{data}: all scores are the same, so that no order can be compared.")
    vectors = normalize(Embedder(bundle).embed([*left, *right]))
    cosines = (vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1)
    return Quality({"spearman": 100 * spearman(cosines, scores)}, {"pairs": len(rows)})


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation of two lists [n]; ties take the mean of their ranks.

    NaN where one of them is constant.
    """
    left, right = mean_ranks(left), mean_ranks(right)
    left, right = left - left.mean(), right - right.mean()
    norm = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / norm) if norm else float("nan")


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value from 1, equal values sharing the mean of their ranks: [n] float64."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]
