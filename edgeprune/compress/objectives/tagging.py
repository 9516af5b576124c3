"""Classifiers of tokens: answers are log probabilities of the labels of every real token.

loss   as a classifier's of whole texts, over tokens: the divergence over all that are no padding,
       the labels over those that carry one
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.classification import ClassificationObjective
from edgeprune.compress.objectives.logits import divergence_from
from edgeprune.compress.objectives.objective import Distance
from edgeprune.model.forward import Inputs, tensors
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch
from edgeprune.text.tags import IGNORED


@dataclass(frozen=True)
class _Counted:
    """Logits of the tokens of a batch that count [tokens, classes], as an output has them."""

    logits: Tensor


class TokenObjective(ClassificationObjective):
    """Of tokens where a classifier's is of texts."""

    by_text: ClassVar[bool] = False

    def counted(self, batch: Inputs) -> Tensor:
        """Which tokens' answers count [texts, tokens]: all that are no padding."""
        return tensors(batch)["attention_mask"].bool()

    def answer(self, output: Any, batch: Inputs) -> Tensor:
        """Log probabilities of the tokens that count [tokens, classes]."""
        return functional.log_softmax(self.logits(output, batch).float(), dim=-1)

    def distance_from(self, teacher: Any, batch: Batch) -> Distance:
        """The mean divergence over the tokens that count."""
        distance = divergence_from(self.logits(teacher, batch))
        return lambda candidate: distance(_Counted(self.logits(candidate, batch)))

    def logits(self, output: Any, batch: Inputs) -> Tensor:
        """Those of the tokens that count [tokens, classes]."""
        found: Tensor = output.logits[self.counted(batch)]
        return found

    def labelled(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Those of the tokens that carry a label."""
        labels = torch.from_numpy(batch.labels)
        carried = labels != IGNORED
        return output.logits[carried], labels[carried]


def objective(model: Model) -> TokenObjective:
    """The objective of a classifier of tokens."""
    return TokenObjective(model.runs)
