"""Classify texts or pairs of texts with a bundle."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.runtime.batches import run_batches, usual_batch
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.entailment import TEMPLATE, ZeroShot, entailment_of, hypotheses, ranked
from edgeprune.runtime.finite import finite
from edgeprune.runtime.logits import softmax
from edgeprune.runtime.session import bundle_session
from edgeprune.runtime.tokenize import Text, Tokenizer
from edgeprune.text.batches import Tokens
from edgeprune.text.pairs import listed


@dataclass(frozen=True)
class Prediction:
    """The likeliest label, its probability, and the probability of every label."""

    label: str
    probability: float
    probabilities: dict[str, float]


class SequenceModel:
    """A model that gives logits of a whole text or pair."""

    least_labels = 2
    """The fewest that config.json may name."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer(bundle)
        self.session = bundle_session(bundle, threads)
        self.default_batch = usual_batch(bundle.model_path)
        if "logits" not in [node.name for node in self.session.get_outputs()]:
            raise UserError(
                f"{bundle.model_path} has no output named logits: it is not a classifier."
            )
        self.labels = label_names_of(bundle, self.least_labels)

    def scaled(self, logits: np.ndarray) -> np.ndarray:
        """The values of the model's answers, from its logits [texts, labels]."""
        raise NotImplementedError

    def told(self, logits: np.ndarray) -> list[Any]:
        """The answers themselves, as plain values."""
        raise NotImplementedError

    def answers(self, encoded: Sequence[Tokens], batch_size: int | None = None) -> list[Any]:
        """The same for tokenized texts."""
        return self.told(self.logits_of(encoded, batch_size))

    def line(self, answer: Any) -> str:
        """An answer as a line for people."""
        raise NotImplementedError

    def named(self, answer: Any) -> dict[str, Any]:
        """An answer as the values of a JSON object."""
        raise NotImplementedError

    def values(self, texts: Sequence[Text], batch_size: int | None = None) -> np.ndarray:
        """The same of texts or pairs."""
        return self.scaled(self.logits(texts, batch_size))

    def logits(self, texts: Sequence[Text], batch_size: int | None = None) -> np.ndarray:
        """Logits of each text, [texts, labels] float32."""
        return self.logits_of(self.tokenizer.encode(texts), batch_size)

    def logits_of(self, encoded: Sequence[Tokens], batch_size: int | None) -> np.ndarray:
        """The same of tokenized texts."""
        gathered = np.zeros((len(encoded), len(self.labels)), np.float32)
        for rows, logits, _ in run_batches(
            self.session, self.tokenizer, "logits", encoded, batch_size or self.default_batch
        ):
            if logits.shape[-1] != len(self.labels):
                raise UserError(
                    f"{self.bundle.folder}: the model gives {logits.shape[-1]} logits and "
                    f"config.json names {len(self.labels)} labels."
                )
            gathered[rows] = logits
        return finite(gathered, "logits", self.bundle)


class Classifier(SequenceModel):
    """A text classifier with one true label per text."""

    def classify(self, texts: Sequence[Text], batch_size: int | None = None) -> list[Prediction]:
        """The prediction for each text or pair.

        Raises:
            ModelFault: the model returns NaN or infinity.
        """
        return self._predictions(self.logits(texts, batch_size))

    def zero_shot(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        template: str = TEMPLATE,
        multi_label: bool = False,
    ) -> list[ZeroShot]:
        """Scores of other labels than the model's, by a classifier of entailment.

        Args:
            template: the hypothesis, with a label in place of {}.
            multi_label: whether each label is true or not by itself; else one of them is.

        Raises:
            UserError: no label of the model is called entailment, or the template has no {}.
        """
        entailment_of(self.labels)
        labels = listed(labels, "Labels")
        pairs = hypotheses(texts, labels, template)
        encoded = self.tokenizer.encode(pairs, first_only=True)
        return ranked(self.logits_of(encoded, None), self.labels, labels, multi_label)

    def _predictions(self, logits: np.ndarray) -> list[Prediction]:
        predictions = []
        for row in self.scaled(logits):
            best = int(row.argmax())
            by_label = {label: float(p) for label, p in zip(self.labels, row, strict=True)}
            predictions.append(Prediction(self.labels[best], float(row[best]), by_label))
        return predictions

    def scaled(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities."""
        return softmax(logits)

    def told(self, logits: np.ndarray) -> list[Any]:
        """Predictions."""
        return [asdict(one) for one in self._predictions(logits)]

    def line(self, answer: dict[str, Any]) -> str:
        """The likeliest label and its probability."""
        return f"{answer['label']} {answer['probability']:.3f}"

    def named(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The likeliest label, and every label's probability."""
        return {"label": answer["label"], "probabilities": answer["probabilities"]}


def label_names_of(bundle: Bundle, least: int = 2) -> list[str]:
    """The names of a model's labels, in the order of their numbers.

    Raises:
        UserError: config.json does not name them all, or fewer than `least`.
    """
    names = bundle.config.get("id2label")
    if not isinstance(names, dict) or {str(key) for key in names} != {
        str(index) for index in range(len(names))
    }:
        raise UserError(f"{bundle.folder / 'config.json'} has no id2label with every label's name.")
    if len(names) < least:
        raise UserError(f"{bundle.folder} has one label: it is not a classifier.")
    return [str(names[str(index)]) for index in range(len(names))]
