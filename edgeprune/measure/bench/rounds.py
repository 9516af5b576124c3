"""Turns there and back: how subjects are timed beside each other in one launch.

They are called in turns A B B A, so that a machine that warms up or slows down treats them alike.
How many rounds there are is decided by the first, before any ratio is known.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import median
from edgeprune.measure.works import Work

# ONNX Runtime's threads spin for a while after a call and would take the next subject's core.
_REST_SECONDS = 0.05
_WARM_SECONDS = 0.2
_MAX_CALLS_A_TURN = 1000


@dataclass
class Turn:
    """Seconds of each call of a turn, by the clock and of the processor; the latter are empty where
    a foreign program does not tell them."""

    seconds: list[float]
    processor: list[float]


@dataclass
class Samples:
    """Turns of one subject at one kind of work, [launches][turns]."""

    launches: list[list[Turn]] = field(default_factory=list)

    @property
    def calls(self) -> list[float]:
        """Seconds of every call."""
        return list(chain.from_iterable(turn.seconds for turn in chain(*self.launches)))

    @property
    def turns(self) -> list[list[float]]:
        """The median of each turn, [launches][turns]."""
        return [[median(turn.seconds) for turn in launch] for launch in self.launches]

    @property
    def processor(self) -> list[list[float]] | None:
        """The same of the processor's seconds; None where they are not known."""
        if not all(turn.processor for turn in chain(*self.launches)):
            return None
        return [[median(turn.processor) for turn in launch] for launch in self.launches]


def time_rounds(
    processes: Sequence[Process], kind: Work, settings: BenchSettings, seconds: float, least: int
) -> list[list[Turn]]:
    """As many rounds of turns there and back as fit into some seconds, [subjects][turns].

    Args:
        least: rounds at least.
    """
    calls = [turn_calls(process, kind, settings) for process in processes]
    times: list[list[Turn]] = [[] for _ in processes]
    there = list(range(len(processes)))
    started = time.monotonic()
    for index in there:  # a last turn to warm up, which says how long a round takes
        turn(processes[index], kind, calls[index], settings)
    round_seconds = 2 * (time.monotonic() - started)
    for _ in range(max(least, round(seconds / round_seconds))):
        for index in (*there, *reversed(there)):
            if settings.threads > 1 and len(processes) > 1:
                time.sleep(_REST_SECONDS)
            times[index].append(turn(processes[index], kind, calls[index], settings))
    return times


def turn(process: Process, kind: Work, calls: int, settings: BenchSettings) -> Turn:
    """One turn. The call after a change of turns meets cold caches, and is left out: the worker's
    decoding does so by itself, the rest here."""
    first = 0 if kind == "decode" else 1
    asked = settings.decode_steps if kind == "decode" else calls + 1
    answer = process.ask(kind, **request(kind, asked, settings))
    return Turn(answer["seconds"][first:], answer.get("processor_seconds", [])[first:])


def request(kind: Work, calls: int, settings: BenchSettings) -> dict[str, int]:
    """The request to a worker for `calls` calls of a kind of work; of decoding, for as many
    steps."""
    if kind == "decode":
        return {"batch": settings.batch, "context": settings.tokens, "steps": calls}
    return {"batch": settings.batch, "tokens": settings.tokens, "calls": calls}


def turn_calls(process: Process, kind: Work, settings: BenchSettings) -> int:
    """Call until times are steady; returns how many calls make one turn."""
    started = time.monotonic()
    seconds: list[float] = []
    while len(seconds) < 3 or time.monotonic() - started < _WARM_SECONDS:
        seconds += turn(process, kind, 1, settings).seconds
    return min(_MAX_CALLS_A_TURN, max(1, round(settings.turn_seconds / median(seconds))))
