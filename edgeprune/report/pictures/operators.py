"""A picture of the time of a call by operator, before and after."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeprune.measure.bench.record import Profile, SideName
from edgeprune.report.canvas import SIDES, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 8


def rows(sides: Mapping[SideName, Profile]) -> list[tuple[str, dict[SideName, float]]]:
    """Milliseconds of a run by type of operator and side, what takes most first; the rest, and
    what passes between operators, at the end."""
    times: dict[str, dict[SideName, float]] = {}
    for side, found in sides.items():
        for name, spent in found.operators.items():
            times.setdefault(name, dict.fromkeys(sides, 0.0))[side] = spent.ms
    most_first = sorted(times, key=lambda name: (-max(times[name].values()), name))
    shown = [(name, times[name]) for name in most_first[:_SHOWN]]
    if rest := most_first[_SHOWN:]:
        sums = {side: sum(times[name][side] for name in rest) for side in sides}
        shown.append((f"{len(rest)} others", sums))
    between = {side: max(0.0, found.outside_share) * found.run_ms for side, found in sides.items()}
    return [*shown, ("between operators", between)]


def operators(name: str, title: str, sides: Mapping[SideName, Profile]) -> str:
    """Bars of `rows`, the original's above the result's."""
    listed = rows(sides)

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes, "x")
        thick = 0.8 / len(sides)
        for number, side in enumerate(sides):
            colour, what = SIDES[side]
            shift = (number - (len(sides) - 1) / 2) * thick
            at = [place + shift for place in range(len(listed))]
            axes.barh(at, [times[side] for _, times in listed], thick, color=colour, label=what)
        axes.set_yticks(range(len(listed)), [operator for operator, _ in listed])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds of a call, profiled")
        axes.set_title(title)
        figure.legend(loc="outside lower left", ncols=2)

    return draw(name, f"{title}: milliseconds by operator", 1.2 + 0.3 * len(listed), paint)
