"""The result of a search for people: the front as a table, and how the wish was met."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.names import Name
from edgeprune.base.words import duration
from edgeprune.search.outlook import outlook
from edgeprune.search.record import Brief, Found, SearchRecord


def search_table(record: SearchRecord, output: Path) -> RenderableType:
    """The models of the front, the slowest first, and where they lie."""
    shown = Table(box=SIMPLE_HEAD, title=f"{record.model}: {len(record.models)} models")
    shown.add_column("model")
    for heading in ("speed", "lost", "MB", "trained"):
        shown.add_column(heading, justify="right")
    for found in record.models:
        mark = " *" if found.name == record.best else ""
        shown.add_row(
            f"{found.name}{mark}",
            f"{found.speedup.value:.2f}x ({found.speedup.low:.2f} to {found.speedup.high:.2f})",
            loss_line(found),
            f"{found.megabytes:.1f}",
            duration(60 * found.minutes) if found.minutes else "",
        )
    shapes = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("model", "predicted", "layers; heads; channels"):
        shapes.add_column(heading)
    for found in record.models:
        if found.shape:
            shapes.add_row(found.name, f"{found.predicted:.2f}x", shape_line(found))
    parts: list[RenderableType] = [shown]
    if len(record.models) > 1:
        parts += [shapes, Text()]
    parts += map(Text, sentences(record))
    places = Table.grid(padding=(0, 2, 0, 0))
    if record.best is not None:
        places.add_row("best", Name(str(output / "best")))
    places.add_row("models", Name(str(output / "models")))
    places.add_row("report", Name(str(output / "search.html")))
    return Group(*parts, places)


def shape_line(found: Found | Brief) -> str:
    """A shape in a line."""
    if found.shape is None:
        return "all"
    layers, heads, channels = (
        ",".join(map(str, found.shape[name])) for name in ("layers", "heads", "channels")
    )
    return f"{layers}; {heads}; {channels}"


def loss_line(found: Found) -> str:
    """The loss of a model, with its interval."""
    ends = found.loss_interval
    between = f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
    return f"{found.loss:.2f}{found.loss_unit}{between}"


def sentences(record: SearchRecord) -> list[str]:
    """The measure of what was lost, and whether the wish was met."""
    lines = [f"Lost: {record.models[0].loss_of}, against the original."]
    if record.best is not None and not record.verdict:
        lines.append(f"{record.best} keeps every limit.")
    if record.verdict:
        lines.append(f"No model keeps every limit; {record.best} is the nearest:")
        lines += [f"  {line}" for line in record.verdict]
    shown = next((each for each in record.models if each.name == record.best), record.models[-1])
    if more := outlook(record, shown):
        lines.append(more)
    if record.hours_over:
        made = len(record.models) - 1
        lines.append(
            f"Its {record.settings['hours']:g} hours were over after "
            f"{made} {'model' if made == 1 else 'models'} beside the whole one: with more --hours "
            "the same command goes on."
        )
    elif not record.finished:
        lines.append("Stopped before its end; the same command goes on.")
    return lines
