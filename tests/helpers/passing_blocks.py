"""Blocks that hand their input on."""

import torch
from torch import Tensor

from edgeprune.model.model import Model


def passing_by(model: Model, layers: list[int], inputs: dict[str, Tensor]) -> Tensor:
    """The oracle: the model's answer where some layers return what they were given."""
    blocks = [model.module.get_submodule(model.anatomy.blocks[layer].name) for layer in layers]
    for block in blocks:
        forward = block.forward

        def same(hidden, *others, forward=forward, **named):
            answer = forward(hidden, *others, **named)
            return (hidden, *answer[1:]) if isinstance(answer, tuple) else hidden

        block.forward = same
    with torch.no_grad():
        answer = model.module(**inputs)[0]
    for block in blocks:
        del block.forward
    return answer
