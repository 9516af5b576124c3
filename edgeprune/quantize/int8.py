"""Symmetric INT8 with one scale per row, in plain tensor mathematics."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Share of the largest weight at which a row may be clipped, searched from none to strong.
_CLIPS = torch.linspace(1.0, 0.5, 26)


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

    def dequantize(self) -> Tensor:
        """The float32 values that the codes stand for."""
        return self.codes.float() * self.scales[:, None]


def round_rows(weight: Tensor, bits: int = 8, clip: str = "absmax") -> Rounded:
    """Round each row to integers in [-q, q], q = 2^(bits-1) - 1, times a scale of its own.

    Args:
        weight: float32, (rows, columns).
        bits: 8, or 7 where sums of two products must fit 16 bits (processors without VNNI).
        clip: "absmax" takes a row's largest value for its range, "mse" the range among 26 from
            1.0 to 0.5 of it whose squared rounding error is least.

    Raises:
        ValueError: a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is NaN or infinite")
    top = 2 ** (bits - 1) - 1
    largest = weight.abs().amax(dim=1)
    scales = _scales(largest, top)
    if clip == "mse":
        scales = _least_squares(weight, largest, top)
    codes = _codes(weight, scales, top)
    rounded = codes * scales[:, None]
    error = rounded - weight
    norm = weight.norm()
    return Rounded(
        codes.to(torch.int8),
        scales,
        float(error.abs().max()) if error.numel() else 0.0,
        float(error.norm() / norm) if norm > 0 else 0.0,
    )


def _scales(largest: Tensor, top: int) -> Tensor:
    # A row of zeros keeps a scale of one: its codes are zeros anyway.
    return torch.where(largest > 0, largest / top, torch.ones_like(largest))


def _codes(weight: Tensor, scales: Tensor, top: int) -> Tensor:
    return (weight / scales[:, None]).round().clamp(-top, top)


def _least_squares(weight: Tensor, largest: Tensor, top: int) -> Tensor:
    best = torch.full_like(largest, torch.inf)
    chosen = _scales(largest, top)
    for share in _CLIPS:
        scales = _scales(largest * share, top)
        error = (_codes(weight, scales, top) * scales[:, None] - weight).square().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, scales, chosen)
    return chosen
