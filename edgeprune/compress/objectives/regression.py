"""Models of one logit a text or pair, rerankers among them: answers are the logits.

loss   logits_weight * (student - teacher)^2 / 2 + label_weight * the data's own loss
       + hidden_weight * hidden MSE

The data's own loss is the one by which such models are trained: of a regression the squared error
of the scores; of any other, whose scores are shares of 0 to 1, their binary cross-entropy.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.compress.objectives.classification import ClassificationObjective
from edgeprune.compress.objectives.objective import Distance
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


@dataclass(frozen=True)
class RegressionObjective(ClassificationObjective):
    """squared: whether the data's scores are values of the logit, not shares of 0 to 1."""

    squared: bool = False

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """The logits [texts, 1]."""
        logits: Tensor = output.logits.float()
        return logits

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Half the squared difference, summed."""
        return (student - teacher).square().sum() / 2

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The mean of the same."""
        wanted = teacher.logits.float()
        return lambda candidate: (
            float(self.distance(candidate.logits.float(), wanted)) / len(wanted)
        )

    def apart(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean of the same; there is no temperature."""
        return self.distance(student.float(), teacher.float()) / len(teacher)

    def own(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of the data's scores.

        Raises:
            UserError: they are no shares, and the model is not said to be a regression.
        """
        found, scores = logits.float().squeeze(-1), labels.float()
        if self.squared:
            return functional.mse_loss(found, scores)
        if bool(((scores < 0) | (scores > 1)).any()):
            raise UserError(
                "The data's scores are not all between 0 and 1, as a model is trained whose logit "
                "is a score's: set label_weight to 0, scale them, or write problem_type: "
                "regression into its config.json if the logit itself is the score."
            )
        return functional.binary_cross_entropy_with_logits(found, scores)

    def sampled_loss(self, answer: Tensor, generator: torch.Generator) -> Tensor:
        """Logits along random numbers, as the error of a target drawn around each would be."""
        return (answer * torch.randn(answer.shape, generator=generator)).sum()


def objective(model: Model) -> RegressionObjective:
    """The objective of a model of one logit."""
    return RegressionObjective(model.layers, model.config.get("problem_type") == "regression")
