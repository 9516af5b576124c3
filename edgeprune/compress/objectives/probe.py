"""A scalar of a model's output whose squared gradient, over many texts, is Fisher information.

A student that still equals its original has no distillation gradient, so neither a one-shot score
nor the first steps of pruning could tell its units apart. The true Fisher information asks for
targets drawn from the model's own prediction, and these have a gradient everywhere.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.objectives.objective import embed, next_token_loss
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


def fisher_probe(model: Model, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """Sum over sequences, so that each one's gradient stands by itself.

    Sentence encoders: v . e with v random per text, the embedding's own Fisher score. Classifiers:
    the log-likelihood of a label drawn from the prediction. Decoders: that of the text's tokens.
    """
    if model.task == "feature-extraction":
        embedding = embed(output, torch.from_numpy(batch.attention_mask), model.pooling)
        return (embedding * torch.randn(embedding.shape, generator=generator)).sum()
    if model.task == "text-classification":
        logits = output.logits.float()
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        return functional.cross_entropy(logits, drawn.squeeze(1), reduction="sum")
    return next_token_loss(output.logits, batch) * len(batch.input_ids)
