"""Models that mark an answer in a context: answers are log probabilities of every token to be its
first, and to be its last.

loss   as a classifier's of whole texts, with two choices of a token for each text: the mean of both
"""

from typing import Any

import torch
from torch import Tensor

from edgeprune.compress.objectives.tagging import TokenObjective
from edgeprune.model.forward import Inputs
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch

_PADDED = -10_000.0
"""The logit of a token that is padding: its probability is 0."""


class SpanObjective(TokenObjective):
    """Of the first and of the last token where a classifier's is of a label."""

    def logits(self, output: Any, batch: Inputs) -> Tensor:
        """[2 texts, tokens]: of the first tokens of all texts, then of the last ones."""
        both = torch.cat([output.start_logits, output.end_logits])
        real = self.counted(batch)
        return both.masked_fill(~torch.cat([real, real]), _PADDED)

    def labelled(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same with the tokens that are right [2 texts]."""
        return self.logits(output, batch), torch.from_numpy(batch.labels).T.flatten()


def objective(model: Model) -> SpanObjective:
    """The objective of a model that marks an answer."""
    return SpanObjective(model.layers)
