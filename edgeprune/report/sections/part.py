"""The parts of a page: sections of pictures, tables and sentences, for the template."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.report.figures import Cell

NOT_RECORDED = "Not recorded by this build."


@dataclass(frozen=True)
class Table:
    """Rows of figures under a head; the first column is words."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    folded: str = ""
    """The label of a table that opens on demand; empty for one that is always seen."""
    words: frozenset[int] = frozenset({0})
    """Columns that hold words, not figures."""
    anchors: Sequence[str] = ()
    """A name for each row, which a link may lead to; empty where there are none."""


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    name: str
    title: str
    pictures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    text: str = ""
    items: Sequence[str] = ()
    link: tuple[str, str] | None = None
    """A sentence, and the name of the row that it leads to."""
    code: str = ""
    folded: str = ""
    """The label of pictures and tables that open on demand; empty where they are always seen."""

    @property
    def empty(self) -> bool:
        """Whether it has nothing to show or say, and so no place on the page."""
        return not (self.pictures or self.tables or self.text or self.items or self.code)
