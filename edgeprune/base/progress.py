"""Progress of long work and the time left, on standard error."""

import functools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edgeprune.base.console import Terminal

T = TypeVar("T")

console = Terminal(stderr=True)
_LINE_EVERY_SECONDS = 20.0


def say(text: str) -> None:
    """Print one line of progress on standard error, unbroken."""
    console.print(text, soft_wrap=True)


@functools.cache
def say_once(text: str) -> None:
    """`say` a line once in a process, however often it comes up."""
    say(text)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items` under a progress bar; off a terminal, print a plain line now and then."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total, description=what)
        return
    started = printed = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - printed > _LINE_EVERY_SECONDS:
            printed = now
            left = (now - started) / done * (total - done)
            say(f"  {what}: {done} of {total}, about {left:.0f} s left")
        yield item


def passing(seconds: float, what: str) -> Iterator[float]:
    """Yield the seconds that have passed, without end, under a progress bar of `seconds`; off a
    terminal, print a plain line now and then."""
    started = printed = time.monotonic()
    if sys.stderr.isatty():
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=seconds)
            while True:
                now = time.monotonic() - started
                bar.update(task, completed=min(now, seconds))
                yield now
    while True:
        now = time.monotonic()
        if now - printed > _LINE_EVERY_SECONDS:
            printed = now
            say(f"  {what}: about {max(0.0, seconds - (now - started)):.0f} s left")
        yield now - started
