"""Evolutionary search under a fixed budget of evaluations; it can be interrupted and goes on.

A genome is a tuple of whole numbers; what they mean is the space's business (spaces.py). Scores are
distances, lower is better, of several genomes on the same batches of text.

    evopress   (1 + offspring): mutants of one parent pass through two stages on fresh text, the
               parent joins the second (after EvoPress: Sieberling et al., 2410.14649)
    evop       a population on a fixed text, by crossover and mutation, the two best always stay
               (inspired by EvoP, 2502.14910, whose algorithm is not public)
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeprune.base.progress import track
from edgeprune.compress.levels.settings import Evolution

Genome = tuple[int, ...]
Score = Callable[[Sequence[Genome], Sequence[int]], list[float]]
"""(genomes, numbers of batches) -> the mean distance of each over those batches."""

ELITE = 2
_TRIES = 20
"""Attempts, for each offspring wanted, at one that is new."""


class Space(Protocol):
    """A set of genomes to search; every genome that it makes lies on the budget exactly."""

    def start(self) -> Genome:
        """The genome at which the search begins."""

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A neighbour; it may be the same."""

    def cross(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """A mixture of two."""


@dataclass
class State:
    """The state of a search: members with their last scores, the best first."""

    members: list[tuple[Genome, float]]
    spent: int = 0
    history: list[float] = field(default_factory=list)
    """The best score of each generation; evopress' are on different text each."""
    known: list[Genome] = field(default_factory=list)
    """evop: everything that was scored, so that nothing is twice."""
    earlier: float = field(default=0.0, compare=False)
    """Seconds that sessions before this one took."""


def search(
    space: Space,
    score: Score,
    texts: int,
    settings: Evolution,
    seed: int,
    file: Path | None = None,
    key: str = "",
) -> State:
    """Search until the next generation would exceed the budget, or nothing new is found.

    Args:
        texts: batches that there are.
        file: where the state is kept after every generation; a search goes on from it.
        key: what the search depends on beside its settings: a file of another key is not read.
    """
    started = time.monotonic()
    rng = np.random.default_rng(seed)
    key = json.dumps([key, settings.model_dump(), seed, texts])
    state = _read(file, key, rng) if file else None
    state = state or State([(space.start(), float("inf"))])

    def finite(genomes: Sequence[Genome], chosen: Sequence[int]) -> list[float]:
        return [each if math.isfinite(each) else math.inf for each in score(genomes, chosen)]

    generation = _STRATEGIES[settings.strategy](space, finite, texts, settings, rng)
    most = max(1, generation.cost)

    def generations() -> Iterator[None]:
        while settings.offspring and state.spent + most <= settings.evaluations:
            if not generation.advance(state):
                return
            yield

    left = (settings.evaluations - state.spent) // most
    for _ in track(generations(), "searching", max(1, left)):
        if file:
            _write(file, key, state, rng, state.earlier + time.monotonic() - started)
    return state


class _EvoPress:
    def __init__(
        self, space: Space, score: Score, texts: int, settings: Evolution, rng: np.random.Generator
    ) -> None:
        self.space, self.score, self.rng, self.total = space, score, rng, texts
        self.offspring = settings.offspring
        self.survivors = min(settings.survivors, settings.offspring)
        self.stages = min(settings.first_texts, texts), min(settings.texts, texts)
        first, second = self.stages
        self.cost = self.offspring * first + (self.survivors + 1) * second

    def advance(self, state: State) -> bool:
        parent = state.members[0][0]
        fresh = _new(lambda: self.space.mutate(parent, self.rng), self.offspring, {parent})
        if not fresh:
            return False
        scores = self._score(fresh, self.stages[0], state)
        order = np.argsort(scores, kind="stable")[: self.survivors]
        finalists = [parent, *(fresh[i] for i in order)]  # first: the parent wins a tie
        scores = self._score(finalists, self.stages[1], state)
        best = int(np.argmin(scores))
        state.members = [(finalists[best], scores[best])]
        state.history.append(scores[best])
        return True

    def _score(self, genomes: list[Genome], count: int, state: State) -> list[float]:
        chosen = self.rng.choice(self.total, count, replace=False).tolist()
        state.spent += len(genomes) * count
        return self.score(genomes, chosen)


class _EvoP:
    def __init__(
        self, space: Space, score: Score, texts: int, settings: Evolution, rng: np.random.Generator
    ) -> None:
        self.space, self.score, self.rng = space, score, rng
        self.size = settings.offspring
        self.texts = list(range(min(settings.texts, texts)))
        self.cost = self.size * len(self.texts)

    def advance(self, state: State) -> bool:
        members = [member for member in state.members if np.isfinite(member[1])]
        if not members:
            start = state.members[0][0]
            children = [
                start,
                *_new(lambda: self.space.mutate(start, self.rng), self.size - 1, {start}),
            ]
        else:
            children = _new(lambda: self._child(members), self.size - ELITE, set(state.known))
        if not children:
            return False
        scores = self.score(children, self.texts)
        state.spent += len(children) * len(self.texts)
        state.known += children
        everyone = [*members, *zip(children, scores, strict=True)]
        state.members = sorted(everyone, key=lambda member: member[1])[: max(1, self.size)]
        state.history.append(state.members[0][1])
        return True

    def _child(self, members: list[tuple[Genome, float]]) -> Genome:
        one, other = (self._tournament(members) for _ in range(2))
        return self.space.mutate(self.space.cross(one, other, self.rng), self.rng)

    def _tournament(self, members: list[tuple[Genome, float]]) -> Genome:
        return members[int(self.rng.integers(len(members), size=2).min())][0]  # best first


_STRATEGIES: dict[str, Callable[..., Any]] = {"evopress": _EvoPress, "evop": _EvoP}


def _new(make: Callable[[], Genome], count: int, known: set[Genome]) -> list[Genome]:
    """Up to `count` different genomes that are not known."""
    found: dict[Genome, None] = {}
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        genome = make()
        if genome not in known:
            found.setdefault(genome)
    return list(found)


def _write(file: Path, key: str, state: State, rng: np.random.Generator, seconds: float) -> None:
    rest = {"key": key, "rng": rng.bit_generator.state, "earlier": seconds}
    content = {**asdict(state), **rest}
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(file)


def _read(file: Path, key: str, rng: np.random.Generator) -> State | None:
    """The state in a file, and rng as it was; None where there is none of this search."""
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["key"] != key:
        return None
    rng.bit_generator.state = content["rng"]
    members = [(tuple(genome), score) for genome, score in content["members"]]
    known = [tuple(genome) for genome in content["known"]]
    return State(members, content["spent"], content["history"], known, content["earlier"])
