"""Classifiers of tokens: answers are log probabilities of the labels of every real token.

loss   as a classifier's of whole texts, over tokens: the divergence over all that are no padding,
       the labels over those that carry one
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.classification import ClassificationObjective
from edgeprune.compress.objectives.hidden import hidden_error
from edgeprune.compress.objectives.logits import divergence, divergence_from
from edgeprune.compress.objectives.objective import Distance
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch
from edgeprune.text.tags import IGNORED


@dataclass(frozen=True)
class _Real:
    """Logits of the real tokens of a batch [tokens, labels], as an output has them."""

    logits: Tensor


def _real(output: Any, batch: Batch) -> _Real:
    return _Real(output.logits[torch.from_numpy(batch.attention_mask).bool()])


class TaggingObjective(ClassificationObjective):
    """Of tokens where a classifier's is of texts."""

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The mean divergence over real tokens."""
        distance = divergence_from(_real(teacher, batch).logits)
        return lambda candidate: distance(_real(candidate, batch))

    def loss(self, student: Any, teacher: Any, batch: Batch, weights: LossWeights) -> Tensor:
        """As at the top of the file, with labels where the text has them."""
        mine, theirs = _real(student, batch).logits, _real(teacher, batch).logits
        loss = weights.logits_weight * divergence(mine, theirs, weights.temperature)
        if weights.label_weight and batch.labels is not None:
            labels = torch.from_numpy(batch.labels)
            carried = labels != IGNORED
            if carried.any():
                own = functional.cross_entropy(student.logits.float()[carried], labels[carried])
                loss = loss + weights.label_weight * own
        if weights.hidden_weight:
            mask = torch.from_numpy(batch.attention_mask)
            error = hidden_error(student, teacher, mask, self.layers)
            loss = loss + weights.hidden_weight * error
        return loss


def objective(model: Model) -> TaggingObjective:
    """The objective of a classifier of tokens."""
    return TaggingObjective(model.layers)
