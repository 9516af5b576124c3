"""One-shot pruning as the prune stage: layer after layer, each seeing the pruned ones before it.

An allocator says how many units each linear gives up, exact in sum. A linear's weights are
replaced before the next linear's inputs are seen (walk.py), so that later layers make up for what
earlier ones changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.base.registry import load_function
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.context import Context
from edgeprune.compress.maths.obs import Pruned, relative_error
from edgeprune.compress.prune.allocate import allocate
from edgeprune.compress.prune.criteria import CRITERIA
from edgeprune.compress.prune.oneshot_settings import LayerwiseSettings
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model

Solver = Callable[[Tensor, Tensor, str, int], Pruned]
"""(weight [out, in], Gram matrix [in, in], pattern, units that go) -> what is left."""


@dataclass(frozen=True)
class LayerResult:
    """One linear after pruning: weights removed of all, and ||(W' - W) X|| / ||W X||."""

    removed: int
    weights: int
    error: float


def run(
    context: Context, source: Path, target: Path, settings: LayerwiseSettings
) -> dict[str, Any]:
    """Prune the model in `source` in one shot; write it with its masks into `target`."""
    model = load_model(source, changes=target)
    batches = context.calibration(settings.samples, settings.allocate.sequences_per_batch)
    walk = Walk(model, batches)
    counts = allocate(model, walk, settings.pattern, settings.sparsity, settings.allocate)
    masks, layers = prune_layers(model, walk, counts, settings.pattern, solver_of(settings))
    save_model(model, target, {name: mask.to(torch.uint8) for name, mask in masks.items()})
    return {
        "pattern": settings.pattern,
        "units": sum(counts.values()),
        "removed": sum(layer.removed for layer in layers.values()),
        "weights": sum(layer.weights for layer in layers.values()),
        "layers": {name: vars(layer) for name, layer in layers.items()},
    }


def solver_of(settings: LayerwiseSettings) -> Solver:
    """The solver of a criterion, with its own settings given."""
    function, options = load_function(CRITERIA[settings.method].function), settings.options

    def solve(weight: Tensor, gram: Tensor, pattern: str, count: int) -> Pruned:
        pruned: Pruned = function(weight, gram, pattern, count, **options)
        return pruned

    return solve


@torch.no_grad()
def prune_layers(
    model: Model, walk: Walk, counts: Mapping[str, int], pattern: str, solve: Solver
) -> tuple[dict[str, Tensor], dict[str, LayerResult]]:
    """Prune the linears of a model's blocks in place, in the order of the data.

    Args:
        walk: calibration text before the first block.
        counts: units that go, for every linear of the blocks.

    Returns:
        Masks [out, in] of what is kept, and what became of each linear, by name. Of a streamed
        model, whose masks would be a quarter of it, there are none: what is not zero is kept.

    Raises:
        UserError: inputs or corrected weights are not finite.
    """
    masks: dict[str, Tensor] = {}
    results: dict[str, LayerResult] = {}
    blocks = model.anatomy.blocks
    for block in track(blocks, "pruning layers", len(blocks)):
        with model.opened(block.name):
            for names in input_groups(block):
                gram = walk.inputs(block, names[0]).gram
                for name in names:
                    weight = model.linear(name).weight
                    pruned = solve(weight.detach(), gram, pattern, counts[name])
                    if not bool(torch.isfinite(pruned.weight).all()):
                        raise UserError(
                            f"{name} would be corrected to values that are not finite: "
                            "raise prune.damping or prune.samples."
                        )
                    error = relative_error(weight, pruned.weight, gram)
                    removed = int((~pruned.kept).sum())
                    results[name] = LayerResult(removed, weight.numel(), error)
                    if model.streamed is None:
                        masks[name] = pruned.kept
                    weight.copy_(pruned.weight)
            walk.advance(block)
    return masks, results
