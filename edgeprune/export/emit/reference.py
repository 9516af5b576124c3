"""What torch answers on the batches that an emitted graph is compared on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgeprune.export.rewrite.verify import Feed, Outputs, without_padding
from edgeprune.model.model import Model


def torch_outputs(model: Model, batches: Sequence[Feed]) -> Outputs:
    """The module's outputs by name on each batch, with zeros at padded tokens as a graph's have.

    Args:
        batches: input_ids and attention_mask.
    """
    return [without_padding(_called(model, batch), batch) for batch in batches]


@torch.no_grad()
def _called(model: Model, batch: Feed) -> dict[str, np.ndarray]:
    answer = model.run({name: torch.from_numpy(values) for name, values in batch.items()})
    return {name: value.numpy() for name, value in answer.items() if isinstance(value, Tensor)}
