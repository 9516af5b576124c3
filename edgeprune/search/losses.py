"""The losses of each level of each block, and of sets of layers, as they were measured (levels.py).

A level of a block is how many units it keeps: heads of an attention, channels of a feed-forward.
Between the levels whose loss was measured, it is taken to be a power of the squared error, which
holds at both ends of an interval exactly.
"""

import math
from functools import cached_property

import numpy as np

from edgeprune.base.record import Many, Record
from edgeprune.compress.calibrate.gates import HEADS

_LEAST = 1e-12


class LevelLoss(Record):
    """The loss of a block that keeps so many units, the rest of the model whole."""

    kept: int
    loss: float | None
    """None: the outputs are not finite."""


class Curve(Record):
    """The loss of one block by the units that it keeps."""

    layer: int
    kind: str
    """Heads or channels."""
    units: int
    """That it has; of grouped-query attention query heads."""
    step: int
    """Units that leave together at least."""
    kept: Many[int]
    """Units kept, falling from all."""
    errors: Many[float]
    """The squared error of the block's output relative to its energy there, rising from 0."""
    measured: Many[LevelLoss]
    """Levels whose loss itself was measured, falling in units kept."""

    def loss(self, kept: int) -> float:
        """The loss with `kept` units: as measured, or between two measurements by the squared
        error; never below that of more units. Infinite from where on the outputs are not finite."""
        if kept >= self.units:
            return 0.0
        if any(each.loss is None and kept <= each.kept for each in self.measured):
            return math.inf
        errors, losses = self._logarithms
        at = np.log(max(self.error(kept), _LEAST))
        if (
            at < errors[0]
        ):  # below the least that was measured: loss and squared error in proportion
            return float(np.exp(losses[0] + at - errors[0]))
        return float(np.exp(np.interp(at, errors, losses)))

    def error(self, kept: int) -> float:
        """The squared error with `kept` units, relative to the energy of the output."""
        return float(np.interp(-kept, [-each for each in self.kept], self.errors))

    @cached_property
    def _logarithms(self) -> tuple[np.ndarray, np.ndarray]:
        """Of errors and losses where they were measured, both rising."""
        finite = [
            (self.error(each.kept), each.loss) for each in self.measured if each.loss is not None
        ]
        errors, losses = np.maximum(np.array(finite).T, _LEAST)
        return np.log(errors), np.log(np.maximum.accumulate(losses))


class Layers(Record):
    """Layers that are kept, and the loss when the model runs these alone."""

    kept: Many[int]
    loss: float


class Losses(Record):
    """The losses of a model on a text: a curve for each kind in each layer, and sets of layers of
    every size, the best first."""

    heads: Many[Curve]
    channels: Many[Curve]
    layers: Many[Layers]

    def curve(self, kind: str, layer: int) -> Curve:
        """The curve of a block."""
        return (self.heads if kind == HEADS else self.channels)[layer]
