"""Search each linear's sparsity, as a method of pruning: every linear at every level, then which.

The database of levels is made once; a candidate copies its weights from there."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.context import Context
from edgeprune.compress.levels.candidates import Candidates
from edgeprune.compress.levels.evolution import Genome, search
from edgeprune.compress.levels.judge import report, rescored, scorer
from edgeprune.compress.levels.settings import sequences_per_batch
from edgeprune.compress.levels.spaces import Levels
from edgeprune.compress.prune.allocate import uniform_counts
from edgeprune.compress.prune.criteria import CRITERIA
from edgeprune.compress.prune.oneshot import Solver, prune_layers, solver_of
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.search_settings import SearchSettings
from edgeprune.model.model import Model
from edgeprune.model.restored import values_restored
from edgeprune.model.store import load_model, save_model
from edgeprune.text.batches import Batch

Database = dict[str, dict[int, Tensor]]
"""The weight [out, in] of each linear at each level, in half precision."""


def run(context: Context, source: Path, target: Path, settings: SearchSettings) -> dict[str, Any]:
    """Search, then prune the model in `source` by the solver with the shares that were found."""
    model = load_model(source)
    batches = context.calibration(settings.samples, sequences_per_batch(settings.samples))
    file = context.output / "search.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    key = f"{source.name} {settings.model_dump_json()}"  # the folder's name says all before it
    counts, found = search_levels(
        model, context.original, batches, context.held_out(), settings, context.seed, file, key
    )
    walk = Walk(model, batches)
    masks, layers = prune_layers(model, walk, counts, settings.pattern, solver(settings))
    save_model(model, target, {name: mask.to(torch.uint8) for name, mask in masks.items()})
    file.unlink(missing_ok=True)
    return {
        "pattern": settings.pattern,
        "removed": sum(layer.removed for layer in layers.values()),
        "weights": sum(layer.weights for layer in layers.values()),
        "layers": {name: vars(layer) for name, layer in layers.items()},
        "search": found,
    }


def solver(settings: SearchSettings) -> Solver:
    """The one-shot method that prunes candidates and winner."""
    return solver_of(CRITERIA[settings.solver].settings(pattern=settings.pattern))


@torch.no_grad()
def search_levels(
    model: Model,
    original: Model,
    batches: Sequence[Batch],
    unseen: Sequence[Batch],
    settings: SearchSettings,
    seed: int,
    file: Path | None = None,
    key: str = "",
) -> tuple[dict[str, int], dict[str, Any]]:
    """Units that leave each linear, by name, and what the search did; `model` stays as it was.

    Raises:
        UserError: a step is less than one unit.
    """
    names = list(model.anatomy.block_linears())
    base = uniform_counts(model, settings.pattern, settings.sparsity)
    sizes = [
        weight_pattern(settings.pattern, model.anatomy.shape(name), name).units for name in names
    ]
    middle = statistics.median(sizes)
    step = round(settings.step * middle)
    if step < 1:
        raise UserError(
            f"prune.step: {settings.step:g} of the median linear's {middle:g} units is none: "
            "raise it."
        )
    space = Levels([base[name] for name in names], sizes, step, settings.max_level)
    database = make_database(model, Walk(model, batches), space, names, settings)
    applied: dict[str, int] = {}

    def apply(genome: Genome) -> None:
        for name, level in zip(names, genome, strict=True):
            if applied.get(name) != level:
                model.linear(name).weight.copy_(database[name][level])
                applied[name] = level

    blocks = [block.index for block in model.anatomy.blocks for _ in block.linears()]
    candidates = Candidates(model, apply, blocks)
    with values_restored(model.linear(name).weight for name in names):
        score = scorer(candidates, original, batches)
        state = search(space, score, len(batches), settings.evolution(), seed, file, key)
        winner = state.members[0][0]
        seen = rescored(candidates, original, unseen, space.start(), winner)
    chosen = winner if seen.gained else space.start()
    counts = dict(zip(names, space.counts(chosen), strict=True))
    return counts, {**report(state, seen), "levels": dict(zip(names, winner, strict=True))}


def make_database(
    model: Model, walk: Walk, space: Levels, names: Sequence[str], settings: SearchSettings
) -> Database:
    """Every linear at every level that it can take, pruned by what the dense model reads."""
    solve = solver(settings)
    place = {name: number for number, name in enumerate(names)}
    found: Database = {}
    blocks = model.anatomy.blocks
    for block in track(blocks, "pruning at every level", len(blocks)):
        for group in input_groups(block):
            gram = walk.inputs(block, group[0]).gram
            for name in group:
                weight = model.linear(name).weight.detach()
                found[name] = {
                    level: solve(
                        weight, gram, settings.pattern, space.removed(place[name], level)
                    ).weight.half()
                    for level in range(-space.most, space.most + 1)
                    if space.fits(place[name], level)
                }
        walk.advance(block)
    return found
