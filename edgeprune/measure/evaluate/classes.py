"""Classes of a measure's rows: precision, recall and F1 of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Answers:
    """The truth of texts and what was found: of each its class, by number [texts]; or whether it
    has each of several labels [texts, labels].

    A case is a text, or one of the labels of one.
    """

    texts: Sequence[str]
    truth: np.ndarray
    found: np.ndarray

    @property
    def several(self) -> bool:
        """Whether a text has any number of labels."""
        return self.truth.ndim > 1

    @property
    def right(self) -> np.ndarray:
        """Whether each case was found [cases]."""
        return (self.truth == self.found).ravel()

    @property
    def kinds(self) -> np.ndarray:
        """The class of each case: a text's true one, or the label in question [cases]."""
        return np.indices(self.truth.shape)[1].ravel() if self.several else self.truth

    def text_of(self, case: int) -> int:
        """The number of a case's text."""
        return case // self.truth.shape[1] if self.several else case

    def found_in(self, text: int) -> list[int]:
        """The numbers of the classes that were found in a text."""
        one = self.found[text]
        return np.flatnonzero(one).tolist() if self.several else [int(one)]


@dataclass(frozen=True)
class Classes:
    """The classes of a measure.

    names: in the order of their numbers.
    counts: rows (indices, repeated or not) -> how often each class was right, was found, and was
        true, [3, classes].
    answers: where every row is a text.
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
