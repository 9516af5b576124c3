"""Grids: the values that integer codes can stand for, and the range that is chosen for them.

A code q stands for (q - zero_point) * scale. A scheme says how many codes there are and which
weights share a scale; `fit_grid` chooses the scale and the zero point for rows of weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.compress.quantize.scheme import Scheme

# Share of the range at which a row may be clipped, searched from none to strong.
_CLIPS = torch.linspace(1.0, 0.5, 26)
# Bits of a number whose multiples of up to 4 bits are floats.
_SHORT = 20
# Fits of the scale to the codes and of the codes to the scale, from each neighbour of a zero point.
_FITS = 3


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
        clip: "absmax" takes the whole range of a row; "mse" the share of it among 26 from 1.0 to
            0.5 whose squared rounding error is least, from which the scale is fitted to the codes
            by least squares (where there are zero points, to those beside the best one, too).
    """
    weight = weight.float()
    whole = _grid(weight, scheme, 1.0)
    if clip == "absmax":
        return whole
    best = _Best(weight, whole)
    for share in _CLIPS[1:]:
        best.offer(_grid(weight, scheme, float(share)))
    for grid in [best.grid] if scheme.symmetric else [best.grid, *_beside(weight, whole)]:
        for _ in range(_FITS):
            grid = _fit_scales(weight, grid)
            best.offer(grid)
    return best.grid


def in_multiples(weight: Tensor, grid: Grid, groups: int, clip: str) -> Grid:
    """The grid with scales that are, within a row, whole multiples of one number.

    That number is the row's largest scale over the largest multiple; each group takes the multiple
    of least squared error, of either sign. The number has 20 bits, so that no multiple is rounded.

    Args:
        weight: (rows * groups, columns of a group).
        grid: symmetric, a scale for each of these.
        clip: "absmax" looks at the multiples next to a group's scale, "mse" at all.
    """
    most = grid.scheme.multiples
    assert most is not None
    sizes = torch.where((weight == 0).all(dim=1), 0.0, grid.scales.abs())
    one = _nonzero(_shortened(sizes.reshape(-1, groups).amax(dim=1) / most))
    one = one.repeat_interleave(groups)
    nearest = (sizes / one).round()
    best: _Best | None = None
    offered = (nearest, nearest - 1, nearest + 1) if clip == "absmax" else range(1, most + 1)
    for multiple in offered:
        scales = torch.as_tensor(multiple).clamp(1, most) * one
        for signed in (scales, -scales):
            found = Grid(signed, grid.zero_points, grid.scheme)
            best = best or _Best(weight, found)
            best.offer(found)
    assert best is not None
    return best.grid


def as_multiples(scales: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The numbers (rows,) of which a row's scales (rows, groups) are whole multiples, and these
    int8 multiples (rows, groups).

    Raises:
        ValueError: the scales of a row are no whole multiples of one number.
    """
    largest = scales.abs().amax(dim=1)
    ones, found = torch.zeros_like(largest), torch.zeros_like(scales)
    missing = torch.ones_like(largest, dtype=torch.bool)
    for multiple in range(most, 0, -1):
        one = largest / multiple
        multiples = (scales / one[:, None]).round()
        fits = (multiples * one[:, None] == scales).all(dim=1) & missing
        ones, found = torch.where(fits, one, ones), torch.where(fits[:, None], multiples, found)
        missing &= ~fits
    if missing.any():
        raise ValueError("the scales of a row are no whole multiples of one number")
    return ones, found.to(torch.int8)


def _shortened(values: Tensor) -> Tensor:
    """Values rounded to 20 bits."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 2**_SHORT).round() / 2**_SHORT, exponent)


def _beside(weight: Tensor, whole: Grid) -> Iterator[Grid]:
    """Grids of the whole range whose zero points are the best one's neighbours, and it itself."""
    scheme = whole.scheme
    bottom, top = weight.amin(dim=1).clamp(max=0), weight.amax(dim=1).clamp(min=0)
    for shift in (0, -1, 1):
        zeros = (whole.zero_points + shift).clamp(scheme.lowest + 1, scheme.highest - 1)
        scales = torch.maximum(-bottom / zeros, top / (scheme.highest - zeros))
        yield Grid(_nonzero(scales), zeros, scheme)


class _Best:
    """For each row the grid of the least squared error among those offered."""

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        self._weight, self.grid = weight, grid
        self._errors = self._squared(grid)

    def offer(self, grid: Grid) -> None:
        """Take the rows for which this grid is better."""
        errors = self._squared(grid)
        better = errors < self._errors
        self._errors = torch.where(better, errors, self._errors)
        scales = torch.where(better, grid.scales, self.grid.scales)
        zeros = torch.where(better, grid.zero_points, self.grid.zero_points)
        self.grid = Grid(scales, zeros, grid.scheme)

    def _squared(self, grid: Grid) -> Tensor:
        return (grid.nearest(self._weight) - self._weight).square().sum(dim=1)


def _fit_scales(weight: Tensor, grid: Grid) -> Grid:
    """The scales of least squared error for the codes that the grid gives its weights."""
    steps = grid.codes(weight) - grid.zero_points[:, None]
    squares = steps.square().sum(dim=1)
    fitted = (weight * steps).sum(dim=1) / _nonzero(squares)
    return Grid(torch.where(fitted == 0, grid.scales, fitted), grid.zero_points, grid.scheme)


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
