"""Answers that are distributions over classes, given as logits: compared by KL divergence."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.objective import Distance
from edgeprune.model.forward import Inputs, tensors
from edgeprune.text.batches import Batch


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits [..., classes], mean over the leading axes.

    The temperature is Hinton et al.'s (2015).
    """
    found = functional.log_softmax(student.float() / temperature, -1).flatten(0, -2)
    wanted = functional.log_softmax(teacher.float() / temperature, -1).flatten(0, -2)
    kl = functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
    return temperature**2 * kl


def divergence_from(teacher: Tensor) -> Distance:
    """KL(teacher || candidate) in nats, mean over the leading axes of logits [..., classes].

    The divergence's terms are subtracted before they are summed: sums over 50,000 classes in
    float32, subtracted afterwards, were off by some 0.001 nats.
    """
    logs = teacher.float().flatten(0, -2).log_softmax(-1)
    shares = logs.exp()

    def distance(candidate: Any) -> float:
        gaps = logs - candidate.logits.float().flatten(0, -2).log_softmax(-1)
        return float(gaps.mul_(shares).sum(-1).double().mean())

    return distance


class Logits:
    """The common part of objectives of logits."""

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """Log probabilities [texts or real tokens, classes]."""
        logits = output.logits
        if logits.dim() == 3:
            logits = logits[tensors(batch)["attention_mask"].bool()]
        return functional.log_softmax(logits.float(), dim=-1)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL(teacher || student) in nats, summed."""
        return functional.kl_div(student, teacher, log_target=True, reduction="sum")

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The mean divergence."""
        return divergence_from(teacher.logits)

    def sampled_loss(self, answer: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log-likelihood of classes drawn from the prediction."""
        drawn = answer.detach().exp().multinomial(1, generator=generator)
        return -answer.gather(1, drawn).sum()
