"""INT4 and INT8 with a scale for each group of a row's columns, in plain tensor mathematics.

The values are those of ONNX Runtime's MatMulNBits: (code - zero_point) * scale with unsigned codes,
groups along what the product sums over, and the last group short where they do not come out even.
Symmetric groups have the middle code for their zero point, which is then not stored; as in the
runtime's own quantizer and in llama.cpp's Q4_0 their scale takes the sign that puts the largest
weight at code 0, of which there is one more below the middle than above it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from edgeprune.compress.quantize.grid import (
    Grid,
    check_finite,
    fit_grid,
    in_multiples,
    rounding_errors,
)
from edgeprune.compress.quantize.scheme import Scheme


@dataclass(frozen=True)
class Grouped:
    """A matrix as codes with a scale and a zero point per row and group of columns."""

    codes: Tensor
    """uint8 in [0, 2^bits), (rows, columns)."""
    scales: Tensor
    """float32, (rows, groups)."""
    zero_points: Tensor
    """uint8, (rows, groups)."""
    group: int
    """Columns of a group; the last may have fewer."""
    largest_error: float
    """Largest absolute difference to the original."""
    relative_error: float
    """Frobenius norm of the difference over that of the original."""

    @classmethod
    def of(cls, weight: Tensor, codes: Tensor, grids: list[Grid], group: int) -> "Grouped":
        """Codes (rows, columns) on a grid for each group, with their error to `weight`."""
        scales = torch.stack([grid.scales for grid in grids], dim=1)
        zero_points = torch.stack([grid.zero_points for grid in grids], dim=1).to(torch.uint8)
        codes = codes.to(torch.uint8)
        errors = rounding_errors(weight, dequantize_groups(codes, scales, zero_points, group))
        return cls(codes, scales, zero_points, group, *errors)

    def dequantize(self) -> Tensor:
        """The float32 values that the codes stand for."""
        return dequantize_groups(self.codes, self.scales, self.zero_points, self.group)


def dequantize_groups(codes: Tensor, scales: Tensor, zero_points: Tensor, group: int) -> Tensor:
    """(codes - zero_points) * scales in float32, (rows, columns).

    codes: (rows, columns); scales, zero_points: (rows, groups) of `group` columns.
    """
    columns = codes.shape[1]
    scale = scales.repeat_interleave(group, dim=1)[:, :columns]
    zero = zero_points.repeat_interleave(group, dim=1)[:, :columns]
    return (codes.float() - zero.float()) * scale


def round_groups(weight: Tensor, scheme: Scheme, clip: str = "absmax") -> Grouped:
    """Round each group of a row's columns to unsigned integers on a grid of its own.

    Args:
        weight: float32, (rows, columns).
        scheme: one with groups.
        clip: how a group's range is chosen, as `fit_grid` says.

    Raises:
        ValueError: a weight is not finite.
    """
    check_finite(weight)
    assert scheme.group is not None
    groups = as_groups(weight, scheme.group)
    return from_groups(
        weight, groups, settled(weight, groups, fit_grid(groups, scheme, clip), clip)
    )


def settled(weight: Tensor, groups: Tensor, grid: Grid, clip: str) -> Grid:
    """The grid of a weight's groups, (rows * groups,), with scales as its scheme stores them."""
    if grid.scheme.multiples is None:
        return grid
    return in_multiples(groups, grid, len(groups) // len(weight), clip)


def by_group(grid: Grid, rows: int) -> list[Grid]:
    """A grid (rows * groups,) as one (rows,) for each group."""
    scales, zeros = grid.scales.reshape(rows, -1).T, grid.zero_points.reshape(rows, -1).T
    return [Grid(*each, grid.scheme) for each in zip(scales, zeros, strict=True)]


def as_groups(weight: Tensor, group: int) -> Tensor:
    """A weight (rows, columns) as (rows * groups, group).

    Zeros fill the last group of a row: they are on every grid and change no range.
    """
    return pad(weight, (0, -weight.shape[1] % group)).reshape(-1, group)


def from_groups(weight: Tensor, groups: Tensor, grid: Grid) -> Grouped:
    """A weight rounded to the nearest on a grid for each of its groups.

    groups: what `as_groups` made of `weight`, (rows * groups, group), a row of `grid` for each.
    """
    rows, columns = weight.shape
    codes = grid.codes(groups).reshape(rows, -1)[:, :columns]
    return Grouped.of(weight, codes, by_group(grid, rows), groups.shape[1])
