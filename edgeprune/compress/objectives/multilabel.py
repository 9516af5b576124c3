"""Classifiers with several labels a text: each label is a yes or no of its own.

loss   logits_weight * T^2 KL(teacher || student), summed over labels
       + label_weight * binary cross-entropy, mean over labels + hidden_weight * hidden MSE
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.classification import ClassificationObjective
from edgeprune.compress.objectives.objective import Distance
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of yes and no by logits [texts, labels], in nats, summed."""
    shares = teacher.sigmoid()
    yes = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    no = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    return (shares * yes + (1 - shares) * no).sum()


class MultiLabelObjective(ClassificationObjective):
    """Answers are logits [texts, labels]."""

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """The logits."""
        logits: Tensor = output.logits.float()
        return logits

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence, summed over texts and labels."""
        return divergence(student, teacher)

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The mean divergence of a text."""
        wanted = teacher.logits.float()
        return lambda candidate: float(divergence(candidate.logits.float(), wanted)) / len(wanted)

    def apart(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean divergence of a text at a temperature."""
        kl = divergence(student.float() / temperature, teacher.float() / temperature)
        return temperature**2 * kl / len(teacher)

    def own(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())

    def sampled_loss(self, answer: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log-likelihood of labels, each drawn from its prediction."""
        drawn = torch.bernoulli(answer.detach().sigmoid(), generator=generator)
        return functional.binary_cross_entropy_with_logits(answer, drawn, reduction="sum")


def objective(model: Model) -> MultiLabelObjective:
    """The objective of a classifier with several labels a text."""
    return MultiLabelObjective(model.layers)
