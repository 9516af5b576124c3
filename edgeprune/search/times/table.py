"""Kept tables of times, for people."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base.names import Name
from edgeprune.base.words import duration
from edgeprune.search.times.record import Calibrated
from edgeprune.targets.block_times import BlockTimes, Level


def calibrated_table(result: Calibrated) -> RenderableType:
    """The files that were written, and the times of blocks."""
    kept = Table(box=SIMPLE_HEAD, title=f"times on this machine ({result.target})")
    for heading, justify in (("table", "left"), ("points", "right"), ("took", "right")):
        kept.add_column(heading, justify=justify)  # type: ignore[arg-type]
    kept.add_column("file", overflow="fold")
    for each in result.kept:
        kept.add_row(each.kind, str(each.points), duration(each.seconds), Name(each.file))
    parts: list[RenderableType] = [kept]
    if result.blocks is not None:
        parts += _blocks(result.blocks)
    return Group(*parts)


def _blocks(table: BlockTimes) -> list[RenderableType]:
    title = f"{table.format}, {table.batch} x {table.tokens} tokens, {table.threads} thread(s)"
    shown = Table(box=SIMPLE_HEAD, title=title)
    columns = (("heads", "left"), ("us more", "right"), ("channels", "left"), ("us more", "right"))
    for heading, justify in columns:
        shown.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for place in range(max(len(table.heads), len(table.channels))):
        shown.add_row(*_cells(table.heads, place), *_cells(table.channels, place))
    fixed = f"fixed {table.rest:.0f} us, a layer of the least {table.layer:.0f} us"
    whole = f"the whole model {table.whole / 1000:.2f} ms"
    return [shown, Text(f"{fixed}, {whole}; fitted within {table.error:.1%} at the median")]


def _cells(levels: tuple[Level, ...], place: int) -> tuple[str, str]:
    if place >= len(levels):
        return "", ""
    return f"{levels[place].count:,}", f"{levels[place].us:.0f}"
