"""Find all labels of texts with a bundle."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeprune.model.scores import sigmoid
from edgeprune.runtime.classify import SequenceModel
from edgeprune.runtime.tokenize import Text

THRESHOLD = 0.5
"""The least probability of a label that a text is said to have."""


@dataclass(frozen=True)
class Labels:
    """The labels of at least half a probability, the likeliest first, and every label's
    probability."""

    labels: list[str]
    probabilities: dict[str, float]


class MultiLabelClassifier(SequenceModel):
    """A classifier whose texts have any number of labels."""

    def classify(self, texts: Sequence[Text], batch_size: int | None = None) -> list[Labels]:
        """The labels of each text.

        Raises:
            ModelFault: the model returns NaN or infinity.
        """
        return self._found(self.logits(texts, batch_size))

    def _found(self, logits: np.ndarray) -> list[Labels]:
        found = []
        for row in self.scaled(logits):
            by_label = {label: float(p) for label, p in zip(self.labels, row, strict=True)}
            likely = sorted(by_label, key=lambda label: -by_label[label])
            found.append(Labels([each for each in likely if by_label[each] >= THRESHOLD], by_label))
        return found

    def scaled(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, of each label by itself."""
        return sigmoid(logits)

    def told(self, logits: np.ndarray) -> list[Any]:
        """Labels."""
        return [asdict(one) for one in self._found(logits)]

    def line(self, answer: dict[str, Any]) -> str:
        """The labels with their probabilities."""
        by_label = answer["probabilities"]
        return "; ".join(f"{label} {by_label[label]:.3f}" for label in answer["labels"])

    def named(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The labels, and every label's probability."""
        return answer
