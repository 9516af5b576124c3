"""Encoders that fill in masked tokens: answers are log probabilities of the words in their place.

loss   as a classifier's of tokens, over those that are masked: the divergence from the original,
       and the cross-entropy of what stood there
"""

from dataclasses import dataclass

from torch import Tensor

from edgeprune.compress.objectives.tagging import TokenObjective
from edgeprune.model.forward import Inputs, tensors
from edgeprune.model.model import Model
from edgeprune.text.masks import mask_token


@dataclass(frozen=True)
class MaskedObjective(TokenObjective):
    """mask_id: the token that stands for a masked one."""

    mask_id: int

    def counted(self, batch: Inputs) -> Tensor:
        """The masked tokens."""
        return tensors(batch)["input_ids"] == self.mask_id


def objective(model: Model) -> MaskedObjective:
    """The objective of an encoder that fills in masked tokens."""
    _, mask_id = mask_token(model.folder)
    return MaskedObjective(model.layers, mask_id)
