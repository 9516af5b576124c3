"""The trial's tables, its verdict in words, and its figure."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from trial.design import BUDGETS, CONDITIONS, SALIENCIES, VARIANTS
from trial.statistics import Paired, Row, decide, paired, seed_spread, spread

METRICS = {0: "accuracy, %", 1: "Spearman x 100 on STS-B dev"}
STABILITY = {
    "loss_spike": "largest rise of the loss after an update",
    "largest_update": "largest share of the units changed at one update",
    "churn": "units changed over all updates, as a share of all",
    "in_windows": "share of the pruning that fell inside windows",
}
_MEANING = {
    "helps": "The momentum-variance budget helps: both intervals lie above zero.",
    "harms": "The momentum-variance budget harms: both intervals lie below zero.",
    "not shown": "It is not shown that the momentum-variance budget helps: at least one of the two "
    "intervals includes zero or lies below it.",
    "not run": "Not enough runs to decide.",
}


def report(rows: Sequence[Row]) -> str:
    """Everything as Markdown."""
    parts = ["# The trial of momentum-variance budgets\n"]
    parts.append(
        "Made by `benchmarks/momentum_variance.py`. Differences are paired by seed, with Student's "
        "95 % interval over seeds. The rule, set down before any run: momentum-variance helps if "
        "and only if the interval of its difference lies above zero both against the cubic budget "
        "and against the static gradient-norm budget, with the same saliency.\n"
    )
    for tier in sorted({row["tier"] for row in rows}):
        parts += _tier([row for row in rows if row["tier"] == tier], tier)
    return "\n".join(parts)


def verdict(rows: Sequence[Row]) -> tuple[str, Paired, Paired]:
    """The decision over a tier's core runs, all saliencies and conditions together."""
    core = [row for row in rows if row["variant"] == "core"]
    against = [paired(core, "mv", other) for other in ("cubic", "static_gradnorm")]
    return decide(*against), against[0], against[1]


def _tier(rows: Sequence[Row], tier: int) -> Iterator[str]:
    found, cubic, static = verdict(rows)
    core = [row for row in rows if row["variant"] == "core"]
    yield f"## Tier {tier}: {METRICS[tier]}\n"
    yield f"**Verdict, over the {len(core)} runs of the factorial: {_MEANING[found]}** Against "
    yield f"cubic {show(cubic)}, against static {show(static)} ({cubic.pairs} seeds).\n"
    cells = list(_cells(core))
    single = [decide(*pair) for *_, pair in cells]
    yield f"By saliency and condition: it helps in {single.count('helps')} of {len(cells)} cells "
    yield f"and harms in {single.count('harms')}. Were there no effect, one cell in 40 or fewer "
    yield "would be found to help by chance.\n"
    yield "| saliency | condition | against cubic | against static | by the rule |"
    yield "|---|---|---|---|---|"
    for saliency, condition, pair in cells:
        yield f"| {saliency} | {condition} | {show(pair[0])} | {show(pair[1])} | {decide(*pair)} |"
    yield from _means(core)
    yield from _stability(core)
    yield from _variants(rows)


def _cells(core: Sequence[Row]) -> Iterator[tuple[str, str, tuple[Paired, Paired]]]:
    for saliency in SALIENCIES:
        for condition in CONDITIONS:
            where = {"saliency": saliency, "condition": condition}
            pair = tuple(paired(core, "mv", b, **where) for b in ("cubic", "static_gradnorm"))
            if pair[0].pairs or pair[1].pairs:
                yield saliency, condition, (pair[0], pair[1])


def _means(core: Sequence[Row]) -> Iterator[str]:
    conditions = [c for c in CONDITIONS if any(row["condition"] == c for row in core)]
    yield "\nMeans over seeds (standard deviation over seeds):\n"
    yield f"| saliency | budget | {' | '.join(conditions)} |\n|---|---|{'---|' * len(conditions)}"
    for saliency in SALIENCIES:
        for budget in BUDGETS:
            shown = []
            for condition in conditions:
                where = {"saliency": saliency, "budget": budget, "condition": condition}
                mean, deviation, count = spread(core, "metric", **where)
                shown.append(f"{mean:.2f} ({deviation:.2f})" if count else "")
            if any(shown):
                yield f"| {saliency} | {budget} | {' | '.join(shown)} |"


def _stability(core: Sequence[Row]) -> Iterator[str]:
    yield "\nStability, all saliencies together: momentum-variance minus the other budget.\n"
    yield "| condition | what | against cubic | against static |\n|---|---|---|---|"
    for condition in CONDITIONS:
        where = {"condition": condition}
        if not any(row["condition"] == condition for row in core):
            continue
        for value, meaning in STABILITY.items():
            pair = [paired(core, "mv", b, value, **where) for b in ("cubic", "static_gradnorm")]
            yield f"| {condition} | {meaning} | {show(pair[0], 4)} | {show(pair[1], 4)} |"
        deviations = {
            budget: seed_spread(core, budget, condition)
            for budget in BUDGETS
            if any(row["budget"] == budget for row in core)
        }
        shown = ", ".join(f"{budget} {value:.3f}" for budget, value in deviations.items())
        yield f"| {condition} | standard deviation of the metric over seeds | {shown} | |"


def _variants(rows: Sequence[Row]) -> Iterator[str]:
    others = [v for v in VARIANTS if v != "core" and any(row["variant"] == v for row in rows)]
    if not others:
        return
    yield "\nWhere the budget might matter more, under bursts (not part of the verdict):\n"
    yield "| variant | saliency | against cubic | against static | by the rule |"
    yield "|---|---|---|---|---|"
    for variant in others:
        for saliency in SALIENCIES:
            where = {"variant": variant, "saliency": saliency}
            pair = [paired(rows, "mv", b, **where) for b in ("cubic", "static_gradnorm")]
            if pair[0].pairs:
                shown = " | ".join(show(each) for each in pair)
                yield f"| {variant} | {saliency} | {shown} | {decide(*pair)} |"


def show(found: Paired, digits: int = 2) -> str:
    """A difference with its interval."""
    if found.pairs < 2:
        return "not run"
    return f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def draw(rows: Sequence[Row], file: Path) -> None:
    """Every cell's differences with their intervals, a panel a tier and comparator."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tiers = sorted({row["tier"] for row in rows})
    figure, axes = pyplot.subplots(
        len(tiers), 2, figsize=(11, 1.5 + 4.5 * len(tiers)), squeeze=False, sharey="row"
    )
    for line, tier in zip(axes, tiers, strict=True):
        of_tier = [row for row in rows if row["tier"] == tier]
        cells = list(_cells([row for row in of_tier if row["variant"] == "core"]))
        names = [f"{saliency}, {condition}" for saliency, condition, _ in cells] + ["all"]
        _, *overall = verdict(of_tier)
        for panel, other in enumerate(("cubic", "static")):
            found = [pair[panel] for *_, pair in cells] + [overall[panel]]
            axis = line[panel]
            for place, each in enumerate(found):
                color = "tab:green" if each.low > 0 else "tab:red" if each.high < 0 else "gray"
                axis.plot([each.low, each.high], [place, place], color=color)
                axis.plot(each.mean, place, "o", color=color, markersize=4)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.set_yticks(range(len(names)), names, fontsize=7)
            axis.invert_yaxis() if panel == 0 else None
            axis.set_title(f"Tier {tier}: momentum-variance minus {other}", fontsize=9)
            axis.set_xlabel(METRICS[tier], fontsize=8)
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
