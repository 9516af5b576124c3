"""Turns there and back: how subjects are timed beside each other.

They are called in turns A B B A, so that a machine that warms up or slows down treats them alike;
a ratio is the median over pairs of neighbouring turns.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeprune.base.progress import track
from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.record import Ratio
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import median, paired_ratio
from edgeprune.measure.works import Work

# ONNX Runtime's threads spin for a while after a call and would take the next subject's core.
_REST_SECONDS = 0.05
_WARM_SECONDS = 0.5
_MAX_CALLS_A_TURN = 1000


@dataclass
class Samples:
    """Seconds of one subject at one kind of work."""

    calls: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)  # the median of each turn


def time_rounds(
    processes: Sequence[Process], kind: Work, settings: BenchSettings, time_limit: float
) -> list[Samples]:
    """Rounds of turns there and back until the ratio is known well enough or time is up."""
    calls = [_warm(process, kind, settings) for process in processes]
    times = [Samples() for _ in processes]
    there = list(range(len(processes)))
    started = time.monotonic()
    for index in there:  # a last turn to warm up, which says how long a round takes
        turn(processes[index], kind, calls[index], settings)
    round_seconds = 2 * (time.monotonic() - started)
    at_most = max(settings.min_rounds, round(time_limit / round_seconds))
    started = time.monotonic()
    for done in track(range(1, at_most + 1), f"timing {kind}", at_most):
        for index in (*there, *reversed(there)):
            if settings.threads > 1 and len(processes) > 1:
                time.sleep(_REST_SECONDS)
            seconds = turn(processes[index], kind, calls[index], settings)
            times[index].calls += seconds
            times[index].turns.append(median(seconds))
        if done < settings.min_rounds:
            continue
        if _settled(times, settings) or time.monotonic() - started > time_limit:
            break
    return times


def turn(process: Process, kind: Work, calls: int, settings: BenchSettings) -> list[float]:
    """Seconds of each call of one turn. The call after a change of turns meets cold caches, and
    is left out: the worker's decoding does so by itself, the rest here."""
    if kind == "decode":
        return process.ask(kind, **request(kind, settings.decode_steps, settings))["seconds"]
    return process.ask(kind, **request(kind, calls + 1, settings))["seconds"][1:]


def request(kind: Work, calls: int, settings: BenchSettings) -> dict[str, int]:
    """The request to a worker for `calls` calls of a kind of work; of decoding, for as many
    steps."""
    if kind == "decode":
        return {"batch": settings.batch, "context": settings.tokens, "steps": calls}
    return {"batch": settings.batch, "tokens": settings.tokens, "calls": calls}


def ratio_of(times: Sequence[Samples], baseline: int | None, settings: BenchSettings) -> Ratio:
    """The speedup of the first over the baseline; alone, its times over their median."""
    candidate = times[0].turns
    alone = [median(candidate)] * len(candidate)
    reference = alone if baseline is None else times[baseline].turns
    return paired_ratio(reference, candidate, settings.seed)


def _warm(process: Process, kind: Work, settings: BenchSettings) -> int:
    """Call until times are steady; returns how many calls make one turn."""
    started = time.monotonic()
    seconds: list[float] = []
    while len(seconds) < 3 or time.monotonic() - started < _WARM_SECONDS:
        seconds += turn(process, kind, 1, settings)
    return min(_MAX_CALLS_A_TURN, max(1, round(settings.turn_seconds / median(seconds))))


def _settled(times: Sequence[Samples], settings: BenchSettings) -> bool:
    """Whether the ratio (alone: the median) is known to within the width asked for."""
    return ratio_of(times, faster(times), settings).width < settings.width


def faster(times: Sequence[Samples]) -> int | None:
    """The place of the baseline's faster variant; None for a model measured alone."""
    return min(range(1, len(times)), key=lambda i: median(times[i].calls), default=None)
