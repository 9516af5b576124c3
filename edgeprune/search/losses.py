"""Losses of each level of each block, and of sets of layers, measured on the user's text.

A level of a block is how many units it keeps: heads of an attention, channels of a feed-forward.
Which units leave, and in which order, follows from their compensated removal (maths/structured.py)
under what the block's last linear reads on the text; layer after layer, of the whole model. Squared
errors of outputs do not compare between blocks, so the loss itself is measured where it can be
afforded: a few levels of every block, one block at a time, the rest whole, by the objective's
damage. Between those, the loss is taken to be a power of the squared error, which holds at both
ends of an interval exactly.

A set of layers is measured as it stands: what the text loses when the model runs these layers
alone. Sets come from a beam: of the best sets of a size, each without one layer more.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS, Gate, make_gates
from edgeprune.compress.calibrate.walk import InputStatistics, Walk
from edgeprune.compress.cut.compensate import compensated, hessian_of, norm_weights
from edgeprune.compress.cut.depth import damage, references
from edgeprune.compress.cut.surgery import only_layers
from edgeprune.compress.maths.structured import Removal, removal
from edgeprune.model.model import Model
from edgeprune.model.restored import values_restored
from edgeprune.text.batches import Batch

_MEASURED = (0.25, 0.5, 0.75, 0.9)
"""Shares of a block's units that leave where its loss is measured."""
_STEPS = 96
"""Steps in which a block's units leave: one at a time where there are no more of them."""
_DAMPING = 0.01
_SETS = 600
"""Sets of layers that are measured, about, of a deep model: a narrower beam of it."""


@dataclass(frozen=True)
class Curve:
    """The loss of one block by the units that it keeps.

    kind: heads or channels. units: that it has (of grouped-query attention query heads). step:
    units that leave together at least. kept, errors: units kept, falling, and the squared error of
    the block's output relative to its energy there, rising from 0. measured: units kept -> loss.
    """

    layer: int
    kind: str
    units: int
    step: int
    kept: tuple[int, ...]
    errors: tuple[float, ...]
    measured: dict[int, float]

    def loss(self, kept: int) -> float:
        """The loss with `kept` units: as measured, or between two measurements by the squared
        error; never below that of more units."""
        if kept >= self.units:
            return 0.0
        return float(np.exp(self._logarithm(kept)))

    def _logarithm(self, kept: int) -> float:
        places = sorted(self.measured, reverse=True)
        highest = np.maximum.accumulate([max(self.measured[each], _LEAST) for each in places])
        x = [np.log(max(self.error(each), _LEAST)) for each in places]
        y = np.log(highest)
        at = np.log(max(self.error(kept), _LEAST))
        if at < x[0]:  # below the least that was measured: loss and squared error in proportion
            return float(y[0] + at - x[0])
        return float(np.interp(at, x, y))

    def error(self, kept: int) -> float:
        """The squared error with `kept` units, relative to the energy of the output."""
        return float(np.interp(-kept, [-each for each in self.kept], self.errors))


_LEAST = 1e-12


@dataclass(frozen=True)
class Layers:
    """Layers that are kept, and the loss when the model runs these alone."""

    kept: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Losses:
    """The losses of a model on a text: a curve for each kind in each layer, and sets of layers of
    every size, the best first."""

    heads: tuple[Curve, ...]
    channels: tuple[Curve, ...]
    layers: tuple[Layers, ...]

    def curve(self, kind: str, layer: int) -> Curve:
        """The curve of a block."""
        return (self.heads if kind == HEADS else self.channels)[layer]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "heads": [vars(each) for each in self.heads],
            "channels": [vars(each) for each in self.channels],
            "layers": [vars(each) for each in self.layers],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Losses":
        """The same back."""
        curves = {
            kind: tuple(
                Curve(
                    **{
                        **each,
                        "kept": tuple(each["kept"]),
                        "errors": tuple(each["errors"]),
                        "measured": {int(k): v for k, v in each["measured"].items()},
                    }
                )
                for each in content[kind]
            )
            for kind in (HEADS, CHANNELS)
        }
        sets = tuple(Layers(tuple(each["kept"]), each["loss"]) for each in content["layers"])
        return cls(curves[HEADS], curves[CHANNELS], sets)


@torch.no_grad()
def measure_losses(
    model: Model, statistics: Sequence[Batch], judged: Sequence[Batch], first_stays: bool = False
) -> Losses:
    """The losses of every block's levels and of sets of layers.

    Args:
        statistics: the text from which order and compensation are taken.
        judged: the text on which losses are measured; a few dozen sequences.
        first_stays: no set of layers leaves the first out.

    Raises:
        UserError: the model's blocks are mixtures, short convolutions or run again and again, or
            the text gives values that are not finite.
    """
    curves: dict[str, list[Curve]] = {HEADS: [], CHANNELS: []}
    whole = references(model, judged)
    for leaving in blocks_of(model, statistics, "losses of levels"):
        curves[leaving.kind].append(_curve(model, leaving, judged, whole))
    sets = layer_sets(model, judged, whole, first_stays)
    return Losses(tuple(curves[HEADS]), tuple(curves[CHANNELS]), tuple(sets))


