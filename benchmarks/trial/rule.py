"""The rule of the trial, set down before any of its runs.

The method has two places for a momentum whose coefficient follows the variance of the training's
gradient norms: the averages that choose what goes, and the budget that says when. Each is judged
for itself.

Tier 0. Seeds 300 to 319. Budgets cubic, static gradient norm (its mean over the first five updates
over the norm, in the same recursion, so that what was held back is made up), fixed momentum (one
half) and momentum-variance; averages plain, spike-clipped and adaptive; saliencies magnitude, grad,
momentum, fisher and platon; conditions clean, noisy (batches of 8, 20 % of the labels drawn anew),
five times the learning rate at fixed places, a switch of domain, bursts at fixed places (noise of
25 times the gradient's norm, 20 % of the labels drawn anew) and bursts at random places (3 to 6, of
1 to 40 of 500 steps, 3 to 100 times the norm, the same labels). Every figure is accuracy on 8,000
fresh samples, in points. A seed's difference is the mean over the four saliencies that read
averages (all but magnitude); intervals are Student's, 95 %, over seeds, paired.

M  The mechanism. Under random bursts and with adaptive averages, momentum-variance prunes inside
   bursts at most half of what cubic prunes there, both as means over seeds and the four saliencies.
   Else B and C test nothing, and are void.
A  The averages help if and only if adaptive minus clipped, both with the cubic budget, lies above 0
   under random bursts, and has its lower end above -0.5 in each of the four conditions without
   bursts. Else it is not shown.
B  The budget helps if and only if, with adaptive averages under random bursts, its difference lies
   above 0 against each of cubic, static and fixed momentum. It has no effect if all three intervals
   lie inside -0.5 to +0.5. Else it is not shown.
C  Worst cases are better if and only if the fifth percentile of the runs (seeds by the four
   saliencies) of momentum-variance with adaptive averages, minus that of cubic with clipped ones,
   lies above 0 under random bursts; a percentile bootstrap over seeds.

Tier 1. MiniLM, single weights at 75 %, platon and fisher, clean and random bursts (3 to 6, of 1 to
10 of 120 steps), seeds 400 to 409; Spearman times 100 on STS-B dev. The same with a margin of 0.3:
A1 adaptive minus clipped, both cubic, above 0 under random bursts and its lower end above -0.3
clean; B1 momentum-variance minus cubic, both with adaptive averages, under random bursts: helps
above 0, no effect inside -0.3 to +0.3, else not shown; W the whole, momentum-variance with adaptive
averages minus static with clipped ones, judged as B1.

Runs go by seed; what is not run when the time that was set aside is over is cut by whole seeds,
whatever they say, and the verdict says of how many seeds it is. Nothing else decides: other tables
are there to look at.

Where this differs from the formula that the hypothesis was first written down with: the trend of
the norms is the package's, the median of the last 61, for the trend that follows by a share a step
fails where a student still equals its original (edgeprune/compress/prune/signals.py has why). The
rule speaks of the package's method. The clipped averages are the package's earlier ones and live in
this trial alone (clipped.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trial.design import AVERAGED, BLOCKS, BURST_FREE, RULED, TIER1_ARMS, TIER1_CONDITIONS
from trial.statistics import Choice, Paired, Row, bootstrap, chosen, of_choice, paired

MOST_INSIDE = 0.5
"""M: share of cubic's pruning inside bursts."""
MARGINS = {0: 0.5, 1: 0.3}
"""Tier -> what counts as no harm and as no effect, in points."""
PERCENTILE, RESAMPLES = 5, 10_000

CLIPPED: Choice = ("cubic", "clip")
CUBIC: Choice = ("cubic", "adaptive")
STATIC: Choice = ("static_gradnorm", "adaptive")
STATIC_CLIPPED: Choice = ("static_gradnorm", "clip")
FIXED: Choice = ("fixed_mom", "adaptive")
MV: Choice = ("mv", "adaptive")

HELPS, NO_EFFECT, NOT_SHOWN = "helps", "no effect", "not shown"
HOLDS, FAILS, VOID, NOT_RUN = "holds", "does not hold", "void", "not run"


