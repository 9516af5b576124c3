"""The models that a search makes, one after the other, by what was asked and what it has found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.search.record import Found
from edgeprune.search.settings import SearchRunSettings, Wish

_STEP = 1.6
"""By how much faster a search for the fastest model within a loss goes on, while it finds some."""
_NEAR = 1.12
"""A fastest model within the loss and a slowest beyond it that are no further apart are enough."""
FASTEST = 0.85
"""Of the speed of the smallest shape, what a front's fastest has: the smallest loses everything."""
_FRONT = 40.0
"""The fastest of a front, times faster than the original, where so much can be had."""


@dataclass(frozen=True)
class Goal:
    """A model to make: the least loss at a speedup, or within bytes; None is no limit."""

    speedup: float | None
    bytes: float | None


def met(found: Found, wish: Wish) -> bool:
    """Whether a model keeps every limit, by the whole interval where it has one."""
    return not missed(found, wish)


def missed(found: Found, wish: Wish) -> list[str]:
    """The limits that a model misses, and by how much, as sentences' parts."""
    lines = []
    if len(wish.speedup) == 1 and found.speedup.low < wish.speedup[0]:
        lines.append(
            f"{found.speedup.value:.2f}x ({found.speedup.low:.2f} to {found.speedup.high:.2f}) "
            f"where {wish.speedup[0]:g}x was asked"
        )
    if wish.latency is not None and found.ms > wish.latency:
        lines.append(f"{found.ms:.2f} ms where {wish.latency:g} ms were asked")
    if wish.megabytes is not None and found.megabytes > wish.megabytes:
        lines.append(f"{found.megabytes:.1f} MB where {wish.megabytes:g} MB were asked")
    memory = found.memory_megabytes
    if wish.memory is not None and memory is not None and memory > wish.memory:
        lines.append(f"{memory:.0f} MB of memory where {wish.memory:g} MB were asked")
    if wish.max_drop is not None and _most_lost(found) > wish.max_drop:
        lines.append(
            f"{found.loss:.2f}{found.loss_unit} of {found.loss_of} lost, at most "
            f"{_most_lost(found):.2f}, where {wish.max_drop:g} was asked"
            + _too_few(found, wish.max_drop)
        )
    return lines


def _too_few(found: Found, wished: float) -> str:
    """Of a loss whose interval has the wished one inside: how finely its rows tell losses apart,
    and how many would do, since an interval is narrower by the root of how many more there are.
    Empty of any other."""
    if found.loss_interval is None or found.judged_on is None:
        return ""
    low, high = found.loss_interval
    if not low < wished < high:
        return ""
    rows, count = found.judged_on
    wide = (high - low) / 2
    needed = math.ceil(count * (wide / wished) ** 2)
    told = f"; {count:,} {rows} tell losses apart by {wide:.2g}"
    return told + (f", and {wished:g} needs about {needed:,}" if needed > count else "")


def _most_lost(found: Found) -> float:
    return found.loss_interval[1] if found.loss_interval else found.loss


def planned(wish: Wish, settings: SearchRunSettings) -> int:
    """The models that a search makes beside the whole one, at most."""
    if wish.of_one and wish.max_drop is None:
        return 1
    return len(wish.speedup) if wish.speedup and wish.max_drop is None else settings.points - 1


def next_goal(
    wish: Wish,
    settings: SearchRunSettings,
    whole: Found,
    fastest: float,
    made: Sequence[Found],
) -> Goal | None:
    """The next model to make; None: there are enough.

    Args:
        whole: the original in the plan's formats, with nothing cut.
        fastest: the speedup that is predicted of the smallest shape.
        made: the models that were made, in order.
    """
    limit = _bytes(wish, whole)
    if wish.max_drop is not None:
        return _next_within_a_loss(wish, settings, whole, fastest, made, limit)
    speeds: Sequence[float | None]
    if wish.speedup:
        speeds = sorted(wish.speedup)
    elif wish.latency is not None:
        speeds = [whole.original_ms / wish.latency]
    elif limit is not None:  # of models of the same plan the whole one loses least
        speeds = [] if 1e6 * whole.megabytes <= limit else [None]
    else:
        speeds = front(whole.speedup.value, fastest, settings.points - 1)
    needed = [speed for speed in speeds if speed is None or speed > whole.speedup.value]
    if len(made) < len(needed):
        return Goal(needed[len(made)], limit)
    return None


def _bytes(wish: Wish, whole: Found) -> float | None:
    """The most bytes of a graph under the limits of size and memory: a process that runs a model
    takes what the whole one's does, less the bytes that leave."""
    limits = []
    if wish.megabytes is not None:
        limits.append(wish.megabytes)
    if wish.memory is not None and whole.memory_megabytes is not None:
        limits.append(wish.memory - (whole.memory_megabytes - whole.megabytes))
    return 1e6 * min(limits) if limits else None


def _next_within_a_loss(
    wish: Wish,
    settings: SearchRunSettings,
    whole: Found,
    fastest: float,
    made: Sequence[Found],
    limit: float | None,
) -> Goal | None:
    """Faster and faster until one loses too much, then between the last two."""
    assert wish.max_drop is not None
    if _most_lost(whole) > wish.max_drop or len(made) >= settings.points - 1:
        return None
    least = wish.speedup[0] if wish.speedup else None
    if wish.latency is not None:
        least = whole.original_ms / wish.latency
    inside = [each for each in (whole, *made) if _most_lost(each) <= wish.max_drop]
    good = max(each.speedup.value for each in inside)
    beyond = [each.speedup.value for each in made if _most_lost(each) > wish.max_drop]
    bad = min((speed for speed in beyond if speed > good), default=None)
    if bad is None:
        wanted = min(max(good * _STEP, least or 0.0), fastest)
        return Goal(wanted, limit) if wanted > good * _NEAR else None
    return Goal(math.sqrt(good * bad), limit) if bad > good * _NEAR else None


def front(slowest: float, fastest: float, count: int) -> list[float]:
    """Speedups of a front's models beside the slowest, in equal ratios."""
    end = max(slowest * 1.05, min(_FRONT, FASTEST * fastest))
    return [slowest * (end / slowest) ** (place / count) for place in range(1, count + 1)]
