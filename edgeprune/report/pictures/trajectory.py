"""Pictures of dynamic pruning: budget, momentum and the unrest of the gradient, update by
update."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgeprune.report.canvas import MUTED, ORIGINAL, RESULT, SERIES, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Updates = Sequence[dict[str, Any]]


def budget(name: str, updates: Updates) -> str:
    """The share that is gone against the cubic target, and what each update took."""

    def paint(figure: "Figure") -> None:
        top, bottom = figure.subplots(2, sharex=True, height_ratios=[3, 2])
        steps = _steps(updates)
        for axes in (top, bottom):
            quiet_axes(axes)
        _line(top, steps, updates, "target", ORIGINAL, "cubic target", linestyle="--")
        _line(top, steps, updates, "sparsity", RESULT, "sparsity reached", drawstyle="steps-post")
        bottom.bar(steps, [100 * row["budget"] for row in updates], _width(steps), color=RESULT)
        top.set_title("sparsity")
        top.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        bottom.set_title("budget of each update, % of all units")
        bottom.set_xlabel("training step")
        figure.legend(loc="outside lower left", ncols=2)

    return draw(name, "Sparsity and budget by training step", 3.9, paint)


def momentum(name: str, updates: Updates) -> str:
    """The coefficient of the budget's momentum, and how far norms stood from their trend."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes)
        steps = _steps(updates)
        _line(axes, steps, updates, "beta", RESULT, "momentum coefficient")
        apart = [deviation(row) for row in updates]
        axes.plot(steps, apart, color=SERIES[1], label="deviation of the norm from its trend")
        axes.set_ylim(0, 1.05 * max(1.0, *apart))
        axes.set_title("momentum coefficient, and deviation of the norm")
        axes.set_xlabel("training step")
        figure.legend(loc="outside lower left", ncols=2)

    return draw(name, "Momentum coefficient and deviation by training step", 2.7, paint)


def norms(name: str, updates: Updates) -> str:
    """The gradient's norm between updates, its trend with one standard deviation, and variance."""

    def paint(figure: "Figure") -> None:
        top, bottom = figure.subplots(2, sharex=True, height_ratios=[3, 2])
        steps = _steps(updates)
        for axes in (top, bottom):
            quiet_axes(axes)
        low = [row["trend"] * (1 - deviation(row)) for row in updates]
        high = [row["trend"] * (1 + deviation(row)) for row in updates]
        top.fill_between(steps, low, high, color=RESULT, alpha=0.15, linewidth=0)
        _line(top, steps, updates, "trend", RESULT, "trend, one standard deviation")
        known = [row for row in updates if row["norm"] is not None]
        top.plot(
            _steps(known), [row["norm"] for row in known], "o", color=MUTED, markersize=3.5,
            label="mean since the last update",
        )  # fmt: skip
        top.set_title("norm of the gradient")
        top.set_ylim(bottom=0)
        bottom.plot(steps, [variance(row) for row in updates], color=SERIES[1])
        bottom.set_title("its variance")
        bottom.set_ylim(bottom=0)
        bottom.set_xlabel("training step")
        figure.legend(loc="outside lower left", ncols=1)

    return draw(name, "Gradient norm and its variance by training step", 4.1, paint)


def kept(name: str, updates: Updates) -> str:
    """The share of its units that every layer keeps, update by update."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes)
        steps = _steps(updates)
        layers = list(updates[0]["kept"])
        for number, layer in enumerate(layers):
            most = max(row["kept"][layer] for row in updates) or 1
            early = number / max(1, len(layers) - 1)
            axes.plot(
                steps, [row["kept"][layer] / most for row in updates], color=RESULT,
                alpha=0.25 + 0.75 * early, linewidth=1.4, drawstyle="steps-post",
                label={0: "first", len(layers) - 1: "last"}.get(number),
            )  # fmt: skip
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_title("kept by every layer, the later the stronger")
        axes.set_xlabel("training step")
        figure.legend(loc="outside lower left", ncols=2)

    return draw(name, "Share kept by every layer by training step", 2.7, paint)


def variance(row: dict[str, Any]) -> float:
    """Of the gradient's norm about its trend."""
    return float(deviation(row) * row["trend"]) ** 2


def deviation(row: dict[str, Any]) -> float:
    """Root mean square of the norm's deviation from its trend, as a share of it; 0 where it is not
    known. The first release calls it cv."""
    return row.get("deviation", row.get("cv")) or 0.0


def _steps(updates: Updates) -> list[int]:
    return [row["step"] for row in updates]


def _line(
    axes: Any, steps: list[int], updates: Updates, key: str, colour: str, label: str, **how: Any
) -> None:
    axes.plot(steps, [row[key] for row in updates], color=colour, label=label, **how)


def _width(steps: Sequence[int]) -> float:
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    return 0.7 * min(gaps, default=1)
