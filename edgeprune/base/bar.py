"""A bar of progress on a terminal: apart, since it takes longer to load than what says lines."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Told = Callable[[float | None], str]


def progress_bar(console: Console, told: Told, counted: bool) -> Progress:
    """A bar that goes when it is left.

    Args:
        told: what stands behind it, by the seconds that are left; None: they are not known.
        counted: show how many of how many are done.
    """
    return Progress(
        TextColumn("  {task.description}", markup=False),
        BarColumn(bar_width=30),
        *([MofNCompleteColumn()] if counted else []),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Behind(told),
        console=console,
        transient=True,
    )


class _Behind(ProgressColumn):
    max_refresh = 1.0

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told

    def render(self, task: Task) -> Text:
        return Text(self._told(task.time_remaining))
