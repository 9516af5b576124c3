"""Search what a model gives up where: sparsity per linear as a prune method, and dropped blocks.

Candidates are judged by the distance of their outputs to the original's (distance.py: KL for
decoders and classifiers, distances of embeddings for encoders). The winner and the start are scored
again on text that the search never saw, and the start is kept where the winner is no better there.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.base.bootstrap import bootstrap
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say, track
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.context import Build
from edgeprune.compress.levels.candidates import Candidates
from edgeprune.compress.levels.search import Genome, Score, State, search
from edgeprune.compress.levels.spaces import Drops, Levels
from edgeprune.compress.objectives.distance import distance_to
from edgeprune.compress.prune.allocate import uniform_counts
from edgeprune.compress.prune.methods import METHODS
from edgeprune.compress.prune.oneshot import Solver, prune_layers, solver_of
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.search_settings import Evolution, SearchSettings, together
from edgeprune.model.forward import tensors
from edgeprune.model.model import Model
from edgeprune.model.restored import forwards_restored, values_restored
from edgeprune.model.store import load_model, save_model
from edgeprune.text.batches import Batch

Database = dict[str, dict[int, Tensor]]
"""The weight [out, in] of each linear at each level, in half precision."""


@dataclass(frozen=True)
class Unseen:
    """Mean distances on text that the search never saw, and the interval of their difference.

    A difference below zero is a gain of the winner; low and high are None for fewer than two
    batches.
    """

    start: float
    winner: float
    difference: float
    low: float | None
    high: float | None
    batches: int

    @property
    def gained(self) -> bool:
        """Whether the winner is nearer to the original than the start."""
        return self.difference < 0


def run(build: Build, source: Path, target: Path, settings: SearchSettings) -> dict[str, Any]:
    """Search, then prune the model in `source` by the solver with the shares that were found."""
    model = load_model(source)
    batches = build.calibration(settings.samples, together(settings.samples))
    file = build.output / "search.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    key = f"{source.name} {settings.model_dump_json()}"  # the folder's name says all before it
    counts, found = search_levels(
        model, build.original, batches, build.held_out(), settings, build.seed, file, key
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
    return solver_of(METHODS[settings.solver].settings(pattern=settings.pattern))


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


def search_blocks(
    model: Model,
    original: Model,
    count: int,
    batches: Sequence[Batch],
    unseen: Sequence[Batch],
    settings: Evolution,
    seed: int,
    first: int = 1,
    last: int = 0,
    file: Path | None = None,
    key: str = "",
) -> tuple[list[int], dict[str, Any]]:
    """The `count` blocks whose absence moves the outputs least, and what the search did.

    `model` stays as it was.

    Args:
        first, last: blocks at either end that stay. The first makes of embeddings what all others
            read.

    Raises:
        UserError: so many cannot go.
    """
    total = len(model.anatomy.blocks)
    if count > total - max(1, first + last):
        raise UserError(
            f"{count} of {total} layers cannot go while {first} at the start and {last} at the end "
            "are kept and one is left: lower cut.layers, cut.keep_first or cut.keep_last."
        )
    space = Drops(total, count, frozenset([*range(first), *range(total - last, total)]))
    with skippable(model, batches[0]) as skip:
        candidates = Candidates(model, skip, range(total))
        score = scorer(candidates, original, batches)
        state = search(space, score, len(batches), settings, seed, file, key)
        winner = state.members[0][0]
        seen = rescored(candidates, original, unseen, space.start(), winner)
    chosen = winner if seen.gained else space.start()
    return [block for block, gone in enumerate(chosen) if gone], report(state, seen)


@contextmanager
def skippable(model: Model, batch: Batch) -> Iterator[Callable[[Genome], None]]:
    """Yields a function that makes the blocks flagged 1 hand on what they are given, uncomputed."""
    modules = model.block_modules()
    kinds: list[bool] = []
    handle = modules[0].register_forward_hook(
        lambda _m, _a, out: kinds.append(isinstance(out, tuple))
    )
    try:
        with torch.no_grad():
            model.module(**tensors(batch))
    finally:
        handle.remove()
    tupled = kinds[0]

    def hand_on(hidden: Tensor, *_others: Any, **_named: Any) -> Any:
        return (hidden,) if tupled else hidden

    def skip(genome: Genome) -> None:
        for module, gone in zip(modules, genome, strict=True):
            if gone:
                module.forward = hand_on
            else:
                vars(module).pop("forward", None)

    with forwards_restored(modules):
        yield skip


def scorer(candidates: Candidates, original: Model, batches: Sequence[Batch]) -> Score:
    """Distances of candidates to the original, whose outputs are taken once a call."""
    model = candidates.model
    plain = {"use_cache": False} if model.anatomy.kind == "decoder" else {}

    @torch.no_grad()
    def score(genomes: Sequence[Genome], chosen: Sequence[int]) -> list[float]:
        totals, rows = [0.0] * len(genomes), 0
        for number in chosen:
            batch = batches[number]
            given = tensors(batch)
            run = functools.partial(model.module, **given, **plain)
            its = original.module(**given, **plain)
            distance = distance_to(model, its, batch, given["attention_mask"])
            rows += len(batch.input_ids)
            for place, ours in candidates.outputs(run, genomes):
                totals[place] += distance(ours) * len(batch.input_ids)
        return [total / rows for total in totals]

    return score


def rescored(
    candidates: Candidates,
    original: Model,
    unseen: Sequence[Batch],
    start: Genome,
    winner: Genome,
) -> Unseen:
    """Start and winner on the batches of `unseen`, paired."""
    score = scorer(candidates, original, unseen)
    rows = np.array([score([start, winner], [number]) for number in range(len(unseen))])
    weights = np.array([len(batch.input_ids) for batch in unseen], float)
    gaps = rows[:, 1] - rows[:, 0]

    def mean(chosen: np.ndarray) -> dict[str, float]:
        return {"difference": float(np.average(gaps[chosen], weights=weights[chosen]))}

    every = np.arange(len(unseen))
    low, high = bootstrap(mean, every).get("difference", (None, None))
    first, last = (float(np.average(column, weights=weights)) for column in rows.T)
    return Unseen(first, last, last - first, low, high, len(unseen))


def report(state: State, seen: Unseen) -> dict[str, Any]:
    """What a search did, for a stage's record."""
    if not seen.gained:
        say("The search found nothing nearer to the original on unseen text: its start is kept.")
    return {
        "evaluations": state.spent,
        "history": state.history,
        "earlier_seconds": state.earlier,
        "unseen": asdict(seen),
        "kept": "winner" if seen.gained else "start",
    }
