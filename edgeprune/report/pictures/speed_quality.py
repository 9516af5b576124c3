"""Quality against speed, each with its 95 % interval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.base.escape import one_line
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER
from edgeprune.measure.works import Work
from edgeprune.report.canvas import MARKERS, ORIGINAL, SERIES, SURFACE, draw, quiet_axes
from edgeprune.report.figures import WORK
from edgeprune.report.points import Point
from edgeprune.report.records import Known, Quality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The first colour and mark are the result's, whatever else is shown.
_FIRST = {"result": 0, "stage": 1, "other": 2}
_LONGEST_NAME = 52


def speed_quality(name: str, shown: Sequence[Point], quality: Quality, work: Work) -> str:
    """The points that have both; further right is faster and further up is better, and what stands
    left of the line at 1x is slower than the original."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes, "both")
        used: dict[str, int] = {}
        for point in shown:
            assert point.speed is not None
            assert point.quality is not None
            if point.kind == "original":
                colour, marker = ORIGINAL, MARKERS[0]
            else:
                number = _FIRST[point.kind] + used.get(point.kind, 0)
                colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
                used[point.kind] = used.get(point.kind, 0) + 1
            axes.errorbar(
                point.speed.value,
                point.quality.value,
                xerr=_reach(point.speed),
                yerr=_reach(point.quality),
                fmt=marker,
                color=colour,
                markersize=8 if point.kind == "result" else 6.5,
                markeredgecolor=SURFACE,
                elinewidth=1.6,
                label=_short(point.name),
                zorder=3,
            )
        axes.axvline(1.0, color=ORIGINAL, linewidth=1.0, linestyle=":", zorder=1)
        axes.set_xlabel("times as fast as the original; left of 1x is slower")
        axes.xaxis.set_major_formatter("{x:g}x")
        axes.margins(0.1, 0.14)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        if quality.key in LOWER_IS_BETTER:
            axes.invert_yaxis()
        axes.set_ylabel("better upwards")
        axes.set_title(f"{quality.words} against speed, {WORK.get(work, work)}")
        columns = 1 if any(len(point.name) > 24 for point in shown) else 2
        figure.legend(loc="outside lower left", ncols=columns, handletextpad=0.3)

    label = f"{quality.words} against speed at {work}"
    rows = 0.22 * len(shown)
    return draw(name, label, 3.1 + rows, paint)


def _reach(known: Known) -> list[list[float]] | None:
    if known.exact:
        return None
    return [[max(0.0, known.value - known.low)], [max(0.0, known.high - known.value)]]


def _short(name: str) -> str:
    name = one_line(name)
    shown = name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
    # Labels that begin with an underscore are matplotlib's own, and left out.
    return f" {shown}" if shown.startswith("_") else shown
