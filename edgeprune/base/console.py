"""The terminal, on which text from outside is printed literally."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.theme import Theme

from edgeprune.base.escape import printable

# Rich's own colours of times and counts (yellow, cyan) are hard to read on a light terminal.
_COLUMNS = ("download", "elapsed", "remaining")
_THEME = Theme({f"progress.{column}": "default" for column in _COLUMNS})


class Terminal(Console):
    """A console that prints text literally: no markup, no control characters, and words too long
    for their column are folded."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, theme=_THEME)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        if isinstance(renderable, Table):
            for column in renderable.columns:
                column.overflow = "fold"  # rich would cut the word off
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
