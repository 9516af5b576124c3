"""The share of a weight that looks like noise: the Marchenko-Pastur bulk of its spectrum.

For W [P, N] with P <= N of independent entries of variance s^2, the eigenvalues of W W^T / N fall
between s^2 (1 - sqrt(g))^2 and s^2 (1 + sqrt(g))^2, g = P / N. The variance is fitted on the middle
ranks, where few planted directions do not reach (BEMA: Ke, Ma and Lin, 2021). On language models
the bulk carries the function: it is a signal for shares, never a place to truncate.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TRIMMED = 0.2
"""Share of the ranks at either end that the fit leaves out."""
TRACY_WIDOM_90 = 0.4501
"""The 90 % quantile of the Tracy-Widom law of real matrices: the margin of the largest eigenvalue
in a finite matrix."""
_GRID = 4096


@dataclass(frozen=True)
class Bulk:
    """A fitted law. variance: s^2. edge: the largest eigenvalue of noise, with its margin.
    spikes: eigenvalues above it. energy: share of all variance below it. distance: largest
    difference of the distribution functions on the middle ranks (0 is a perfect fit)."""

    variance: float
    edge: float
    spikes: int
    energy: float
    distance: float


def fit_bulk(weight: Tensor) -> Bulk:
    """Fit the law to a weight [out, in], not all zero."""
    matrix = weight.double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    rows, columns = matrix.shape
    aspect = rows / columns
    values = torch.linalg.eigvalsh(matrix @ matrix.T / columns).clamp(min=0)  # ascending
    points, cdf = _law(aspect)
    ranks = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    middle = (ranks >= TRIMMED) & (ranks <= 1 - TRIMMED)
    quantiles = _interpolate(ranks[middle], cdf, points)
    found = values[middle]
    variance = float((quantiles * found).sum() / quantiles.square().sum())
    root = 1 + math.sqrt(aspect)
    margin = TRACY_WIDOM_90 * columns ** (-2 / 3) * aspect ** (-1 / 6) * root ** (4 / 3)
    edge = variance * (root**2 + margin)
    noise = values <= edge
    expected = _interpolate(found / variance, points, cdf) if variance else torch.zeros(1)
    return Bulk(
        variance,
        edge,
        int((~noise).sum()),
        float(values[noise].sum() / values.sum()),
        float((expected - ranks[middle]).abs().max()),
    )


def _law(aspect: float) -> tuple[Tensor, Tensor]:
    """Points and distribution function of the law of variance 1.

    With x = 1 + g + 2 sqrt(g) cos(t) the density's square roots at both edges become sin(t)^2.
    """
    angle = torch.linspace(math.pi, 0, _GRID, dtype=torch.float64)
    points = 1 + aspect + 2 * math.sqrt(aspect) * angle.cos()
    density = 2 / math.pi * angle.sin().square() / points.clamp(min=1e-12)
    steps = (density[1:] + density[:-1]) / 2 * (angle[:-1] - angle[1:])
    cdf = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    return points, cdf / cdf[-1]


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """ys at x, linear between ascending xs, held at the ends."""
    right = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    left = right - 1
    part = ((x - xs[left]) / (xs[right] - xs[left]).clamp(min=1e-300)).clamp(0, 1)
    return ys[left] + part * (ys[right] - ys[left])
