"""Symmetric INT8 with one scale per row, in plain tensor mathematics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.compress.quantize.grid import Grid, check_finite, fit_grid, rounding_errors
from edgeprune.compress.quantize.scheme import Scheme


@dataclass(frozen=True)
class Rounded:
    """A matrix as codes and scales: row r is codes[r] * scales[r]."""

    codes: Tensor
    """int8, (rows, columns)."""
    scales: Tensor
    """float32, (rows,)."""
    largest_error: float
    """Largest absolute difference to the original."""
    relative_error: float
    """Frobenius norm of the difference over that of the original."""

    @classmethod
    def of(cls, weight: Tensor, codes: Tensor, grid: Grid) -> "Rounded":
        """Codes (rows, columns) on a grid for each row, with their error to `weight`."""
        errors = rounding_errors(weight, grid.values(codes))
        return cls(codes.to(torch.int8), grid.scales, *errors)

    def dequantize(self) -> Tensor:
        """The float32 values that the codes stand for."""
        return self.codes.float() * self.scales[:, None]


def round_rows(weight: Tensor, bits: int = 8, clip: str = "absmax") -> Rounded:
    """Round each row to integers in [-q, q], q = 2^(bits-1) - 1, times a scale of its own.

    Args:
        weight: float32, (rows, columns).
        bits: 8, or 7 where sums of two products must fit 16 bits (processors without VNNI).
        clip: how a row's range is chosen, as `fit_grid` says.

    Raises:
        ValueError: a weight is not finite.
    """
    check_finite(weight)
    grid = fit_grid(weight, Scheme(bits), clip)
    return Rounded.of(weight, grid.codes(weight), grid)
