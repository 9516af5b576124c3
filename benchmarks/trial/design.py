"""The trial's arms, conditions and seeds: which runs there are, and what disturbs them."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

BUDGETS = ("cubic", "static_gradnorm", "fixed_mom", "mv")
AVERAGES = ("plain", "clip", "adaptive")
SALIENCIES = ("magnitude", "grad", "momentum", "fisher", "platon")
AVERAGED = SALIENCIES[1:]
"""The saliencies that read averages of gradients."""
LAYERED = "layered"
"""Averages that weigh a step by each layer's own norm: not in the rule, added after its verdict."""
TIER0_SEEDS = tuple(range(300, 320))
TIER1_SEEDS = tuple(range(400, 410))

WINDOWS = (0.15, 0.3, 0.45, 0.6)
"""Shares of the steps after which a disturbance at fixed places begins."""
WINDOW = 0.04
"""Its length, as a share of the steps."""
RANDOM_COUNT, RANDOM_LENGTH, RANDOM_NOISE = (3, 6), 0.08, (3.0, 100.0)
"""Bursts at random places: how many, the longest as a share of the steps, and their sizes."""
PRUNED_FROM, PRUNED_TO = 0.05, 0.7
"""Shares of the steps between which masks change and random bursts begin."""


@dataclass(frozen=True)
class Arm:
    """A way to prune. Arms of one seed and condition are paired: all that is random is the same.

    averages: of the saliency; "clip" is the trial's own (see clipped.py).
    """

    budget: str
    averages: str
    saliency: str

    @property
    def clipped(self) -> bool:
        """Whether the trial clips the gradients of which the averages are."""
        return self.averages == "clip"

    @property
    def settings(self) -> dict[str, str]:
        """The package's settings."""
        return {**asdict(self), "averages": "plain" if self.clipped else self.averages}


@dataclass(frozen=True)
class Condition:
    """What disturbs a run.

    batch: samples a step. label_noise: share of labels that are drawn anew. windows: "" for none,
    "fixed" or "random" places, inside which `noise` is the norm of the noise that is added to the
    gradient, over the gradient's own (of random windows each has its own), `labels` the label noise
    and `rate` a factor on the learning rate. switch: the domain changes half-way.
    """

    batch: int = 64
    label_noise: float = 0.0
    windows: str = ""
    noise: float = 0.0
    labels: float = 0.0
    rate: float = 1.0
    switch: bool = False


CONDITIONS: dict[str, Condition] = {
    "clean": Condition(),
    "noisy": Condition(batch=8, label_noise=0.2),
    "rate_spike": Condition(windows="fixed", rate=5.0),
    "switch": Condition(switch=True),
    "bursts": Condition(windows="fixed", noise=25.0, labels=0.2),
    "random": Condition(windows="random", labels=0.2),
}
BURST_FREE = ("clean", "noisy", "rate_spike", "switch")

_ALL = (
    *(Arm(budget, "plain", "magnitude") for budget in BUDGETS),  # it has no averages
    *itertools.starmap(Arm, itertools.product(BUDGETS, AVERAGES, AVERAGED)),
    *(Arm("cubic", LAYERED, saliency) for saliency in AVERAGED),
)


def _block(arm: Arm) -> str:
    if arm.averages == LAYERED:
        return "layers"
    if arm.saliency in AVERAGED and arm.budget == "cubic" and arm.averages != "plain":
        return "averages"
    return "budgets" if arm.averages == "adaptive" else "rest"


BLOCKS: dict[str, tuple[Arm, ...]] = {
    block: tuple(arm for arm in _ALL if _block(arm) == block)
    for block in ("averages", "budgets", "layers", "rest")
}
"""The arms of tier 0 that train together: those by which the rule judges averages, those that it
needs beside them to judge budgets, weights by layer, and all others."""
RULED = {"random": ("averages", "budgets"), **dict.fromkeys(BURST_FREE, ("averages",))}
"""What the rule needs: condition -> blocks."""
TIER1_ARMS = tuple(
    Arm(budget, averages, saliency)
    for saliency in ("platon", "fisher")
    for budget, averages in (
        ("cubic", "clip"), ("cubic", "adaptive"), ("mv", "adaptive"), ("static_gradnorm", "clip"),
    )
)  # fmt: skip
TIER1_CONDITIONS = ("clean", "random")


def tier0() -> list[tuple[str, int, str]]:
    """(block, seed, condition) in the order in which they run: what the rule needs, first."""
    needed = [
        (block, seed, name)
        for seed in TIER0_SEEDS
        for name, blocks in RULED.items()
        for block in blocks
    ]
    everything = [
        (block, seed, name)
        for blocks in (["layers"], ["averages", "budgets", "rest"])
        for seed in TIER0_SEEDS
        for name in reversed(CONDITIONS)
        for block in blocks
    ]
    return list(dict.fromkeys(needed + everything))


def tier1() -> list[tuple[Arm, int, str]]:
    """(arm, seed, condition) in the order in which they run: whole seeds, one after another."""
    return [
        (arm, seed, name)
        for seed in TIER1_SEEDS
        for name in reversed(TIER1_CONDITIONS)
        for arm in TIER1_ARMS
    ]


@dataclass(frozen=True)
class Burst:
    """A disturbance of the steps after + 1 to after + length; noise as in Condition."""

    after: int
    length: int
    noise: float

    def holds(self, step: int) -> bool:
        """Whether a step (from 1) lies inside."""
        return self.after < step <= self.after + self.length


def bursts(condition: Condition, seed: int, steps: int) -> tuple[Burst, ...]:
    """The windows of a run; random ones follow from the seed alone."""
    if not condition.windows:
        return ()
    if condition.windows == "fixed":
        length = round(WINDOW * steps)
        return tuple(Burst(round(at * steps), length, condition.noise) for at in WINDOWS)
    drawn = random.Random(seed)
    smallest, largest = RANDOM_NOISE
    return tuple(
        Burst(
            round(drawn.uniform(PRUNED_FROM, PRUNED_TO) * steps),
            drawn.randint(1, max(1, round(RANDOM_LENGTH * steps))),
            smallest * (largest / smallest) ** drawn.random(),
        )
        for _ in range(drawn.randint(*RANDOM_COUNT))
    )


def burst_at(step: int, windows: Sequence[Burst]) -> Burst | None:
    """The burst that a step lies in, the strongest of several; None outside."""
    return max((each for each in windows if each.holds(step)), key=lambda b: b.noise, default=None)
