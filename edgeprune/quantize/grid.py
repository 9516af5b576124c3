"""Grids: the values that integer codes can stand for, and the range that is chosen for them.

A code q stands for (q - zero_point) * scale. A scheme says how many codes there are and which
weights share a scale; `fit_grid` chooses the scale and the zero point for rows of weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.quantize.scheme import Scheme

# Share of the range at which a row may be clipped, searched from none to strong.
_CLIPS = torch.linspace(1.0, 0.5, 26)


@dataclass(frozen=True)
class Grid:
    """One scale and one zero point for each row of weights."""

    scales: Tensor
    """float32, (rows,); negative where a symmetric group's largest weight is positive."""
    zero_points: Tensor
    """float32 whole numbers, (rows,)."""
    scheme: Scheme

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes, as whole floats, of weights (rows, columns)."""
        levels = (weight / self.scales[:, None]).round() + self.zero_points[:, None]
        return levels.clamp(self.scheme.lowest, self.scheme.highest)

    def values(self, codes: Tensor) -> Tensor:
        """The float32 weights that codes (rows, columns) stand for."""
        return (codes.float() - self.zero_points[:, None]) * self.scales[:, None]

    def nearest(self, weight: Tensor) -> Tensor:
        """The nearest weights that codes can stand for."""
        return self.values(self.codes(weight))


def fit_grid(weight: Tensor, scheme: Scheme, clip: str = "absmax") -> Grid:
    """Choose a scale and a zero point for each row; zero is always among the values.

    Args:
        weight: (rows, columns), all columns of a row sharing a scale.
        clip: "absmax" takes the whole range of a row, "mse" the share of it among 26 from 1.0 to
            0.5 whose squared rounding error is least.
    """
    weight = weight.float()
    whole = _grid(weight, scheme, 1.0)
    if clip == "absmax":
        return whole
    best, scales, zeros = (
        weight.new_full((len(weight),), torch.inf),
        whole.scales,
        whole.zero_points,
    )
    for share in _CLIPS:
        grid = _grid(weight, scheme, float(share))
        error = (grid.nearest(weight) - weight).square().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        scales = torch.where(better, grid.scales, scales)
        zeros = torch.where(better, grid.zero_points, zeros)
    return Grid(scales, zeros, scheme)


def _grid(weight: Tensor, scheme: Scheme, share: float) -> Grid:
    """The grid on a share of each row's range."""
    if not scheme.symmetric:
        bottom = weight.amin(dim=1).clamp(max=0) * share
        top = weight.amax(dim=1).clamp(min=0) * share
        scales = _nonzero((top - bottom) / scheme.highest)
        zeros = (-bottom / scales).round().clamp(scheme.lowest, scheme.highest)
        return Grid(scales, zeros, scheme)
    largest = weight.abs().amax(dim=1) * share
    if scheme.group is None:
        scales = largest / scheme.highest
    else:
        # There is one code more below the middle than above it: the largest weight takes it.
        top, bottom = weight.amax(dim=1), weight.amin(dim=1)
        scales = torch.where(top > -bottom, -largest, largest) / scheme.middle
    return Grid(_nonzero(scales), torch.full_like(largest, scheme.middle), scheme)


def _nonzero(scales: Tensor) -> Tensor:
    # A row of zeros keeps a scale of one: it stands for zeros anyway.
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def rounding_errors(weight: Tensor, rounded: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and the difference's Frobenius norm over the weight's."""
    error = rounded - weight
    norm = weight.norm()
    largest = float(error.abs().max()) if error.numel() else 0.0
    return largest, float(error.norm() / norm) if norm > 0 else 0.0


def check_finite(weight: Tensor) -> None:
    """Refuse what has no nearest code.

    Raises:
        ValueError: a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is NaN or infinite")
