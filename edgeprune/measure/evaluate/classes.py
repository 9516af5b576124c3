"""Classes of a measure's rows: precision, recall and F1 of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answers:
    """Texts of one class each: the true one and the one that was found, by number [texts]."""

    texts: Sequence[str]
    truth: np.ndarray
    found: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each was found [texts]."""
        return self.truth == self.found


@dataclass(frozen=True)
class Classes:
    """The classes of a measure.

    names: in the order of their numbers.
    counts: rows (indices, repeated or not) -> how often each class was right, was found, and was
        true, [3, classes].
    answers: where every row is a text of one class.
    """

    names: Sequence[str]
    counts: Callable[[np.ndarray], np.ndarray]
    answers: Answers | None = None

    @classmethod
    def of(cls, names: Sequence[str], answers: Answers) -> "Classes":
        """The classes of texts of one each."""

        def counts(rows: np.ndarray) -> np.ndarray:
            truth, found = answers.truth[rows], answers.found[rows]
            each = (truth[truth == found], found, truth)
            return np.array([np.bincount(some, minlength=len(names)) for some in each])

        return cls(names, counts, answers)


def f1_precision_recall(counts: np.ndarray) -> np.ndarray:
    """Each class's F1, precision and recall, times 100: [3, classes].

    2 right / (found + true), right / found and right / true; 0 where that divides by none, as
    scikit-learn has it.

    Args:
        counts: right, found and true, [3, classes].
    """
    right, found, true = counts
    shares: np.ndarray = np.array([2 * right, right, right]) / np.maximum(
        [found + true, found, true], 1
    )
    return 100 * shares
