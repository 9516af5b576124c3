"""Classifiers of whole texts: answers are log probabilities of the labels.

loss   logits_weight * T^2 KL(teacher || student) + label_weight * cross-entropy
       + hidden_weight * hidden MSE
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.hidden import hidden_error
from edgeprune.compress.objectives.logits import Logits, divergence
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


@dataclass(frozen=True)
class ClassificationObjective(Logits):
    """layers: which of the teacher's layers the student has."""

    layers: Sequence[int]
    by_text: ClassVar[bool] = True

    def reference(self, output: Any, batch: Batch) -> Tensor:
        """The answers."""
        return self.answer(output, batch)

    def damage(self, student: Tensor, teacher: Tensor) -> float:
        """The mean divergence."""
        return float(self.distance(student, teacher) / len(teacher))

    def probe(self, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        """Negative log-likelihood of a label drawn from the prediction."""
        return self.sampled_loss(self.answer(output, batch), generator)

    def logits(self, output: Any, batch: Batch) -> Tensor:
        """The logits whose divergence counts [texts, labels]."""
        logits: Tensor = output.logits
        return logits

    def labelled(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits that have a label [texts, labels], and those labels [texts]."""
        return output.logits, torch.from_numpy(batch.labels)

    def apart(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The distance of logits that training minimizes: the mean divergence."""
        return divergence(student, teacher, temperature)

    def own(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits that have labels: cross-entropy."""
        return functional.cross_entropy(logits.float(), labels)

    def wanted(self, teacher: Any, batch: Batch) -> Tensor:
        """The logits whose divergence counts."""
        return self.logits(teacher, batch)

    def loss_from(self, student: Any, wanted: Tensor, batch: Batch, weights: LossWeights) -> Tensor:
        """The first two parts, with labels where the text has them."""
        apart = self.apart(self.logits(student, batch), wanted, weights.temperature)
        loss = weights.logits_weight * apart
        if weights.label_weight and batch.labels is not None:
            logits, labels = self.labelled(student, batch)
            if len(labels):
                loss = loss + weights.label_weight * self.own(logits, labels)
        return loss

    def loss(self, student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Tensor:
        """As at the top of the file."""
        loss = self.loss_from(student, self.wanted(teacher, batch), batch, weights)
        if weights.hidden_weight:
            mask = torch.from_numpy(batch.attention_mask)
            error = hidden_error(student, teacher, mask, self.layers)
            loss = loss + weights.hidden_weight * error
        return loss

    def reads_hidden_states(self, weights: LossWeights) -> bool:
        """True where their error has a weight."""
        return weights.hidden_weight > 0


def objective(model: Model) -> ClassificationObjective:
    """A classifier's objective."""
    return ClassificationObjective(model.runs)
