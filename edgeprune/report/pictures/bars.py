"""A number for each of a few things, as bars."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeprune.report.canvas import INK, ORIGINAL, RESULT, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars(
    name: str, title: str, values: Mapping[str, float], unit: str, grey: Sequence[str] = ()
) -> str:
    """Bars that lie, with their numbers behind them; `unit` formats those.

    Args:
        grey: names whose bars stand back, as the original's.
    """

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        quiet_axes(axes, "none")
        names = list(values)
        colours = [ORIGINAL if name in grey else RESULT for name in names]
        drawn = axes.barh(range(len(names)), list(values.values()), 0.62, color=colours)
        axes.bar_label(
            drawn, [format(value, unit) for value in values.values()], padding=4, color=INK
        )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.margins(x=0.14 if min(values.values()) >= 0 else 0.3)
        axes.spines[:].set_visible(False)
        axes.set_title(title)

    return draw(name, title, 0.6 + 0.3 * len(values), paint)
