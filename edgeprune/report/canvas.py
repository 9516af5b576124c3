"""Matplotlib's drawings as SVG that lives inside a page: its colours are the page's variables.

So one drawing serves light and dark, and its words are the page's own text.
"""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from edgeprune.base.errors import UserError
from edgeprune.base.escape import printable
from edgeprune.base.install import install
from edgeprune.measure.bench.record import SIDES as NAMES
from edgeprune.measure.bench.record import SideName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's variables; none of them is meant to be seen.
INK, MUTED, GRID, SURFACE = "#010001", "#010002", "#010003", "#010004"
ORIGINAL, RESULT = "#010005", "#010006"
SERIES = (RESULT, "#010007", "#010008", "#010009", "#01000a", "#01000b")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    ORIGINAL: "original",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES, start=1)},
}
SIDES: dict[SideName, tuple[str, str]] = {
    side: (colour, NAMES[side]) for side, colour in zip(NAMES, (ORIGINAL, RESULT), strict=True)
}
"""The two models of a benchmark: what they are drawn in and called."""
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "h")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.labelcolor": INK,
}
_WIDTH = 5.0
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"#(?=[A-Za-z])")


def check_drawable(extra: str = "report") -> None:
    """Refuse to begin what ends with a drawing where the library is not installed.

    Args:
        extra: of edgeprune's, which brings the library with all else that is needed.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(f"A report's pictures need matplotlib: {install(extra)}.") from None


def draw(name: str, label: str, height: float, paint: Callable[["Figure"], None]) -> str:
    """A drawing as an <svg> element.

    Args:
        name: of this drawing alone in its page: letters, digits and hyphens.
        label: what it shows, for those who cannot see it.
        height: in inches; the width is 5, which a phone shows at about its own size.
        paint: fills the figure.

    Raises:
        UserError: matplotlib is missing.
    """
    check_drawable()
    return _inline(_drawn(name, height, paint), name, label)


def _drawn(name: str, height: float, paint: Callable[["Figure"], None]) -> str:
    """A painted figure as an SVG file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        settings: Any = {**_STYLE, "svg.hashsalt": name}
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        paint(figure)
        return _render(figure)


def _render(figure: "Figure") -> str:
    """A figure as an SVG file; `savefig` would draw it twice."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    return text.getvalue()


def quiet_axes(axes: "Axes", grid: Literal["x", "y", "both", "none"] = "y") -> None:
    """Grid lines along one axis alone (x, y, or none), and no marks at the numbers."""
    axes.grid(False)
    if grid != "none":
        axes.grid(True, axis=grid)
    axes.tick_params(length=0)


def _inline(svg: str, name: str, label: str) -> str:
    """An SVG file as an element of a page: small, with ids of its own and the page's colours."""
    root = ElementTree.fromstring(printable(svg))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text = (element.text or "").strip() or None
        element.tail = None
        if link := element.attrib.pop(_LINK, None):
            element.set("href", link)
        if element.tag == "g":  # nothing refers to groups
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            element.set(key, _attribute(key, value, name))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("style", "metadata") or (child.tag == "defs" and not len(child)):
                parent.remove(child)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": printable(label)})
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key in ("href", "clip-path"):
        return _REFERENCE.sub(f"#{name}-", value)
    if key == "style":
        for colour, variable in _VARIABLES.items():
            value = value.replace(colour, f"var(--{variable})")
        return re.sub(r" ?font-family: [^;]+;?", "", value).strip()
    if key in ("d", "x", "y", "width", "height", "transform"):
        return " ".join(re.sub(r"-?\d+\.\d{2,}", _rounded, value).split())
    return value


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
