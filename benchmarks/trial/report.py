"""The trial's verdict and tables as Markdown, and its figure."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trial.design import (
    AVERAGED,
    AVERAGES,
    BUDGETS,
    CONDITIONS,
    LAYERED,
    SALIENCIES,
    TIER0_SEEDS,
    TIER1_SEEDS,
)
from trial.rule import (
    CLIPPED,
    CUBIC,
    FIXED,
    MV,
    STATIC,
    Verdict,
    share_inside,
    verdicts,
    whole_seeds,
)
from trial.statistics import Choice, Paired, Row, chosen, of_choice, paired

METRICS = {0: "accuracy, %", 1: "Spearman x 100 on STS-B dev"}
SEEDS = {0: TIER0_SEEDS, 1: TIER1_SEEDS}
PARTS = {
    "M": "mechanism: momentum-variance prunes in bursts at most half of what cubic does",
    "A": "averages: adaptive minus clipped, cubic budget",
    "B": "budget: momentum-variance minus another, adaptive averages, random bursts",
    "C": "worst cases: momentum-variance and adaptive minus cubic and clipped, random bursts",
    "A1": "averages: adaptive minus clipped, cubic budget",
    "B1": "budget: momentum-variance minus cubic, adaptive averages, random bursts",
    "W": "the whole: momentum-variance and adaptive minus static and clipped, random bursts",
}
CONTRASTS: dict[str, dict[str, tuple[Choice, Choice]]] = {
    "The averages, with the cubic budget": {
        "adaptive - clipped": (CUBIC, CLIPPED),
        "adaptive - plain": (CUBIC, ("cubic", "plain")),
        "clipped - plain": (CLIPPED, ("cubic", "plain")),
        "by layer - adaptive": (("cubic", LAYERED), CUBIC),
    },
    "The budget, with adaptive averages: momentum-variance minus": {
        "cubic": (MV, CUBIC),
        "static": (MV, STATIC),
        "fixed momentum": (MV, FIXED),
    },
    "The budget where averages are not protected: momentum-variance minus": {
        "cubic, plain averages": (("mv", "plain"), ("cubic", "plain")),
        "static, plain averages": (("mv", "plain"), ("static_gradnorm", "plain")),
        "cubic, clipped averages": (("mv", "clip"), CLIPPED),
    },
}


def report(rows: Sequence[Row]) -> str:
    """Everything as Markdown."""
    parts = ["# The trial of momentum-variance pruning\n"]
    parts.append(
        "Made by `benchmarks/momentum_variance.py`. Differences are paired by seed, with 95 % "
        "intervals over seeds. The rule stands in `benchmarks/trial/rule.py`, whose history shows "
        "that it came before the runs.\n"
    )
    for tier in sorted({row["tier"] for row in rows}):
        parts += _tier([row for row in rows if row["tier"] == tier], tier)
    return "\n".join(parts)


def _tier(rows: Sequence[Row], tier: int) -> Iterator[str]:
    whole = whole_seeds(rows, tier)
    count = len({row["seed"] for row in whole})
    yield f"## Tier {tier}: {METRICS[tier]}\n"
    yield (
        f"By the rule, over {count} of its {len(SEEDS[tier])} seeds, of which everything is there "
        "that it speaks of:\n"
    )
    yield from _verdicts(verdicts(rows, tier), count)
    random = chosen(whole, ["random"], AVERAGED)
    if random:
        shares = [f"{share_inside(random, choice):.3f}" for choice in (MV, CUBIC)]
        yield (
            f"\nOf all pruning, momentum-variance does {shares[0]} inside random bursts, cubic "
            f"{shares[1]}, both with adaptive averages.\n"
        )
    for title, contrasts in CONTRASTS.items():
        yield from _contrasts(rows, title, contrasts, count)
    yield from _inside(rows)
    yield from _means(rows, count)


def _verdicts(found: Sequence[Verdict], seeds: int) -> Iterator[str]:
    yield "| part | of | verdict | from |\n|---|---|---|---|"
    for each in found:
        digits = 3 if each.part == "M" else 2
        shown = "; ".join(f"{name} {show(p, seeds, digits)}" for name, p in each.found.items())
        yield f"| {each.part} | {PARTS[each.part]} | **{each.outcome}** | {shown} |"


def _contrasts(
    rows: Sequence[Row], title: str, contrasts: dict[str, tuple[Choice, Choice]], seeds: int
) -> Iterator[str]:
    """A table by condition and saliency, without lines of which nothing is there."""
    lines = []
    for condition in CONDITIONS:
        for name, saliencies in ({"mean of four": AVERAGED} | {s: (s,) for s in AVERAGED}).items():
            some = chosen(rows, [condition], saliencies)
            found = [paired(some, *pair) for pair in contrasts.values()]
            if any(each.seeds > 1 for each in found):
                shown = " | ".join(show(each, seeds) for each in found)
                lines.append(f"| {condition} | {name} | {shown} |")
    if lines:
        yield f"\n{title}:\n"
        yield f"| condition | saliency | {' | '.join(contrasts)} |"
        yield f"|---|---|{'---|' * len(contrasts)}"
        yield from lines


def _inside(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "\nWhere there are bursts or spikes of the learning rate, the share of all pruning that is "
        "done inside them, and the largest share of all weights that goes at one update; means:\n"
    )
    yield "| condition | budget | averages | seeds | inside | largest update |"
    yield "|---|---|---|---|---|---|"
    for condition in ("rate_spike", "bursts", "random"):
        some = chosen(rows, [condition], AVERAGED)
        for choice in _choices(some):
            seeds = len(of_choice(some, choice, "inside"))
            values = [_values(some, choice, name) for name in ("inside", "largest_update")]
            shown = " | ".join(f"{np.mean(each):.3f}" for each in values)
            yield f"| {condition} | {choice[0]} | {choice[1]} | {seeds} | {shown} |"


def _means(rows: Sequence[Row], seeds: int) -> Iterator[str]:
    conditions = [c for c in CONDITIONS if any(row["condition"] == c for row in rows)]
    yield "\nMeans over seeds (standard deviation over seeds):\n"
    yield f"| saliency | budget | averages | {' | '.join(conditions)} |"
    yield f"|---|---|---|{'---|' * len(conditions)}"
    for saliency in SALIENCIES:
        for choice in _choices(chosen(rows, conditions, [saliency])):
            shown = [
                _mean(_values(chosen(rows, [name], [saliency]), choice, "metric"), seeds)
                for name in conditions
            ]
            yield f"| {saliency} | {choice[0]} | {choice[1]} | {' | '.join(shown)} |"


def _mean(values: Sequence[float], seeds: int) -> str:
    if len(values) < 2:
        return ""
    return f"{np.mean(values):.2f} ({np.std(values, ddof=1):.2f}{_fewer(len(values), seeds)})"


def _fewer(count: int, seeds: int) -> str:
    return "" if count == seeds else f", {count} seeds"


def _choices(rows: Sequence[Row]) -> list[Choice]:
    there = {(row["budget"], row["averages"]) for row in rows}
    return [(b, a) for b in BUDGETS for a in (*AVERAGES, LAYERED) if (b, a) in there]


def _values(rows: Sequence[Row], choice: Choice, value: str) -> list[float]:
    return [each for found in of_choice(rows, choice, value).values() for each in found]


def show(found: Paired, seeds: int, digits: int = 2) -> str:
    """A difference with its interval, and over how many seeds where these are not `seeds`."""
    if found.seeds < 2:
        return "not run"
    bounds = f"{found.low:+.{digits}f} to {found.high:+.{digits}f}"
    return f"{found.mean:+.{digits}f} ({bounds}{_fewer(found.seeds, seeds)})"


def draw(rows: Sequence[Row], file: Path) -> None:
    """Differences with their intervals by condition and saliency: averages left, budget right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "trial"  # the same file from the same results
    tiers = sorted({row["tier"] for row in rows})
    figure, axes = pyplot.subplots(
        len(tiers), 2, figsize=(11, 1.5 + 4.5 * len(tiers)), squeeze=False, sharey="row"
    )
    panels = {
        "adaptive minus clipped averages, cubic budget": (CUBIC, CLIPPED),
        "momentum-variance minus cubic budget, adaptive averages": (MV, CUBIC),
    }
    for line, tier in zip(axes, tiers, strict=True):
        of_tier = [row for row in rows if row["tier"] == tier]
        cells = [
            (f"{condition}, {saliency}", chosen(of_tier, [condition], [saliency]))
            for condition in CONDITIONS
            for saliency in AVERAGED
        ]
        cells = [(name, some) for name, some in cells if some]
        for axis, (title, pair) in zip(line, panels.items(), strict=True):
            for place, (_, some) in enumerate(cells):
                each = paired(some, *pair)
                color = "tab:green" if each.low > 0 else "tab:red" if each.high < 0 else "gray"
                axis.plot([each.low, each.high], [place, place], color=color)
                axis.plot(each.mean, place, "o", color=color, markersize=4)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_yticks(range(len(cells)), [name for name, _ in cells], fontsize=7)
            axis.set_title(f"Tier {tier}: {title}", fontsize=9)
            axis.set_xlabel(METRICS[tier], fontsize=8)
        line[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
