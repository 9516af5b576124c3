"""Names of points inside a picture, each beside its point and on no other's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.base.escape import one_line
from edgeprune.report.canvas import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_LONGEST_NAME = 30
_GAP = 7.0
"""Points of type between a mark and its name."""
_MARK = 4.0
"""Half of a mark's width."""
_PLACES = (
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (1, 1.6, "left", "bottom"),
    (1, -1.6, "left", "top"),
    (-1, 1.6, "right", "bottom"),
    (-1, -1.6, "right", "top"),
    (1, 3.4, "left", "bottom"),
    (1, -3.4, "left", "top"),
    (-1, 3.4, "right", "bottom"),
    (-1, -3.4, "right", "top"),
)
"""The places of a name, in gaps from its point, and which of its corners stands there."""


@dataclass(frozen=True)
class Labelled:
    """A point with its name."""

    name: str
    x: float
    y: float
    reach: tuple[float, float, float, float]
    """The ends of its bars: left, right, low, high."""
    colour: str = INK
    bold: bool = False
    line: bool = False
    """Whether it is the middle of a line, of which a name stands clear at a corner."""


def put_names(axes: "Axes", points: Sequence[Labelled]) -> None:
    """Write each name beside its point: the place that overlaps least with names, marks and the
    picture's edge; the first points choose first."""
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    taken = [_mark(axes, point) for point in points]
    inside = axes.get_window_extent()
    for point in points:
        best, least = None, float("inf")
        for right, up, horizontal, vertical in _PLACES:
            if point.line and not (right and up):
                continue
            text = axes.annotate(
                short(point.name),
                (point.x, point.y),
                (right * _GAP, up * _GAP),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=9.5,
                fontweight="bold" if point.bold else "normal",
                color=point.colour,
                zorder=4,
            )
            box = text.get_window_extent()
            cost = sum(_overlap(box, each) for each in taken)
            cost += 4 * (box.width * box.height - _overlap(box, inside))
            if cost >= least:
                text.remove()
                continue
            if best is not None:
                best.remove()
            best, least = text, cost
            if cost <= 0:
                break
        assert best is not None
        taken.append(best.get_window_extent())


def short(name: str) -> str:
    """A name as a picture has room for; a long one loses its beginning."""
    name = one_line(name)
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _mark(axes: "Axes", point: Labelled) -> "Bbox":
    from matplotlib.transforms import Bbox

    left, right, low, high = point.reach
    (x0, y0), (x1, y1) = axes.transData.transform([(left, low), (right, high)])
    (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
    return Bbox.from_extents(x0 - _MARK, y0 - _MARK, x1 + _MARK, y1 + _MARK)


def _overlap(box: "Bbox", other: "Bbox") -> float:
    """The area that two boxes share."""
    wide = min(box.x1, other.x1) - max(box.x0, other.x0)
    high = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(0.0, wide) * max(0.0, high)
