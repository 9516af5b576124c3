"""The factorial of the trial: which run has which budget, saliency, disturbance and seed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BUDGETS = ("cubic", "static_gradnorm", "fixed_mom", "mv")
SALIENCIES = ("magnitude", "grad", "momentum", "fisher", "platon")
CONDITIONS = ("clean", "noisy", "bursts", "rate_spike", "switch")
TIER0_SEEDS, TIER1_SEEDS = 10, 5

VARIANTS: dict[str, dict[str, Any]] = {
    "core": {},
    "per-layer budgets": {"layer_budgets": "layered"},
    "regrowth": {"regrowth": 0.1},
    "98 % sparsity": {"sparsity": 0.98},
    "blocks 4x1": {"pattern": "4x1"},
    "late end": {"end": 0.95},
}
"""Settings laid over the trial's own, in which the budget might matter more than it does there."""

WINDOWS = (0.15, 0.3, 0.45, 0.6)
"""Shares of the steps at which a burst or spike begins; pruning goes on from 0.05 to 0.7."""


@dataclass(frozen=True)
class Condition:
    """What disturbs a run.

    batch: samples a step. label_noise: share of labels that are drawn anew. burst_noise: norm of
    the noise that windows add to the gradient, over the gradient's own. burst_labels: label noise
    inside the windows. rate: factor on the learning rate inside them. switch: the domain changes
    half-way.
    """

    batch: int = 64
    label_noise: float = 0.0
    burst_noise: float = 0.0
    burst_labels: float = 0.0
    rate: float = 1.0
    switch: bool = False


DISTURBANCES: dict[str, Condition] = {
    "clean": Condition(),
    "noisy": Condition(batch=8, label_noise=0.2),
    "bursts": Condition(burst_noise=25.0, burst_labels=0.2),
    "rate_spike": Condition(rate=5.0),
    "switch": Condition(switch=True),
}


@dataclass(frozen=True)
class Cell:
    """One run. Runs that differ in budget alone are pairs: all that is random is the same."""

    tier: int
    budget: str
    saliency: str
    condition: str
    seed: int
    variant: str = "core"
    settings: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells a run from all others."""
        return (self.tier, self.variant, self.budget, self.saliency, self.condition, self.seed)


def cells(tier: int) -> Iterator[Cell]:
    """Every run of a tier, whole sets of pairs one after another."""
    if tier == 1:
        budgets = ("cubic", "static_gradnorm", "mv")
        yield from _cross(1, "core", budgets, ("grad", "platon"), ("clean", "bursts"), TIER1_SEEDS)
        return
    yield from _cross(0, "core", BUDGETS, SALIENCIES, CONDITIONS, TIER0_SEEDS)
    for variant in VARIANTS:
        if variant != "core":
            budgets = ("cubic", "static_gradnorm", "mv")
            yield from _cross(0, variant, budgets, ("grad", "platon"), ("bursts",), TIER0_SEEDS)


def _cross(
    tier: int,
    variant: str,
    budgets: tuple[str, ...],
    saliencies: tuple[str, ...],
    conditions: tuple[str, ...],
    seeds: int,
) -> Iterator[Cell]:
    for seed in range(seeds):
        for condition in conditions:
            for saliency in saliencies:
                for budget in budgets:
                    settings = VARIANTS[variant]
                    yield Cell(tier, budget, saliency, condition, seed, variant, settings)


def in_window(step: int, steps: int, length: int) -> bool:
    """Whether a step (from 1) falls into one of the windows."""
    starts = (round(share * steps) for share in WINDOWS)
    return any(start < step <= start + length for start in starts)
