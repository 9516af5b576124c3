"""Rows drawn so that rare labels and languages come more often."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.base.budget import apportion

Truth = int | float | Sequence[int] | Sequence[float] | Sequence[tuple[int, int]]
"""A text's label; one of each of its words; a 1.0 for each label that is true of it and a 0.0 for
each other; a score; or the parts of it that answer a question."""


@dataclass(frozen=True)
class Evened:
    """A kind for each row [rows], and how far kinds are evened out.

    One of n rows gets draws in proportion to n^(1 - balance): as it has rows (0) to every kind
    alike (1).
    """

    kinds: np.ndarray
    balance: float


def balanced_rows(count: int, by: Sequence[Evened], rng: np.random.Generator) -> np.ndarray:
    """As many of `count` rows as there are, in random order, repeated or left out by their kinds.

    No row comes twice before all others of its kind came.

    Args:
        by: kinds of the rows, and of those the kinds within each; nothing: every row once.
    """
    return rng.permutation(_drawn(np.arange(count), count, by, rng))


def rounds(
    count: int, by: Sequence[Evened], size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Rows without end, at most `size` at a time: all of them in random order, and again in another
    (see `balanced_rows`)."""
    while True:
        order = balanced_rows(count, by, rng)
        for start in range(0, count, size):
            yield order[start : start + size]


def label_counts(labels: Iterable[Truth]) -> dict[int, int]:
    """The number of texts that have each label, in the order of the labels; none of scores
    and answers."""
    counts = Counter(label for each in labels for label in labels_of(each))
    return dict(sorted(counts.items()))


def rarest(labels: Sequence[Truth]) -> np.ndarray:
    """The label of each text that the fewest texts have [texts]; -1 of a text without any.

    By these a text with several labels is drawn, as in repeat factor sampling (Gupta et al.,
    2019).
    """
    counts = label_counts(labels)
    return np.array(
        [
            min(labels_of(each), key=lambda label: (counts[label], label), default=-1)
            for each in labels
        ]
    )


def shares(sizes: Sequence[int], balance: float) -> list[float]:
    """The weights of kinds of so many rows, as `Evened` says."""
    return [float(size) ** (1 - balance) for size in sizes]


def _drawn(
    rows: np.ndarray, count: int, by: Sequence[Evened], rng: np.random.Generator
) -> np.ndarray:
    """`count` of some rows."""
    if not by:
        rounds = -(-count // len(rows))
        return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]
    kinds, sizes = np.unique(by[0].kinds[rows], return_counts=True)
    lower = [min(1, count // len(kinds))] * len(kinds)
    counts = apportion(count, shares(sizes.tolist(), by[0].balance), lower=lower)
    return np.concatenate(
        [
            _drawn(rows[by[0].kinds[rows] == kind], many, by[1:], rng)
            for kind, many in zip(kinds, counts, strict=True)
            if many
        ]
    )


def labels_of(truth: Truth) -> set[int]:
    """The different labels of a text; scores and answers have none."""
    if isinstance(truth, int | np.integer):
        return {int(truth)}
    if isinstance(truth, float):
        return set()
    if any(isinstance(value, float) for value in truth):
        return {number for number, value in enumerate(truth) if value}
    return {int(label) for label in truth if not isinstance(label, tuple)}
