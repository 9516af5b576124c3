"""The losses of levels and of sets of layers, measured on text.

Squared errors of outputs do not compare between blocks, so the loss itself is measured where it can
be afforded: a few levels of every block, one block at a time, the rest whole, by the objective's
damage.

A set of layers is measured as it stands: what the text loses when the model runs these layers
alone. Sets come from a beam: of the best sets of a size, each without one layer more.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.compress.cut.depth import damage, references
from edgeprune.compress.cut.surgery import only_layers
from edgeprune.model.model import Model
from edgeprune.model.restored import values_restored
from edgeprune.search.blocks import Leaving
from edgeprune.search.losses import Curve, Layers, LevelLoss, Losses
from edgeprune.text.batches import Batch

_MEASURED = (0.25, 0.5, 0.75, 0.9)
"""Shares of a block's units that leave where its loss is measured."""
_LEAST = 1e-12
_SETS = 600
"""Sets of layers that are measured, about, of a deep model: a narrower beam of it."""


@torch.no_grad()
def measure_losses(
    model: Model, blocks: Sequence[Leaving], judged: Sequence[Batch], first_stays: bool = False
) -> Losses:
    """The losses of every block's levels and of sets of layers.

    Args:
        blocks: of the same model, layer after layer (blocks.py).
        judged: the text on which losses are measured; a few dozen sequences.
        first_stays: no set of layers leaves the first out.

    Raises:
        UserError: the model's layers run again and again.
    """
    whole = references(model, judged)
    curves: dict[str, list[Curve]] = {HEADS: [], CHANNELS: []}
    for leaving in track(blocks, "losses of levels", len(blocks)):
        curves[leaving.kind].append(_curve(model, leaving, judged, whole))
    sets = layer_sets(model, judged, whole, first_stays)
    return Losses(heads=tuple(curves[HEADS]), channels=tuple(curves[CHANNELS]), layers=tuple(sets))


def _curve(
    model: Model, leaving: Leaving, judged: Sequence[Batch], whole: Sequence[Tensor]
) -> Curve:
    gone, units, step = leaving.gone, len(leaving.columns), leaving.step
    energy = max(leaving.energy, _LEAST)
    lefts = {min(len(gone.order), max(1, round(share * units))) for share in _MEASURED}
    return Curve(
        layer=leaving.layer,
        kind=leaving.kind,
        units=units * step,
        step=step,
        kept=tuple(step * (units - left) for left in range(len(gone.costs))),
        errors=tuple(np.maximum.accumulate((gone.costs / energy).tolist()).tolist()),
        measured=tuple(
            LevelLoss(
                kept=step * (units - left), loss=_level_loss(model, leaving, left, judged, whole)
            )
            for left in sorted(lefts)
            if left > 0
        ),
    )


def _level_loss(
    model: Model, leaving: Leaving, left: int, judged: Sequence[Batch], whole: Sequence[Tensor]
) -> float | None:
    linear = model.linear(leaving.linear)
    own = [each for each in (linear.weight, linear.bias) if each is not None]
    with values_restored(own):
        # Without a bias its part of the level is empty.
        for tensor, values in zip(
            own, leaving.without(linear.weight, linear.bias, left), strict=False
        ):
            tensor.copy_(values)
        found = lost(model, judged, whole)
    return found if math.isfinite(found) else None


def lost(model: Model, batches: Sequence[Batch], whole: Sequence[Tensor]) -> float:
    """Damage against the whole model's references; infinite where the outputs are not finite."""
    found = damage(model, batches, whole)
    return found if math.isfinite(found) else math.inf


def layer_sets(
    model: Model, batches: Sequence[Batch], whole: Sequence[Tensor], first_stays: bool = False
) -> list[Layers]:
    """The best sets of layers of every size, from all of them down to one, each size's best first.

    A beam: the best sets of a size, each without one layer more; three wide, or narrower where
    there are many layers. Sets whose outputs are not finite are left out.
    """
    total = len(model.anatomy.blocks)
    if model.anatomy.repeats > 1:
        raise UserError("The model's layers run again and again, so that none can leave alone.")
    beam = max(1, min(3, 2 * _SETS // total**2))
    best = [Layers(kept=tuple(range(total)), loss=0.0)]
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
                loss = lost(model, batches, whole)
            if math.isfinite(loss):
                measured.append(Layers(kept=kept, loss=loss))
        best = sorted(measured, key=lambda each: (each.loss, each.kept))[:beam]
        found += best
    return found
