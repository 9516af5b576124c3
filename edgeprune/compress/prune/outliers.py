"""Budgets shared out by the scores of weights: their outliers (OWL) or their sum (coverage).

Scores are Wanda's, |W_ij| ||X_j||, on the dense model.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

POINTS = 1000
"""Counts at which a coverage curve is kept: a curve is small whatever the layer's size."""


def wanda_scores(weight: Tensor, energy: Tensor) -> Tensor:
    """|W_ij| ||X_j|| [out, in], float64.

    weight: [out, in]; energy: squared norm of each input over the text [in].
    """
    return weight.double().abs() * energy.double().sqrt()


def outlier_share(parts: Callable[[], Iterable[Tensor]], factor: float) -> float:
    """Share of scores that exceed `factor` times the mean of all.

    parts: gives the scores, tensor by tensor, and the same ones when it is asked again: all at once
    need not be in memory.
    """
    total, count = 0.0, 0
    for scores in parts():
        total, count = total + float(scores.sum()), count + scores.numel()
    return sum(int((scores > factor * total / count).sum()) for scores in parts()) / count


def spread_out(values: Sequence[float], spread: float) -> list[float]:
    """Keep ratios by signals: the largest and smallest 2 * spread apart, their mean at zero.

    The levels that `project` moves onto the budget; equal values stay equal. OWL (Yin et al.,
    2023) shifts the mean over layers; the projection goes by sizes.
    """
    low, high = min(values), max(values)
    if high == low:
        return [0.0] * len(values)
    ratios = [(value - low) / (high - low) * 2 * spread for value in values]
    mean = sum(ratios) / len(ratios)
    return [ratio - mean for ratio in ratios]


def coverage_curve(scores: Tensor) -> Tensor:
    """Share of the scores' sum that the best 0, 1/POINTS, ... 1 of the units hold [POINTS + 1]."""
    ranked = scores.double().sort(descending=True).values
    if not ranked.sum() > 0:
        ranked = torch.ones_like(ranked)  # without any score, every unit counts alike
    sums = torch.cat([ranked.new_zeros(1), ranked.cumsum(0)])
    at = torch.linspace(0, len(ranked), POINTS + 1, dtype=torch.float64)
    below = at.long().clamp(max=len(ranked) - 1)
    between = sums[below] + (at - below) * ranked[below]
    return between / sums[-1]


def equal_coverage(curves: Sequence[Tensor], sizes: Sequence[int], keep: float) -> list[float]:
    """Keep ratios at which every layer keeps the same share of its scores (MoE-Slimming's rule).

    It makes the smallest such share as large as it can be. By bisection on the share.

    curves: as `coverage_curve` makes them; sizes: units per layer; keep: mean keep ratio over
    all units.
    """
    grid = torch.linspace(0, 1, POINTS + 1, dtype=torch.float64)

    def ratios_at(share: float) -> list[float]:
        return [_inverse(curve, grid, share) for curve in curves]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        kept = sum(r * n for r, n in zip(ratios_at(middle), sizes, strict=True))
        if kept < keep * sum(sizes):
            low = middle
        else:
            high = middle
    return ratios_at(high)


def _inverse(curve: Tensor, grid: Tensor, share: float) -> float:
    """The least keep ratio at which a curve reaches `share`, linear between its points."""
    place = int(torch.searchsorted(curve, torch.tensor(share, dtype=curve.dtype)))
    if place == 0:
        return 0.0
    if place >= len(curve):
        return 1.0
    step = float(curve[place] - curve[place - 1])
    part = (share - float(curve[place - 1])) / step if step > 0 else 1.0
    return float(grid[place - 1]) + part * float(grid[place] - grid[place - 1])
