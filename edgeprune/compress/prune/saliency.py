"""Importance of weights: accumulators over gradients, and a score from them.

One row of the table per method; the lowest scores are pruned first. w is the masked weight, g its
dense gradient, and `weight` the step's, in [0, 1], by which an average's share of the new value is
multiplied, so that a burst of the gradient cannot fill it. Tensors may have any shape; for gates w
is 1 and g the gate's gradient. Averages start at zero and stay uncorrected: the correction is one
factor for all weights and cannot change a ranking.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

MOMENTUM = 0.9
FISHER = 0.99
PLATON_MEAN = 0.85
PLATON_VARIABILITY = 0.95

Buffers = dict[str, Tensor]


@dataclass(frozen=True)
class Saliency:
    """buffers: names of the accumulators, each of w's shape and zero at first."""

    buffers: tuple[str, ...]
    accumulate: Callable[[Buffers, Tensor, Tensor, float], None]
    score: Callable[[Buffers, Tensor], Tensor]


def _nothing(buffers: Buffers, w: Tensor, g: Tensor, weight: float) -> None:
    pass


def _last_effect(buffers: Buffers, w: Tensor, g: Tensor, weight: float) -> None:
    buffers["effect"].lerp_((w * g).abs_().to(buffers["effect"].dtype), weight)


def _mean_gradient(buffers: Buffers, w: Tensor, g: Tensor, weight: float) -> None:
    buffers["mean"].lerp_(g.to(buffers["mean"].dtype), (1 - MOMENTUM) * weight)


def _mean_square(buffers: Buffers, w: Tensor, g: Tensor, weight: float) -> None:
    g, share = g.to(buffers["square"].dtype), (1 - FISHER) * weight
    buffers["square"].mul_(1 - share).addcmul_(g, g, value=share)


def _mean_and_variability(buffers: Buffers, w: Tensor, g: Tensor, weight: float) -> None:
    effect = (w * g).abs_().to(buffers["mean"].dtype)
    buffers["mean"].lerp_(effect, (1 - PLATON_MEAN) * weight)
    effect.sub_(buffers["mean"]).abs_()
    buffers["variability"].lerp_(effect, (1 - PLATON_VARIABILITY) * weight)


def _movement(buffers: Buffers, w: Tensor, g: Tensor, weight: float) -> None:
    buffers["movement"].sub_(w * g, alpha=weight)


SALIENCIES: dict[str, Saliency] = {
    # |w|: gradual magnitude pruning (Zhu and Gupta 2017)
    "magnitude": Saliency((), _nothing, lambda b, w: w.abs()),
    # |w g| of the last step: first-order Taylor (Molchanov et al. 2017)
    "grad": Saliency(("effect",), _last_effect, lambda b, w: b["effect"].clone()),
    # |w mean(g)|: the literal reading of momentum; weak, since the mean gradient vanishes
    "momentum": Saliency(("mean",), _mean_gradient, lambda b, w: (w * b["mean"]).abs_()),
    # w^2 mean(g^2): optimal brain damage with a diagonal Fisher
    "fisher": Saliency(("square",), _mean_square, lambda b, w: w * w * b["square"]),
    # |w| mean(g^2)^(1/4): AdamWPrune
    "adamwprune": Saliency(
        ("square",), _mean_square, lambda b, w: w.abs() * b["square"].sqrt().sqrt_()
    ),
    # mean(|w g|) times its mean absolute deviation: PLATON (Zhang et al., ICML 2022)
    "platon": Saliency(
        ("mean", "variability"), _mean_and_variability, lambda b, w: b["mean"] * b["variability"]
    ),
    # -sum(w g): movement pruning (Sanh et al. 2020)
    "movement": Saliency(("movement",), _movement, lambda b, w: b["movement"].clone()),
}
