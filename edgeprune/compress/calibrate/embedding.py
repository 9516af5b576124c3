"""Vectors of token sequences, by the model that is being compressed. torch only on use."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.base.progress import track

if TYPE_CHECKING:
    from edgeprune.model.model import Model

TOKENS = 64
"""Tokens of a sequence that are read: enough to tell what a text is about."""
_BATCH = 32


def mean_hidden(model: "Model", ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of the last hidden states over each sequence's first TOKENS tokens, of unit length:
    [sequences, width]."""
    import torch

    vectors = np.empty((len(ids), model.anatomy.hidden_size), np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    starts = range(0, len(order), _BATCH)
    for start in track(starts, "embedding text", len(starts)):
        chosen = order[start : start + _BATCH]
        cut = [list(ids[i][:TOKENS]) for i in chosen]
        longest = max(map(len, cut))
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in cut])
        padded = torch.tensor([row + row[:1] * (longest - len(row)) for row in cut])
        with torch.no_grad():
            batch = {"input_ids": padded, "attention_mask": mask}
            output = model.run(batch, output_hidden_states=True)
        hidden = output.hidden_states[-1].float() * mask.unsqueeze(-1)
        mean = hidden.sum(1) / mask.sum(1, keepdim=True)
        vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return vectors
