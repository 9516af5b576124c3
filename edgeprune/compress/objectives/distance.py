"""How far candidates' outputs lie from the original's: what recovery minimizes, labels left out.

The original's part is computed once for all candidates. The terms of KL(original || candidate) are
subtracted before they are summed: sums over 50,000 classes in float32, subtracted afterwards, were
off by some 0.001 nats.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgeprune.compress.objectives.objective import make_objective
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch

Distance = Callable[[Any], float]
"""A candidate's output -> its distance from the original's."""


def distance_to(model: Model, its: Any, batch: Batch) -> Distance:
    """The distance of outputs of `model`'s kind on a batch from `its`, the original's output."""
    if model.task != "feature-extraction":
        return divergence_from(its.logits)
    settings = LossWeights(label_weight=0, hidden_weight=0)
    objective = make_objective(model, settings)
    return lambda ours: float(
        objective.loss(ours, its, batch, torch.from_numpy(batch.attention_mask))
    )


def divergence_from(logits: Tensor) -> Distance:
    """KL(original || candidate) in nats, mean over the leading axes of logits [..., classes]."""
    logs = logits.float().flatten(0, -2).log_softmax(-1)
    shares = logs.exp()

    def distance(ours: Any) -> float:
        gaps = logs - ours.logits.float().flatten(0, -2).log_softmax(-1)
        return float(gaps.mul_(shares).sum(-1).double().mean())

    return distance
