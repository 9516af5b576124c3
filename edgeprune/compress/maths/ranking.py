"""Exact selection: precisely `count` entries, ties by position, the same on every run."""

import torch
from torch import Tensor


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` lowest of `scores` [n]; the earlier entry wins a tie. No NaN."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    if count == 0:
        return chosen
    if not 0 < count <= scores.numel():
        raise ValueError(f"cannot choose {count} of {scores.numel()} entries")
    threshold = torch.kthvalue(scores, count).values
    torch.lt(scores, threshold, out=chosen)
    ties = (scores == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def highest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` highest of `scores` [n]; the earlier entry wins a tie. No NaN."""
    return lowest(-scores, count)