@dataclass(frozen=True)
class Verdict:
    """One part of the rule: its outcome, and the intervals that it follows from, by name."""

    part: str
    outcome: str
    found: dict[str, Paired]


def whole_seeds(rows: Sequence[Row], tier: int) -> list[Row]:
    """The rows of the seeds of which everything that the rule speaks of is there."""
    arms = {
        0: {name: [a for b in blocks for a in BLOCKS[b]] for name, blocks in RULED.items()},
        1: dict.fromkeys(TIER1_CONDITIONS, TIER1_ARMS),
    }[tier]
    needed = {(a.budget, a.averages, a.saliency, name) for name in arms for a in arms[name]}
    there: dict[int, set[tuple[str, ...]]] = {}
    for row in rows:
        if row["tier"] == tier:
            key = tuple(row[name] for name in ("budget", "averages", "saliency", "condition"))
            there.setdefault(row["seed"], set()).add(key)
    whole = {seed for seed, keys in there.items() if needed <= keys}
    return [row for row in rows if row["tier"] == tier and row["seed"] in whole]


def verdicts(rows: Sequence[Row], tier: int) -> list[Verdict]:
    """All parts of the rule for a tier, over its whole seeds."""
    rows = whole_seeds(rows, tier)
    random = chosen(rows, ["random"], AVERAGED)
    if tier == 1:
        margin = MARGINS[1]
        return [
            _averages("A1", rows, ("clean",), margin),
            _effect("B1", {"against cubic": paired(random, MV, CUBIC)}, margin),
            _effect("W", {"against static, clipped": paired(random, MV, STATIC_CLIPPED)}, margin),
        ]
    mechanism = _mechanism(random)
    against = {"cubic": CUBIC, "static": STATIC, "fixed momentum": FIXED}
    budget = {f"against {name}": paired(random, MV, other) for name, other in against.items()}
    worst = bootstrap(
        of_choice(random, MV, "metric"),
        of_choice(random, CLIPPED, "metric"),
        lambda values: np.percentile(values, PERCENTILE, axis=1),
        RESAMPLES,
    )
    parts = [_effect("B", budget, MARGINS[0]), _above("C", {"fifth percentile": worst})]
    if mechanism.outcome == FAILS:
        parts = [Verdict(each.part, VOID, each.found) for each in parts]
    return [mechanism, _averages("A", rows, BURST_FREE, MARGINS[0]), *parts]


def share_inside(rows: Sequence[Row], choice: Choice) -> float:
    """Mean share of the pruning inside bursts, over seeds; NaN without any."""
    means = [np.mean(each) for each in of_choice(rows, choice, "inside").values()]
    return float(np.mean(means)) if means else math.nan


def _mechanism(random: Sequence[Row]) -> Verdict:
    found = {"difference in the share inside": paired(random, MV, CUBIC, "inside")}
    if not _there(found):
        return Verdict("M", NOT_RUN, found)
    holds = share_inside(random, MV) <= MOST_INSIDE * share_inside(random, CUBIC)
    return Verdict("M", HOLDS if holds else FAILS, found)


def _averages(part: str, rows: Sequence[Row], calm: Sequence[str], margin: float) -> Verdict:
    found = {
        name: paired(chosen(rows, [name], AVERAGED), CUBIC, CLIPPED) for name in ("random", *calm)
    }
    if not _there(found):
        return Verdict(part, NOT_RUN, found)
    helps = found["random"].low > 0 and all(found[name].low > -margin for name in calm)
    return Verdict(part, HELPS if helps else NOT_SHOWN, found)


def _effect(part: str, found: dict[str, Paired], margin: float) -> Verdict:
    above = _above(part, found)
    if above.outcome == NOT_SHOWN and all(each.inside(margin) for each in found.values()):
        return Verdict(part, NO_EFFECT, found)
    return above


def _above(part: str, found: dict[str, Paired]) -> Verdict:
    if not _there(found):
        return Verdict(part, NOT_RUN, found)
    return Verdict(part, HELPS if all(p.low > 0 for p in found.values()) else NOT_SHOWN, found)


def _there(found: dict[str, Paired]) -> bool:
    return all(each.seeds > 1 for each in found.values())
