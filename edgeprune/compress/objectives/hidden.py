"""Hidden states compared layer by layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def hidden_error(student: Any, teacher: Any, mask: Tensor, layers: Sequence[int]) -> Tensor:
    """Squared error of the hidden states per token and feature, summed over the student's layers.

    Args:
        layers: which of the teacher's layers the student has. Before a gap, a layer is to hand on
            what the layer after the gap was given in the teacher.
    """
    weights = mask.unsqueeze(-1).float()
    total = torch.zeros(())
    wanted = [teacher.hidden_states[place] for place in (*layers[1:], -1)]
    for found, target in zip(student.hidden_states[1:], wanted, strict=True):
        error = (found.float() - target.float()).square() * weights
        total = total + error.sum() / (weights.sum() * found.shape[-1])
    return total
