"""A batch's way through a model."""

import torch
from torch import Tensor

from edgeprune.text.batches import Batch


def attended(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rows [tokens, width] of what the tokens in `mask` [texts, tokens] hand on; some families lay
    texts and tokens into one axis."""
    if bool(mask.all()):  # an expert sees some of the tokens, and not in the mask's order
        return hidden.flatten(0, -2)
    return hidden.reshape(*mask.shape, -1)[mask.bool()]


def tensors(batch: Batch) -> dict[str, Tensor]:
    """A batch as keyword arguments of a torch model."""
    return {name: torch.from_numpy(value) for name, value in batch.inputs.items()}
