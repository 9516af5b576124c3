"""This process's place among those that train one model together. Alone it is the first of one, and
everything here is the identity. No torch before there are several.

The processes run the same code side by side, in step: what each must know alike, such as a clock or
what lies on disk, the first looks up and the others are told.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeprune.base.errors import MISTAKE, UserError

Value = TypeVar("Value")

ENDED = (
    "Another of the processes that train this model together has ended, and so does this one: "
    "stages that were finished are kept; give the same command again to go on from there."
)


@dataclass
class _Place:
    number: int = 0
    count: int = 1


_PLACE = _Place()


def set_place(number: int, count: int) -> None:
    """Take a place: the number of this process, from 0, and the count of all."""
    _PLACE.number, _PLACE.count = number, count


def number() -> int:
    """The number of this process, from 0."""
    return _PLACE.number


def count() -> int:
    """Processes that train together."""
    return _PLACE.count


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return _PLACE.number == 0


def part() -> None:
    """End what is done together: the first process goes on alone.

    Raises:
        SystemExit: in the others, whose work is done.
    """
    if not is_first():
        raise SystemExit(0)
    set_place(0, 1)


@dataclass(frozen=True)
class _Failed:
    """The first process tells the others this in place of a value that it could not make."""


def led(make: Callable[..., Value], *given: object) -> Value:
    """The value that the first process makes, told to all.

    Raises:
        SystemExit: in the others, where the first one failed: it says why itself.
        UserError: another process has ended.
    """
    if count() == 1:
        return make(*given)
    if is_first():
        try:
            value = make(*given)
        except BaseException:
            with contextlib.suppress(UserError):
                _told(_Failed())
            raise
        return _told(value)
    found: Any = _told(None)
    if isinstance(found, _Failed):
        raise SystemExit(MISTAKE)
    return found


def in_turn(make: Callable[..., Value], *given: object) -> Value:
    """The value that each process makes for itself, the first one before the others, so that a
    mistake is told once.

    Raises:
        SystemExit, UserError: as `led`.
    """
    found: list[Value] = []
    led(lambda: found.append(make(*given)))
    return found[0] if found else make(*given)


def _told(value: Value) -> Value:
    import torch.distributed

    holder = [value]
    with in_step():
        torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]


@contextlib.contextmanager
def in_step() -> Iterator[None]:
    """Speak with the other processes, for the length of the context.

    Raises:
        UserError: one of them has ended.
    """
    try:
        yield
    except RuntimeError:  # as torch has it when a connection is lost
        raise UserError(ENDED) from None
