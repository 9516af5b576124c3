"""Long names of tensors, settings and files, and where lines may break inside them."""

import re

from markupsafe import Markup, escape
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from edgeprune.base.escape import printable

_PARTS = re.compile(r"[^._/]*[._/]*")
_NAME = re.compile(r"[A-Za-z_*][\w*-]*(?:[._/][\w*-]+)+")


def parts_of(name: str) -> list[str]:
    """The pieces of a name between which a line may break: after dots, slashes and underscores."""
    return [part for part in _PARTS.findall(name) if part]


def breakable(text: str) -> Markup:
    """Text for a page, in which names break between their parts and nowhere else."""
    html, last, text = Markup(""), 0, printable(text)
    for name in _NAME.finditer(text):
        html += escape(text[last : name.start()])
        html += Markup("<wbr>").join(map(escape, parts_of(name[0])))
        last = name.end()
    return html + escape(text[last:])


class Name:
    """A name in a cell of a terminal's table, which breaks between its parts."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in parts_of(self.name):
            if lines[-1] and len(lines[-1]) + len(part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, parts_of(self.name)), default=0), len(self.name))
