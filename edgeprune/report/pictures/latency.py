"""Latency as the length of the text, the batch or the threads grow."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeprune.measure.bench.record import Point
from edgeprune.measure.works import WORKS, Work
from edgeprune.report.canvas import SIDES, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FINE = (1, 1.5, 2, 3, 4, 5, 7)
_SWEPT = ("tokens", "batch", "threads")


def lines(points: Sequence[Point]) -> Iterator[tuple[str, str, list[Point]]]:
    """Every run of points in which one setting grows and the others stay.

    Returns:
        (what grows, what stays, points in order), each once.
    """
    for key in _SWEPT:
        others = [other for other in _SWEPT if other != key]
        groups: dict[tuple[int, ...], dict[int, Point]] = {}
        for point in points:
            settings = point.settings
            same = tuple(getattr(settings, other) for other in others)
            groups.setdefault(same, {})[getattr(settings, key)] = point
        for same, group in groups.items():
            if len(group) > 1:
                stays = ", ".join(
                    f"{other} {value}" for other, value in zip(others, same, strict=True)
                )
                yield key, stays, [group[value] for value in sorted(group)]


def latency(name: str, work: Work, key: str, stays: str, points: Sequence[Point]) -> str:
    """Median milliseconds of one kind of work with 95 % intervals, both axes logarithmic."""

    def paint(figure: "Figure") -> None:
        from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

        axes = figure.subplots()
        quiet_axes(axes)
        at = [getattr(point.settings, key) for point in points]
        sides = [side for side in SIDES if all(side in p.measures[work].sides for p in points)]
        for side in sides:
            colour, what = SIDES[side]
            times = [point.measures[work].sides[side] for point in points]
            middle = [time.median_ms for time in times]
            known = [time.interval_ms or (time.median_ms, time.median_ms) for time in times]
            reach = [
                [max(0.0, at - low) for at, (low, _) in zip(middle, known, strict=True)],
                [max(0.0, high - at) for at, (_, high) in zip(middle, known, strict=True)],
            ]
            axes.errorbar(at, middle, yerr=reach, fmt="o-", color=colour, markersize=5, label=what)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(at, [str(value) for value in at])
        axes.xaxis.set_minor_locator(NullLocator())
        bottom, top = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top > 8 * bottom else _FINE))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel(key)
        axes.set_title(f"{WORKS[work].told}, ms ({stays})")
        figure.legend(loc="outside lower left", ncols=2)

    return draw(name, f"Milliseconds of {WORKS[work].told} by {key}, {stays}", 2.9, paint)
