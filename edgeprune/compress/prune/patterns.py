"""The shapes in which weights are removed: from element scores to unit scores and back.

A weight is torch's [out, in], used as y = x W^T. A pattern cuts it into units that live or die
as one, and says which units may go. Budgets count units:

- Singles: every weight is a unit; exact in weights.
- NM: every weight is a unit, but a group of m consecutive inputs of one output gives up only
  m - n of them. With the whole capacity spent, each group holds exactly n. A ragged last group
  of r < m inputs keeps min(n, r).
- Blocks: k consecutive inputs by n consecutive outputs. Ragged edge blocks are units as well; a
  unit's score is the mean over the weights that it really has, so that small ones are neither
  favoured nor spared. Exact in blocks, and in weights too where the shape is a multiple.
- Gates: one gate, or several that share a fate (query heads, one of each key-value group).

A matrix that is pruned a few columns at a time has the pattern of those columns wherever it is cut
at a multiple of `span`.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.compress.prune.settings import COLUMNS, WEIGHT_PATTERN_HELP, parse_block, parse_n_m


class Pattern(Protocol):
    """units: how many there are; capacity: how many of them the pattern itself lets go.

    grid: the units as rows and columns; inputs, outputs: the weights of a unit that is not at a
    ragged edge; span: consecutive inputs that must be looked at together.
    """

    shape: tuple[int, ...]
    units: int
    capacity: int
    grid: tuple[int, ...]
    inputs: int
    outputs: int
    span: int

    def unit_scores(self, scores: Tensor) -> Tensor:
        """Element scores (of the weight's shape) to unit scores [units]."""

    def element_mask(self, kept: Tensor) -> Tensor:
        """Unit mask [units] (or any value per unit) to the elements of the weight's shape."""

    def removable(self, scores: Tensor, kept: Tensor, candidates: Tensor) -> Tensor:
        """Of `candidates` [units], those that may all go at once, lowest scores first."""


class Singles:
    """Each weight by itself."""

    inputs = outputs = span = 1

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = self.grid = shape
        self.units = self.capacity = math.prod(shape)

    def unit_scores(self, scores: Tensor) -> Tensor:
        return scores.reshape(-1)

    def element_mask(self, kept: Tensor) -> Tensor:
        return kept.reshape(self.shape)

    def removable(self, scores: Tensor, kept: Tensor, candidates: Tensor) -> Tensor:
        return candidates


class NM(Singles):
    """At least n weights kept of each m consecutive inputs of an output."""

    def __init__(self, shape: tuple[int, ...], n: int, m: int) -> None:
        super().__init__(shape)
        self.n, self.m = n, m
        self.span = m
        outputs, inputs = shape
        self.padding = -inputs % m
        sizes = torch.full((-(-inputs // m),), m)
        sizes[-1] -= self.padding
        self.spare = (sizes - n).clamp_(min=0)  # [groups of a row]
        self.capacity = outputs * int(self.spare.sum())

    def _groups(self, units: Tensor, fill: float) -> Tensor:
        rows = functional.pad(units.reshape(self.shape), (0, self.padding), value=fill)
        return rows.reshape(self.shape[0], -1, self.m)

    def removable(self, scores: Tensor, kept: Tensor, candidates: Tensor) -> Tensor:
        blocked = scores.masked_fill(~candidates, math.inf)
        order = self._groups(blocked, math.inf).argsort(dim=-1, stable=True)
        gone = self._groups(~kept, False).sum(-1)
        allowed = (self.spare.to(gone.device) - gone).unsqueeze(-1)  # [outputs, groups, 1]
        place = torch.arange(self.m, device=order.device).expand_as(order)
        lowest = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, place < allowed)
        rows = lowest.reshape(self.shape[0], -1)[:, : self.shape[1]]
        return rows.reshape(-1) & candidates


class Blocks:
    """Blocks of `inputs` consecutive inputs by `outputs` consecutive outputs."""

    def __init__(self, shape: tuple[int, ...], inputs: int, outputs: int) -> None:
        self.shape = shape
        self.inputs = self.span = inputs
        self.outputs = outputs
        self.grid: tuple[int, ...] = (-(-shape[0] // outputs), -(-shape[1] // inputs))
        self.units = self.capacity = math.prod(self.grid)
        heights = torch.full((self.grid[0],), outputs)
        widths = torch.full((self.grid[1],), inputs)
        heights[-1] -= -shape[0] % outputs
        widths[-1] -= -shape[1] % inputs
        self.sizes = torch.outer(heights, widths).reshape(-1)  # [units], weights in each

    def unit_scores(self, scores: Tensor) -> Tensor:
        padding = (0, -self.shape[1] % self.inputs, 0, -self.shape[0] % self.outputs)
        padded = functional.pad(scores, padding)
        blocks = padded.reshape(self.grid[0], self.outputs, self.grid[1], self.inputs)
        return blocks.sum((1, 3)).reshape(-1) / self.sizes.to(scores.device)

    def element_mask(self, kept: Tensor) -> Tensor:
        rows = kept.reshape(self.grid).repeat_interleave(self.outputs, 0)[: self.shape[0]]
        return rows.repeat_interleave(self.inputs, 1)[:, : self.shape[1]].contiguous()

    def removable(self, scores: Tensor, kept: Tensor, candidates: Tensor) -> Tensor:
        return candidates


class Gates(Singles):
    """Gates [positions]; groups [positions] gives each its unit (0, 1, ...), default its own.

    Saliency works on units here: the gradient of a shared gate is the sum of its positions'.
    """

    def __init__(self, positions: int, groups: Tensor | None = None) -> None:
        self.groups = torch.arange(positions) if groups is None else groups.long()
        if self.groups.shape != (positions,):
            raise ValueError(f"groups must name one unit for each of the {positions} gates")
        units = self.groups.unique()
        super().__init__((units.numel(),))
        if not torch.equal(units, torch.arange(self.units, device=units.device)):
            raise ValueError("groups must number their units 0, 1, 2, ... without a gap")

    def unit_gradient(self, gradient: Tensor) -> Tensor:
        """Gradient [positions] to the gradient of each unit's shared gate [units]."""
        zeros = gradient.new_zeros(self.units)
        return zeros.index_add_(0, self.groups.to(gradient.device), gradient)

    def element_mask(self, kept: Tensor) -> Tensor:
        return kept[self.groups.to(kept.device)]


def weight_pattern(text: str, shape: tuple[int, ...], name: str = "weight") -> Pattern:
    """The pattern that `text` names, for a weight of `shape`; UserError where it has none."""
    if text == "weights":
        return Singles(shape)
    n_m, block = parse_n_m(text), parse_block(text)
    if text == COLUMNS:
        block = (1, shape[0])
    if not (n_m or block):
        raise UserError(f"There is no pattern of weights {text!r}: give {WEIGHT_PATTERN_HELP}.")
    if len(shape) != 2:
        raise UserError(
            f"The pattern {text} needs a matrix, and {name} has the shape {shape}: give 'weights'."
        )
    return NM(shape, *n_m) if n_m else Blocks(shape, *block)  # type: ignore[misc]
