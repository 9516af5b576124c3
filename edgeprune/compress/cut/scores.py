"""One-shot scores of channels and heads from calibration batches, and exact choices by them.

h is what enters the linear that reads the units (down_proj, or attention's output projection),
[tokens, columns] or [samples, tokens, columns]; g is the loss's gradient with respect to h; the
linear's weight is torch's [out, columns]. A unit owns `unit_size` neighbouring columns (1 for a
channel, head_dim for a head). Leave padded positions out, or at zero. Every score is fed batch by
batch with `add` and read once with `finish`, [units], float64; higher is worth more.

Fisher and Taylor scores measure the loss itself: they may be ranked over all layers at once (a
global threshold on Fisher is the best single choice known here). The scores from activations or
weights alone differ in scale from layer to layer: they are ranked inside a layer, with the
`uniform` policy; equal coverage hurts them.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from edgeprune.base.budget import project
from edgeprune.base.errors import UserError
from edgeprune.compress.maths.ranking import highest


def _by_unit(columns: Tensor, unit_size: int) -> Tensor:
    """[..., units * unit_size] to [..., units], summed."""
    return columns.unflatten(-1, (-1, unit_size)).sum(-1)


def _tokens(h: Tensor) -> Tensor:
    return h.detach().flatten(0, -2).double()


class Fisher:
    """Sum over samples of the squared gradient of a gate on the unit: (sum over tokens h g)^2.

    The mask form of Kwon et al. (2022), by which Fisher-MoE ranks intermediate dimensions. With
    g taken of v . e (e a sentence's embedding, v random) it is the embedding's own Fisher score,
    which needs no labels. 2-D input is one sample.
    """

    def __init__(self, units: int, unit_size: int = 1) -> None:
        self.unit_size = unit_size
        self.total = torch.zeros(units, dtype=torch.float64)

    def add(self, h: Tensor, g: Tensor) -> None:
        effect = _by_unit(h.detach().double() * g.detach().double(), self.unit_size)
        self.add_gate_gradients(effect.sum(-2).reshape(-1, len(self.total)))

    def add_gate_gradients(self, gradients: Tensor) -> None:
        """Gradients [samples, units] of multiplicative gates, where a model has them."""
        self.total += gradients.detach().double().square().sum(0).cpu()

    def finish(self) -> Tensor:
        return self.total


class Taylor:
    """Sum over tokens of |h g|; a head's columns are summed before the absolute value."""

    def __init__(self, units: int, unit_size: int = 1) -> None:
        self.unit_size = unit_size
        self.total = torch.zeros(units, dtype=torch.float64)

    def add(self, h: Tensor, g: Tensor) -> None:
        self.total += _by_unit(_tokens(h) * _tokens(g), self.unit_size).abs().sum(0).cpu()

    def finish(self) -> Tensor:
        return self.total


class Moments:
    """Streaming mean and variance of each column over tokens (Chan's pairwise update)."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean = torch.zeros(columns, dtype=torch.float64)
        self.squares = torch.zeros(columns, dtype=torch.float64)  # about the mean

    def add(self, h: Tensor) -> None:
        tokens = _tokens(h).cpu()
        new = tokens.shape[0]
        if not new:
            return
        mean = tokens.mean(0)
        shift = mean - self.mean
        both = self.count + new
        self.squares += (tokens - mean).square().sum(0) + shift.square() * self.count * new / both
        self.mean += shift * new / both
        self.count = both

    @property
    def variance(self) -> Tensor:
        return self.squares / max(1, self.count)

    @property
    def energy(self) -> Tensor:
        """Mean square."""
        return self.variance + self.mean.square()


class Flap:
    """Loss when a unit's mean takes its place: Var(h_i) ||W_i||^2 (FLAP, 2024).

    by_mean: False where the linear has no bias to carry the mean, so that zero takes the unit's
        place: E[h_i^2] ||W_i||^2 is lost.
    """

    def __init__(self, units: int, unit_size: int = 1, by_mean: bool = True) -> None:
        self.unit_size, self.by_mean = unit_size, by_mean
        self.moments = Moments(units * unit_size)

    def add(self, h: Tensor) -> None:
        self.moments.add(h)

    def finish(self, weight: Tensor) -> Tensor:
        columns = weight.detach().double().cpu().square().sum(0)
        spread = self.moments.variance if self.by_mean else self.moments.energy
        return _by_unit(spread * columns, self.unit_size)


class ProbePruning:
    """`probe_pruning`: ||E[h_i^2] W_i^2||_2 over the outputs (Probe Pruning's PPsp)."""

    def __init__(self, units: int, unit_size: int = 1) -> None:
        self.unit_size = unit_size
        self.moments = Moments(units * unit_size)

    def add(self, h: Tensor) -> None:
        self.moments.add(h)

    def finish(self, weight: Tensor) -> Tensor:
        fourth = weight.detach().double().cpu().pow(4).sum(0)
        return _by_unit(self.moments.energy.square() * fourth, self.unit_size).sqrt()


def magnitude(incoming: Sequence[Tensor], outgoing: Sequence[Tensor], unit_size: int = 1) -> Tensor:
    """L2 norm of all weights of each unit [units].

    incoming: matrices whose rows [columns, in] (or biases [columns]) belong to the units;
    outgoing: matrices whose columns [out, columns] do. One-shot it is catastrophic: channels of
    small norm may carry massive activations.
    """
    squares = [w.detach().double().reshape(w.shape[0], -1).square().sum(1) for w in incoming]
    squares += [w.detach().double().square().sum(0) for w in outgoing]
    return _by_unit(torch.stack(squares).sum(0), unit_size).sqrt()


Policy = Literal["global", "uniform", "coverage"]


def select(
    scores: Sequence[Tensor], keep_total: int, minimum: int = 1, policy: Policy = "global"
) -> list[Tensor]:
    """Masks of the kept units, one per layer; `keep_total` are True in all.

    Inside a layer the highest scores stay, the earlier unit at a tie.

    Args:
        scores: [units] per layer.
        minimum: units each layer keeps.
        policy: `global`, one threshold over all layers; `uniform`, the same share of each;
            `coverage`, the same share of each layer's score (MoE-Slimming), which makes the
            smallest such share as large as can be.

    Raises:
        UserError: scores are not finite, or `keep_total` cannot be kept.
    """
    counts = allocate(scores, keep_total, minimum, policy)
    return [highest(layer, count) for layer, count in zip(scores, counts, strict=True)]


def allocate(
    scores: Sequence[Tensor], keep_total: int, minimum: int = 1, policy: Policy = "global"
) -> list[int]:
    """Number of units that each layer keeps under `policy`; see `select`."""
    for index, layer in enumerate(scores):
        if not bool(torch.isfinite(layer).all()):
            raise UserError(f"cut.score: not all scores of layer {index} are finite: use another.")
    layers = [layer.detach().double().cpu() for layer in scores]
    sizes = [len(layer) for layer in layers]
    if not minimum * len(sizes) <= keep_total <= sum(sizes) or minimum > min(sizes):
        raise UserError(
            f"The cut cannot keep {keep_total} of {sum(sizes)} units with at least {minimum} in "
            f"each of {len(sizes)} layers, the smallest of {min(sizes)}: lower cut.channels or "
            "cut.heads, or the minimum."
        )
    if policy == "uniform":
        return project([keep_total / sum(sizes)] * len(sizes), sizes, keep_total, minimum)
    if policy == "global":
        return _by_threshold(layers, keep_total, minimum)
    return _by_coverage(layers, keep_total, minimum)


def _by_threshold(layers: list[Tensor], total: int, minimum: int) -> list[int]:
    """The best `minimum` of each layer, then the best of all the others."""
    free = torch.cat([v.masked_fill(highest(v, minimum), -math.inf) for v in layers])
    rest = highest(free, total - minimum * len(layers))
    return [minimum + int(part.sum()) for part in rest.split([len(v) for v in layers])]


def _by_coverage(layers: list[Tensor], total: int, minimum: int) -> list[int]:
    """The least share of every layer's score under a total count, by bisection, then exactly."""
    if any(bool((layer < 0).any()) for layer in layers):
        raise UserError(
            "cut.policy: coverage adds scores up, and some are negative: use another policy."
        )
    covered = []  # [units] per layer: share of the score that the best 1, 2, ... units hold
    for layer in layers:
        # A layer without any score counts every unit alike.
        sums = (layer if layer.sum() > 0 else torch.ones_like(layer)).sort(descending=True).values
        sums = sums.cumsum(0)
        covered.append(sums / sums[-1])

    def counts_at(share: float) -> list[int]:
        wish = torch.tensor(share, dtype=torch.float64)
        needed = [int(torch.searchsorted(shares, wish)) + 1 for shares in covered]
        return [
            min(max(count, minimum), len(shares))
            for count, shares in zip(needed, covered, strict=True)
        ]

    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if sum(counts_at(middle)) < total:
            low = middle
        else:
            high = middle
    counts = counts_at(high)

    def coverage(index: int, count: int) -> tuple[float, float]:
        share = float(covered[index][count - 1]) if count else 0.0
        return share, count / len(covered[index])

    while sum(counts) > total:  # take from whoever is best covered without its last unit
        able = [i for i, count in enumerate(counts) if count > minimum]
        counts[max(able, key=lambda i: coverage(i, counts[i] - 1))] -= 1
    while sum(counts) < total:  # all is covered: the rest has no score and is shared evenly
        able = [i for i, count in enumerate(counts) if count < len(covered[i])]
        counts[min(able, key=lambda i: coverage(i, counts[i]))] += 1
    return counts
