"""Classifiers of tokens: answers are log probabilities of the labels of every real token.

loss   as a classifier's of whole texts, over tokens: the divergence over all that are no padding,
       the labels over those that carry one
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeprune.compress.objectives.classification import ClassificationObjective
from edgeprune.compress.objectives.logits import divergence_from
from edgeprune.compress.objectives.objective import Distance
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

    def logits(self, output: Any, batch: Batch) -> Tensor:
        """Those of the real tokens [tokens, labels]."""
        return _real(output, batch).logits

    def labelled(self, output: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the tokens that carry a label."""
        carried = labels != IGNORED
        return output.logits[carried], labels[carried]


def objective(model: Model) -> TaggingObjective:
    """The objective of a classifier of tokens."""
    return TaggingObjective(model.runs)