@dataclass(frozen=True)
class Leaving:
    """A block of the whole model, and how its units leave.

    linear: its last, by name. step: units that leave together at least. columns: of the linear that
    each unit writes [units, columns]. gone: the order in which they leave, with the squared errors.
    energy: of the linear's output, the sum of its squares. seen: what the linear reads.
    """

    layer: int
    kind: str
    linear: str
    step: int
    columns: Tensor
    gone: Removal
    energy: float
    seen: InputStatistics

    def without(self, weight: Tensor, bias: Tensor | None, left: int) -> tuple[Tensor, Tensor]:
        """The linear's weight [out, in] and bias [out] without the first `left` that leave: zero
        there, the others compensated. Without a bias that is empty."""
        kept = torch.ones(weight.shape[1], dtype=torch.bool)
        kept[self.columns[self.gone.order[:left]].flatten()] = False
        narrow, shifted = compensated(weight, bias, self.seen, kept, _DAMPING)
        wide = torch.zeros_like(weight)
        wide[:, kept] = narrow
        return wide, weight.new_empty(0) if shifted is None else shifted


def blocks_of(model: Model, statistics: Sequence[Batch], what: str) -> Iterator[Leaving]:
    """The blocks of the whole model, layer after layer, attention first.

    Args:
        what: named in the progress bar.
    """
    walk = Walk(model, statistics)
    gates = {kind: make_gates(model, kind) for kind in (HEADS, CHANNELS)}
    blocks = model.anatomy.blocks
    for block in track(blocks, what, len(blocks)):
        readers = {HEADS: block.attention.output, CHANNELS: block.feed_forward.down}
        for kind, name in readers.items():
            gate, linear = gates[kind][block.index], model.linear(name)
            columns = unit_columns(gate)
            seen = walk.inputs(
                block, name, functools.partial(norm_weights, linear.weight, linear.bias)
            )
            hessian = hessian_of(seen, linear.bias is not None, _DAMPING)
            together = max(1, len(columns) // _STEPS)
            gone = removal(linear.weight, hessian, columns, together)
            step = len(gate.value) // len(columns)
            weight = linear.weight.detach().double()
            energy = float(((weight @ hessian) * weight).sum())
            yield Leaving(block.index, kind, name, step, columns, gone, energy, seen)
        walk.advance(block)


def _curve(model: Model, leaving: Leaving, judged: Sequence[Batch], whole: list[Tensor]) -> Curve:
    linear, gone = model.linear(leaving.linear), leaving.gone
    units, step = len(leaving.columns), leaving.step
    energy = max(leaving.energy, _LEAST)
    curve = Curve(
        leaving.layer,
        leaving.kind,
        units * step,
        step,
        tuple(step * (units - left) for left in range(len(gone.costs))),
        tuple(np.maximum.accumulate((gone.costs / energy).tolist()).tolist()),
        {},
    )
    levels = sorted({min(len(gone.order), max(1, round(share * units))) for share in _MEASURED})
    own = [each for each in (linear.weight, linear.bias) if each is not None]
    for left in [level for level in levels if 0 < level <= len(gone.order)]:
        with values_restored(own):
            for tensor, values in zip(
                own, leaving.without(linear.weight, linear.bias, left), strict=False
            ):
                tensor.copy_(values)
            curve.measured[step * (units - left)] = lost(model, judged, whole)
    return curve


def unit_columns(gate: Gate) -> Tensor:
    """The columns of each unit of a gate [units, columns]; heads that share a fate are one unit."""
    columns = torch.arange(len(gate.value) * gate.unit_size).view(-1, gate.unit_size)
    if gate.groups is None:
        return columns
    units = int(gate.groups.max()) + 1
    return torch.stack([columns[gate.groups == unit].flatten() for unit in range(units)])


def lost(model: Model, batches: Sequence[Batch], whole: Sequence[Tensor]) -> float:
    """Damage against the whole model's references; infinite where the outputs are not finite."""
    found = damage(model, batches, whole)
    return found if math.isfinite(found) else math.inf


def layer_sets(
    model: Model, batches: Sequence[Batch], whole: Sequence[Tensor], first_stays: bool = False
) -> list[Layers]:
    """The best sets of layers of every size, from all of them down to one, each size's best first.

    A beam: the best sets of a size, each without one layer more; three wide, or narrower where
    there are many layers.
    """
    total = len(model.anatomy.blocks)
    if model.anatomy.repeats > 1:
        raise UserError("The model's layers run again and again, so that none can leave alone.")
    beam = max(1, min(3, 2 * _SETS // total**2))
    best = [Layers(tuple(range(total)), 0.0)]
    found = list(best)
    for _ in track(range(total - 1), "sets of layers", total - 1):
        wider = {
            tuple(layer for layer in each.kept if layer != gone)
            for each in best
            for gone in each.kept
            if not (first_stays and gone == 0)
        }
        measured = []
        for kept in sorted(wider):
            with only_layers(model, kept):
                measured.append(Layers(kept, lost(model, batches, whole)))
        best = sorted(measured, key=lambda each: (each.loss, each.kept))[:beam]
        found += best
    return found
