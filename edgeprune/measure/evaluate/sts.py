"""Sentence similarity: how well similarities of embeddings order pairs as people did."""

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality
from edgeprune.measure.evaluate.similarity import pairwise
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder
from edgeprune.text.files import number_of, text_of


def sts(bundle: Bundle, data: Data) -> Quality:
    """Spearman's rank correlation, times 100, of the embeddings' similarity with the pairs' scores,
    by the function that the model names: cosine, where it names none.

    `data` has rows with `text`, `text_pair` and `score`.
    """
    rows = data.rows(["text", "text_pair", "score"])
    left = [text_of(row, "text", data.place) for row in rows]
    right = [text_of(row, "text_pair", data.place) for row in rows]
    scores = np.array([number_of(row, "score", data.place) for row in rows])
    if len(set(scores)) < 2:
        raise UserError(f"{data.place}: all scores are the same, so that no order can be compared.")
    vectors, by = Embedder(bundle).embed([*left, *right]), bundle.library.similarity
    similarities = pairwise(vectors[: len(rows)], vectors[len(rows) :], by)
    if len(set(similarities)) < 2:
        raise UserError(
            f"{bundle.folder} gives all pairs of {data.place} the same {by}, so that no order "
            "can be compared; see whether their texts are empty."
        )
    return Quality(
        {by: similarities, "score": scores},
        lambda found: {"spearman": 100 * spearman(found[by], found["score"])},
        {"pairs": len(rows)},
        data.groups(rows),
    )


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
