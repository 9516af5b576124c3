"""Spike-clipped averages, the earlier way to keep a burst out of a saliency: for comparison alone.

A gradient whose norm n stands above twice the exponentially weighted mean m of the norms is judged
as 2 m / n times itself. The mean takes the step's own norm too, and follows a burst.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from edgeprune.compress.prune.layer import norm

DECAY = 0.95


class ClippedAverages:
    """What a pruner with `averages: plain` is to judge its tensors by, step after step.

    tensors: the pruned ones, each with its gradient of the training.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.mean: float | None = None

    def factor(self, size: float) -> float:
        """The factor on a gradient of this norm; a norm that is not finite changes nothing."""
        if not math.isfinite(size):
            return 1.0
        past = size if self.mean is None else self.mean
        self.mean = past + (1 - DECAY) * (size - past)
        return 1.0 if size <= 2 * self.mean else 2 * self.mean / size

    def judged(self, probed: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """The probe's gradients such that, with the training's, they are the clipped ones.

        A pruner judges single weights by the sum of both; how steady training is, it reads off the
        training's alone, which stays as it is.
        """
        trained = {tensor: tensor.grad for tensor in self.tensors if tensor.grad is not None}
        factor = self.factor(math.hypot(*map(norm, trained.values())))
        if factor == 1:
            return dict(probed)
        return {
            tensor: (factor - 1) * gradient + factor * probed.get(tensor, 0)
            for tensor, gradient in trained.items()
        }
