"""One ranking of all weights by what their loss does to the model's output (after NAP, 2101.06608).

In every round curvature is taken on the model as it is, a part of the weights leaves by one global
threshold on their costs, and what stays in each row makes up for it under the inputs' covariance,
layer after layer. (NAP's own correction also goes across outputs, one weight at a time.)
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.base.budget import most_removable
from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.curvature import fisher, fisher_costs, kfac, kfac_costs
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.context import Context
from edgeprune.compress.maths.obs import damped, relative_error, remove_in_blocks
from edgeprune.compress.maths.ranking import lowest
from edgeprune.compress.prune.oneshot import LayerResult
from edgeprune.compress.prune.oneshot_settings import GlobalSettings
from edgeprune.compress.prune.patterns import Pattern, weight_pattern
from edgeprune.compress.prune.settings import parse_n_m
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.text.batches import Batch


def run(context: Context, source: Path, target: Path, settings: GlobalSettings) -> dict[str, Any]:
    """Prune the model in `source` by one ranking; write it with its masks into `target`."""
    model = load_model(source)
    gone, layers = prune(model, context.calibration(settings.samples), settings, context.seed)
    save_model(model, target, {name: (~mask).to(torch.uint8) for name, mask in gone.items()})
    return {
        "pattern": settings.pattern,
        "removed": sum(layer.removed for layer in layers.values()),
        "weights": sum(layer.weights for layer in layers.values()),
        "layers": {name: vars(layer) for name, layer in layers.items()},
    }


def prune(
    model: Model, batches: Sequence[Batch], settings: GlobalSettings, seed: int
) -> tuple[dict[str, Tensor], dict[str, LayerResult]]:
    """Prune the linears of a model's blocks in place.

    Returns:
        Masks [out, in] of what is gone and, by name, what became of each linear; its error is that
        of the last round.

    Raises:
        UserError: a limit per linear leaves too little to remove, or values are not finite.
    """
    patterns = {
        name: weight_pattern(settings.pattern, model.anatomy.shape(name), name)
        for name in model.anatomy.block_linears()
    }
    total = goal(patterns, settings)
    limits = {
        # n:m says itself how much of a linear may go.
        name: units.capacity
        if units.capacity < units.units
        else most_removable(units.units, settings.max_layer_sparsity, settings.sparsity)
        for name, units in patterns.items()
    }
    gone = {name: torch.zeros(units.units, dtype=torch.bool) for name, units in patterns.items()}
    layers: dict[str, LayerResult] = {}
    for number in range(1, settings.rounds + 1):
        wanted = round(part_gone(settings.sparsity, number, settings.rounds) * total)
        costs = unit_costs(model, batches, patterns, settings, seed + number)
        gone = choose(costs, patterns, gone, wanted, limits)
        layers = _remove(model, batches, patterns, gone, settings)
    return {name: patterns[name].element_mask(mask) for name, mask in gone.items()}, layers


def part_gone(sparsity: float, number: int, rounds: int) -> float:
    """Part of the goal that is reached by a round: the same share of what is left goes in each."""
    if number == rounds or not sparsity:
        return number / rounds
    return (1 - (1 - sparsity) ** (number / rounds)) / sparsity


def goal(patterns: Mapping[str, Pattern], settings: GlobalSettings) -> int:
    """Units that leave in all: the share of them, or what n:m asks of these shapes."""
    if parse_n_m(settings.pattern):
        return sum(units.capacity for units in patterns.values())
    return round(settings.sparsity * sum(units.units for units in patterns.values()))


def unit_costs(
    model: Model,
    batches: Sequence[Batch],
    patterns: Mapping[str, Pattern],
    settings: GlobalSettings,
    seed: int,
) -> dict[str, Tensor]:
    """Mean cost of a unit's weights [units], by linear: comparable across all of them."""
    if settings.curvature == "fisher":
        information = fisher(model, batches, seed)
        return {
            name: units.unit_scores(fisher_costs(_weight(model, name), information.pop(name)))
            for name, units in patterns.items()
        }
    factors = kfac(model, batches, seed)
    return {
        name: units.unit_scores(
            kfac_costs(_weight(model, name), factors.pop(name), settings.damping)
        )
        for name, units in patterns.items()
    }


def choose(
    costs: Mapping[str, Tensor],
    patterns: Mapping[str, Pattern],
    gone: Mapping[str, Tensor],
    total: int,
    limits: Mapping[str, int],
) -> dict[str, Tensor]:
    """Masks [units] of what is gone, `total` in all: what was gone, and then the cheapest.

    limits: units of each linear that may be gone.
    """
    ranked = []
    for name, units in patterns.items():
        before = gone[name]
        cost = costs[name].masked_fill(before, -math.inf)  # first in every ranking: it stays gone
        allowed = units.removable(cost, torch.ones_like(before), torch.ones_like(before))
        cost = cost.masked_fill(~allowed, math.inf)
        ranked.append(cost.masked_fill(~lowest(cost, limits[name]), math.inf))
    every = torch.cat(ranked)
    room = int((every < math.inf).sum())
    if room < total:
        raise UserError(
            f"{total:,} units should go and max_layer_sparsity lets {room:,}: ask for less."
        )
    chosen = lowest(every, total).split([units.units for units in patterns.values()])
    return dict(zip(patterns, chosen, strict=True))


@torch.no_grad()
def _remove(
    model: Model,
    batches: Sequence[Batch],
    patterns: Mapping[str, Pattern],
    gone: Mapping[str, Tensor],
    settings: GlobalSettings,
) -> dict[str, LayerResult]:
    walk = Walk(model, batches)
    results = {}
    blocks = model.anatomy.blocks
    for block in track(blocks, "removing weights", len(blocks)):
        for names in input_groups(block):
            gram = walk.inputs(block, names[0]).gram
            for name in names:
                weight, units = model.linear(name).weight, patterns[name]
                mask = units.element_mask(gone[name])
                after = weight.masked_fill(mask, 0)
                if settings.correct:
                    hessian = damped(gram, settings.damping)
                    after = remove_in_blocks(
                        weight, mask, hessian, settings.block_size, units.span, units.outputs
                    )
                    after = after.to(weight.dtype).masked_fill(mask, 0)
                if not bool(torch.isfinite(after).all()):
                    raise UserError(
                        f"{name} would be corrected to values that are not finite: "
                        "raise prune.damping or prune.samples."
                    )
                error = relative_error(weight, after, gram)
                results[name] = LayerResult(int(mask.sum()), mask.numel(), error)
                weight.copy_(after)
        walk.advance(block)
    return results


def _weight(model: Model, name: str) -> Tensor:
    return model.linear(name).weight.detach()
