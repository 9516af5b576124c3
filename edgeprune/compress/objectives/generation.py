"""Decoders over full windows of text: answers are log probabilities of the next token.

loss   logits_weight * T^2 KL(teacher || student) per token + label_weight * cross-entropy of
       the text
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.logits import Logits, divergence
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


def next_token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the text under logits [sequences, tokens, vocabulary]."""
    target = torch.from_numpy(batch.input_ids)[:, 1:].flatten()
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), target)


class GenerationObjective(Logits):
    """The text has its own targets: each token is the one before's."""

    by_text: ClassVar[bool] = False

    def reference(self, output: Any, batch: Batch) -> Tensor:
        """The text's cross-entropy."""
        return next_token_loss(output.logits, batch)

    def damage(self, student: Tensor, teacher: Tensor) -> float:
        """The rise of the text's cross-entropy."""
        return float(student - teacher)

    def probe(self, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross-entropy of the text's tokens; nothing is drawn."""
        return next_token_loss(output.logits, batch) * len(batch.input_ids)

    def wanted(self, teacher: Any, batch: Batch) -> Tensor:
        """All logits."""
        logits: Tensor = teacher.logits
        return logits

    def loss_from(self, student: Any, wanted: Tensor, batch: Batch, weights: LossWeights) -> Tensor:
        """As at the top of the file."""
        apart = divergence(student.logits, wanted, weights.temperature)
        loss = weights.logits_weight * apart
        if weights.label_weight:
            loss = loss + weights.label_weight * next_token_loss(student.logits, batch)
        return loss

    def loss(self, student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Tensor:
        """The same."""
        return self.loss_from(student, self.wanted(teacher, batch), batch, weights)

    def reads_hidden_states(self, weights: LossWeights) -> bool:
        """Never."""
        return False


def objective(model: Model) -> GenerationObjective:
    """A decoder's objective."""
    return GenerationObjective()
