"""Candidates judged by the distance of their outputs to the original's, in objectives/.

The winner and the start are scored again on text that the search never saw, and the start is kept
where the winner is no better there.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from edgeprune.base.bootstrap import bootstrap
from edgeprune.base.progress import say
from edgeprune.compress.levels.candidates import Candidates
from edgeprune.compress.levels.evolution import Genome, Score, State
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch


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
        """The winner is nearer to the original than the start."""
        return self.difference < 0


def scorer(candidates: Candidates, original: Model, batches: Sequence[Batch]) -> Score:
    """Distances of candidates to the original, whose outputs are taken once a call."""
    model = candidates.model
    objective = objective_of(model)

    @torch.no_grad()
    def score(genomes: Sequence[Genome], chosen: Sequence[int]) -> list[float]:
        totals, rows = [0.0] * len(genomes), 0
        for number in chosen:
            batch = batches[number]
            run = functools.partial(model.run, batch)
            distance = objective.distance_from(original.run(batch), batch)
            rows += len(batch.input_ids)
            for place, output in candidates.outputs(run, genomes):
                totals[place] += distance(output) * len(batch.input_ids)
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
    """A search in figures, for a stage's record."""
    if not seen.gained:
        say("The search found nothing nearer to the original on unseen text: its start is kept.")
    return {
        "evaluations": state.spent,
        "history": state.history,
        "earlier_seconds": state.earlier,
        "unseen": asdict(seen),
        "kept": "winner" if seen.gained else "start",
    }
