"""Vectors of token sequences, by the model that is being compressed. torch only on use."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.base.progress import track
from edgeprune.text.batches import Tokens, padded

if TYPE_CHECKING:
    from edgeprune.model.model import Model

TOKENS = 64
"""Tokens of a sequence that are read: enough to tell what a text is about."""
_BATCH = 32


def mean_hidden(model: "Model", texts: Sequence[Tokens]) -> np.ndarray:
    """Mean of the last hidden states over each sequence's first TOKENS tokens, of unit length:
    [sequences, width]."""
    import torch

    vectors = np.empty((len(texts), model.anatomy.hidden_size), np.float32)
    beginnings = [Tokens(text.ids[:TOKENS], text.type_ids[:TOKENS]) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(beginnings[i].ids))
    starts = range(0, len(order), _BATCH)
    for start in track(starts, "embedding text", len(starts)):
        chosen = order[start : start + _BATCH]
        # Whichever token pads them, the mask hides it.
        batch = padded([beginnings[i] for i in chosen], len(beginnings[chosen[-1]].ids), 0)
        with torch.no_grad():
            output = model.run(batch, output_hidden_states=True)
        mask = torch.from_numpy(batch.attention_mask)
        hidden = output.hidden_states[-1].float() * mask.unsqueeze(-1)
        mean = hidden.sum(1) / mask.sum(1, keepdim=True)
        vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return vectors
