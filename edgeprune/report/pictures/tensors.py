"""A cell for every linear: a row for each role, a column for each layer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.report.canvas import RESULT, SERIES, SURFACE, draw, quiet_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LAYER = re.compile(r"\.(\d+)\.")
_FAINTEST = 0.06
_MOST_TICKS = 12


@dataclass(frozen=True)
class Place:
    """The place of a linear: its layer, and its row by role."""

    layer: int
    role: str


def places(roles: Mapping[str, str], names: Iterable[str]) -> dict[str, Place]:
    """The place of each of the names; those outside the layers are left out.

    Args:
        roles: by linear's name, of any layers; the last part of another name is its role.
    """
    known = {_LAYER.sub("..", name): role for name, role in roles.items()}
    found = {}
    for name in names:
        if layer := _LAYER.search(name):
            role = known.get(_LAYER.sub("..", name), name.rsplit(".", 1)[-1])
            found[name] = Place(int(layer[1]), role)
    return found


def format_grid(name: str, title: str, kinds: Mapping[str, str], where: Mapping[str, Place]) -> str:
    """The format of each linear, a colour for each.

    Args:
        kinds: what to show, by the linear's name.
    """
    names = list(dict.fromkeys(kinds.values()))
    colours = {kind: SERIES[number % len(SERIES)] for number, kind in enumerate(names)}

    def paint(figure: "Figure") -> None:
        _cells(
            figure, title, {linear: (colours[kind], 0.85) for linear, kind in kinds.items()}, where
        )
        axes = figure.axes[0]
        for kind in names:
            axes.bar(0, 0, color=colours[kind], alpha=0.85, label=kind)
        figure.legend(loc="outside lower left", ncols=2, handlelength=1)

    return draw(name, title, _height(where) + 0.22 * (1 + len(names) // 2), paint)


def heat_grid(
    name: str, title: str, values: Mapping[str, float], where: Mapping[str, Place], unit: str
) -> str:
    """A number of at least 0 for each linear, the darker the larger; `unit` formats it."""
    most = max(values.values())

    def depth(value: float) -> float:
        return _FAINTEST + (1 - _FAINTEST) * (value / most if most > 0 else 0.0)

    def paint(figure: "Figure") -> None:
        cells = {linear: (RESULT, depth(value)) for linear, value in values.items()}
        _cells(figure, title, cells, where)
        axes = figure.axes[0]
        for value in dict.fromkeys((0.0, min(values.values()), most)):
            axes.bar(0, 0, color=RESULT, alpha=depth(value), label=format(value, unit))
        figure.legend(loc="outside lower left", ncols=3, handlelength=1)

    return draw(name, title, _height(where) + 0.25, paint)


def _cells(
    figure: "Figure",
    title: str,
    cells: Mapping[str, tuple[str, float]],
    where: Mapping[str, Place],
) -> None:
    from matplotlib.patches import Rectangle

    axes = figure.subplots()
    quiet_axes(axes, "none")
    rows = _rows(where)
    columns = 1 + max(place.layer for place in where.values())
    # The last of several linears of one role and layer (experts) is seen.
    for linear, (colour, alpha) in cells.items():
        if linear not in where:
            continue
        place = where[linear]
        corner = (place.layer - 0.5, rows.index(place.role) - 0.5)
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor=colour, alpha=alpha, edgecolor="none", linewidth=0)
        )
    axes.vlines(
        [n - 0.5 for n in range(columns + 1)], -0.5, len(rows) - 0.5, color=SURFACE, linewidth=1.2
    )
    axes.hlines(
        [n - 0.5 for n in range(len(rows) + 1)], -0.5, columns - 0.5, color=SURFACE, linewidth=1.2
    )
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(0, columns, -(-columns // _MOST_TICKS)))
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer")
    axes.set_title(title)


def _rows(where: Mapping[str, Place]) -> Sequence[str]:
    return list(dict.fromkeys(place.role for place in where.values()))


def _height(where: Mapping[str, Place]) -> float:
    return 1.1 + 0.24 * len(_rows(where))
