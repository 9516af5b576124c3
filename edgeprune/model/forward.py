"""A batch's way into a model, and what its tokens come out as."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgeprune.text.batches import Batch

Inputs = Batch | Mapping[str, Tensor]
"""A batch of text, or the keyword arguments of a torch model that it becomes."""


def tensors(batch: Inputs) -> dict[str, Tensor]:
    """A batch as keyword arguments of a torch model."""
    if not isinstance(batch, Batch):
        return dict(batch)
    return {name: torch.from_numpy(value) for name, value in batch.inputs.items()}


def unpadded(hidden: Tensor, mask: Tensor) -> Tensor:
    """Hidden states [tokens, width] of the unpadded tokens, those in `mask` [texts, tokens].

    hidden: [texts, tokens, width], or texts and tokens in one axis, as some families lay them.
    """
    if bool(mask.all()):  # an expert sees some of the tokens, and not in the mask's order
        return hidden.flatten(0, -2)
    return hidden.reshape(*mask.shape, -1)[mask.bool()]


def handed_on(hidden: Tensor, answered: Any) -> Any:
    """Hidden states in the form of what a block answered: alone, or first of as many as that."""
    return (hidden, *[None] * (len(answered) - 1)) if isinstance(answered, tuple) else hidden
