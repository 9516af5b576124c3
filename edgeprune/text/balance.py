"""Rows of labelled text drawn so that rare labels come more often."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from edgeprune.base.budget import apportion

Labels = int | Sequence[int]
"""A text's label, or several: of its words, or all that are true of it."""


def label_counts(labels: Iterable[Labels]) -> dict[int, int]:
    """The number of texts that have each label, in the order of the labels."""
    counts = Counter(label for each in labels for label in _different(each))
    return dict(sorted(counts.items()))


def rarest(labels: Sequence[Labels]) -> np.ndarray:
    """The label of each text that the fewest texts have [texts]; -1 of a text without any."""
    counts = label_counts(labels)
    return np.array(
        [
            min(_different(each), key=lambda label: (counts[label], label), default=-1)
            for each in labels
        ]
    )


def balanced_rows(labels: Sequence[Labels], balance: float, rng: np.random.Generator) -> np.ndarray:
    """As many rows as there are, in random order, repeated or left out by their label.

    A label of n texts gets rows in proportion to n^(1 - balance): as it has texts (0) to every
    label alike (1). No text comes twice before all others of its label came. One with several
    labels counts for its rarest, as in repeat factor sampling (Gupta et al., 2019).
    """
    of_rows = rarest(labels)
    numbers, sizes = np.unique(of_rows, return_counts=True)
    counts = apportion(
        len(of_rows), (sizes.astype(float) ** (1 - balance)).tolist(), lower=[1] * len(sizes)
    )
    drawn = [
        _in_turn(np.flatnonzero(of_rows == number), count, rng)
        for number, count in zip(numbers, counts, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def _in_turn(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of some rows, each as often as any other or once more."""
    rounds = -(-count // len(members))
    return np.concatenate([rng.permutation(members) for _ in range(rounds)])[:count]


def _different(labels: Labels) -> set[int]:
    return {labels} if isinstance(labels, int | np.integer) else set(labels)
