"""Progress of long work on standard error: what is done, the time left, and the memory in use."""

import contextlib
import functools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from edgeprune.base.console import Terminal
from edgeprune.base.words import duration, size

T = TypeVar("T")

console = Terminal(stderr=True)
_LINE_EVERY_SECONDS = 20.0
_ends: list[float] = []
"""The moments at which the pieces of work that are under way are expected to end, the outer first;
of the clock that `time.monotonic` reads."""


def say(text: str) -> None:
    """Print one line of progress on standard error, unbroken."""
    console.print(text, soft_wrap=True)


@functools.cache
def say_once(text: str) -> None:
    """`say` a line once in a process, however often it comes up."""
    say(text)


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Tell beside the progress of everything in this context that the whole of it, or of what it is
    a part of, ends in about so many seconds; None: nobody knows."""
    if seconds is None:
        yield
        return
    _ends.append(time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends.pop()


def all_told(left: float | None) -> str:
    """The time left of the whole, where it is known, and the memory in use.

    Args:
        left: seconds until the part that is under way ends: the whole takes no less.
    """
    import psutil

    memory = size(psutil.Process().memory_info().rss)
    if not _ends:
        return memory
    whole = max(left or 0.0, _ends[0] - time.monotonic())
    return f"{duration(whole)} left in all, {memory}"


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items` under a progress bar; off a terminal, print a plain line now and then."""
    if sys.stderr.isatty():
        from edgeprune.base.bar import progress_bar

        with progress_bar(console, all_told, counted=True) as bar:
            yield from bar.track(items, total=total, description=what)
        return
    started = printed = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - printed > _LINE_EVERY_SECONDS:
            printed = now
            left = (now - started) / done * (total - done)
            say(f"  {what}: {done} of {total}, about {duration(left)} left; {all_told(left)}")
        yield item


def passing(seconds: float, what: str) -> Iterator[float]:
    """Yield the seconds that have passed, without end, under a progress bar of `seconds`; off a
    terminal, print a plain line now and then."""
    started = printed = time.monotonic()
    if sys.stderr.isatty():
        from edgeprune.base.bar import progress_bar

        with progress_bar(console, all_told, counted=False) as bar:
            task = bar.add_task(what, total=seconds)
            while True:
                now = time.monotonic() - started
                bar.update(task, completed=min(now, seconds))
                yield now
    while True:
        now = time.monotonic()
        if now - printed > _LINE_EVERY_SECONDS:
            printed = now
            left = max(0.0, seconds - (now - started))
            say(f"  {what}: about {duration(left)} left; {all_told(left)}")
        yield now - started
