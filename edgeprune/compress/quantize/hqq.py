"""Half-quadratic quantization, after HQQ (Badri & Shaji, 2023): no calibration text.

A grid is sought whose rounding errors have the least sum of |error|^p, p < 1: many weights come
very near and a few outliers may be far off, where least squares would stretch the grid for them.
The splitting of the paper: outliers e are told from errors by a shrinking step, then the grid is
fitted to what is left, weight - e, then e again. The paper moves a real-valued zero point and holds
the scale; the runtime's zero points are whole, so here the scale is fitted by least squares and a
zero point, where the scheme has one, is moved and rounded. Errors are counted in steps of the
grid, so that the result does not hang on the weights' unit.
"""

import torch
from torch import Tensor

from edgeprune.compress.quantize.grid import Grid, check_finite, fit_grid
from edgeprune.compress.quantize.grouped import Grouped, as_groups, from_groups, settled
from edgeprune.compress.quantize.int8 import Rounded
from edgeprune.compress.quantize.scheme import Scheme

_POWER = 0.7
_SHARPNESS = 10.0
_GROWTH = 1.01
_STEPS = 20


def hqq(weight: Tensor, scheme: Scheme, clip: str = "absmax") -> Rounded | Grouped:
    """Round each group to the grid of the least |error|^0.7 that is found.

    Args:
        weight: float32, (rows, columns).
        scheme: the integers that weights become.
        clip: how the range to start from is chosen, as `fit_grid` says.

    Raises:
        ValueError: a weight is not finite.
    """
    check_finite(weight)
    if scheme.group is None:
        grid = refine(weight, fit_grid(weight, scheme, clip))
        return Rounded.of(weight, grid.codes(weight), grid)
    groups = as_groups(weight, scheme.group)
    grid = refine(groups, fit_grid(groups, scheme, clip))
    return from_groups(weight, groups, settled(weight, groups, grid, clip))


def refine(weight: Tensor, grid: Grid) -> Grid:
    """The best of the grids that half-quadratic splitting passes, the given one included.

    weight: (rows, columns), all columns of a row sharing a scale.
    """
    best, least = grid, _spread(weight, grid)
    sharpness = _SHARPNESS
    for _ in range(_STEPS):
        codes = grid.codes(weight)
        step = grid.scales[:, None]
        errors = (weight - grid.values(codes)) / step
        outliers = _shrink(errors, sharpness) * step
        grid = _fit(weight - outliers, codes, grid)
        spread = _spread(weight, grid)
        better = spread < least
        least = torch.where(better, spread, least)
        best = Grid(
            torch.where(better, grid.scales, best.scales),
            torch.where(better, grid.zero_points, best.zero_points),
            grid.scheme,
        )
        sharpness *= _GROWTH
    return best


def _fit(wanted: Tensor, codes: Tensor, grid: Grid) -> Grid:
    """The grid whose values at `codes` come nearest to what is wanted."""
    scheme, zeros = grid.scheme, grid.zero_points
    if not scheme.symmetric:
        zeros = (codes - wanted / grid.scales[:, None]).mean(dim=1).round()
        zeros = zeros.clamp(scheme.lowest, scheme.highest)
    levels = codes - zeros[:, None]
    squares = levels.square().sum(dim=1)
    scales = (levels * wanted).sum(dim=1) / squares.clamp(min=1)
    return Grid(torch.where(scales == 0, grid.scales, scales), zeros, scheme)


def _shrink(errors: Tensor, sharpness: float) -> Tensor:
    """The part of each error that counts as an outlier: the proximal step of |.|^p."""
    size = errors.abs()
    return errors.sign() * (size - size.clamp(min=1e-8) ** (_POWER - 1) / sharpness).clamp(min=0)


def _spread(weight: Tensor, grid: Grid) -> Tensor:
    return (weight - grid.nearest(weight)).abs().pow(_POWER).sum(dim=1)
