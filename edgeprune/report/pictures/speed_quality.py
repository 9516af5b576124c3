"""Quality against speed with 95 % intervals, and the front of those that no other beats."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.measure.evaluate.result import LOWER_IS_BETTER
from edgeprune.measure.works import Work
from edgeprune.report.canvas import MARKERS, MUTED, ORIGINAL, SERIES, SURFACE, draw, quiet_axes
from edgeprune.report.figures import WORK
from edgeprune.report.pictures.labels import Labelled, put_names
from edgeprune.report.points import Point
from edgeprune.report.records import Known, Quality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The first colour and mark are the result's, whatever else is shown.
_FIRST = {"result": 0, "stage": 1, "other": 2}
_ORDER = ("result", "original", "other", "stage")
"""Whose name chooses its place first."""


def speed_quality(name: str, shown: Sequence[Point], quality: Quality, work: Work) -> str:
    """The points that have both; further right is faster and further up is better, and what stands
    left of the line at 1x is slower than the original. Every name stands beside its point."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes, "both")
        used: dict[str, int] = {}
        names: list[tuple[int, Labelled]] = []
        for point in shown:
            x, y = _of(point)
            if point.kind == "original":
                colour, marker = ORIGINAL, MARKERS[0]
            else:
                number = _FIRST[point.kind] + used.get(point.kind, 0)
                colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
                used[point.kind] = used.get(point.kind, 0) + 1
            axes.errorbar(
                x.value,
                y.value,
                xerr=_reach(x),
                yerr=_reach(y),
                fmt=marker,
                color=colour,
                markersize=8 if point.kind == "result" else 6.5,
                markeredgecolor=SURFACE,
                elinewidth=1.6,
                zorder=3,
            )
            bold = point.kind == "result"
            reach = (x.low, x.high, y.low, y.high)
            label = Labelled(point.name, x.value, y.value, reach, colour, bold)
            names.append((_ORDER.index(point.kind), label))
        lower = quality.key in LOWER_IS_BETTER
        best = front(shown, lower)
        if len(best) > 1:
            line = [(x.value, y.value) for x, y in map(_of, best)]
            axes.plot(*zip(*line, strict=True), color=MUTED, linewidth=1.0, dashes=(5, 3), zorder=2)
            longest = max(itertools.pairwise(line), key=lambda ends: ends[1][0] - ends[0][0])
            (left, low), (right, high) = longest
            x0, y0 = (left + right) / 2, (low + high) / 2
            middle = Labelled("front", x0, y0, (x0, x0, y0, y0), MUTED, line=True)
            names.append((len(_ORDER), middle))
        axes.axvline(1.0, color=ORIGINAL, linewidth=1.0, linestyle=":", zorder=1)
        axes.set_xlabel("times as fast as the original; left of 1x is slower")
        axes.xaxis.set_major_formatter("{x:g}x")
        axes.margins(0.16, 0.18)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        if lower:
            axes.invert_yaxis()
        axes.set_ylabel("better upwards")
        axes.set_title(f"{quality.words} against speed, {WORK.get(work, work)}")
        put_names(axes, [label for _, label in sorted(names, key=lambda each: each[0])])

    label = f"{quality.words} against speed at {work}"
    return draw(name, label, 3.4 + 0.12 * len(shown), paint)


def front(shown: Sequence[Point], lower_is_better: bool) -> list[Point]:
    """The points than which no other is both as fast and as good and one of the two better, the
    slowest first; of several that are equal in both, the first."""
    sign = -1 if lower_is_better else 1
    fastest_first = sorted(shown, key=lambda p: (-_of(p)[0].value, -sign * _of(p)[1].value))
    found: list[Point] = []
    for point in fastest_first:
        if not found or sign * _of(point)[1].value > sign * _of(found[-1])[1].value:
            found.append(point)
    return found[::-1]


def _of(point: Point) -> tuple[Known, Known]:
    assert point.speed is not None
    assert point.quality is not None
    return point.speed, point.quality


def _reach(known: Known) -> list[list[float]] | None:
    if known.exact:
        return None
    return [[max(0.0, known.value - known.low)], [max(0.0, known.high - known.value)]]
