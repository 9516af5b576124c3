"""Score texts or pairs of texts with a bundle of one logit, and rank documents for a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.model.scores import ACTIVATIONS, activation_of
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.classify import SequenceModel
from edgeprune.runtime.tokenize import Text
from edgeprune.text.pairs import listed


@dataclass(frozen=True)
class Ranked:
    """A document's place in the list that was given, its score and its text."""

    index: int
    score: float
    document: str


class Ranker(SequenceModel):
    """A model of one logit: a reranker, or a regression of texts or pairs."""

    least_labels = 1

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle, threads)
        self._activate = ACTIVATIONS[activation_of(bundle.config, bundle.folder)]

    def score(self, texts: Sequence[Text], batch_size: int | None = None) -> list[float]:
        """The score of each text or pair.

        Raises:
            ModelFault: the model returns NaN or infinity.
        """
        found: list[float] = self.values(texts, batch_size).tolist()
        return found

    def rank(
        self, query: str, documents: Sequence[str], batch_size: int | None = None
    ) -> list[Ranked]:
        """The documents in the order of their scores beside the query, the best first."""
        documents = listed(documents, "Documents")
        scores = self.score([(query, document) for document in documents], batch_size)
        return [Ranked(index, scores[index], documents[index]) for index in order(scores)]

    def scaled(self, logits: np.ndarray) -> np.ndarray:
        """Scores [texts]."""
        return self._activate(logits[:, 0])

    def told(self, logits: np.ndarray) -> list[Any]:
        """Scores, with the logits behind them."""
        pairs = zip(self.scaled(logits).tolist(), logits[:, 0].tolist(), strict=True)
        return [{"score": score, "logit": logit} for score, logit in pairs]

    def line(self, answer: dict[str, Any]) -> str:
        """The score."""
        return f"{answer['score']:.6g}"

    def named(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The score."""
        return {"score": answer["score"]}


def order(scores: Sequence[float]) -> list[int]:
    """The places of scores, the highest first, equal ones as they stand."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])
