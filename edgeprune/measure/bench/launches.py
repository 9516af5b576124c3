"""Launches: subjects started anew, several times, and timed beside each other each time.

What a process draws when it starts stays with it: where its memory lies, its core, whether it or
the other came first. So a comparison takes several launches, each with new processes; every other
one has their order turned round, and every two go to other cores. An interval over launches holds
for the minutes in which they ran; spaced over an hour, it holds for what that hour brought.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from edgeprune.base.progress import track
from edgeprune.measure.bench.noise import CoreWatch
from edgeprune.measure.bench.process import Process, choose_cores
from edgeprune.measure.bench.rounds import Samples, Turn, time_rounds
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import median
from edgeprune.measure.bench.subject import Subject
from edgeprune.measure.works import Work

PointSamples = dict[Work, list[Samples]]
"""One point of a sweep: the samples of each subject, by kind of work."""


@dataclass(frozen=True)
class Launched:
    """All launches of some subjects."""

    points: list[PointSamples]
    """In the order of the settings."""
    load_seconds: list[float]
    """Of each subject, the median over launches."""
    runtimes: list[str]
    """The runtime of each subject."""
    cores: list[int] | None
    """All cores that were used; None where processes stayed on none."""
    others: float | None
    """The share of the cores' time that other programs took; None where unknown."""
    seconds: float
    """From the first launch's start to the last one's end."""


def time_launches(subjects: Sequence[Subject], points: Sequence[BenchSettings]) -> Launched:
    """Time subjects at several settings, which share threads, launches and their spacing.

    Raises:
        UserError: a subject cannot be started, loaded or run.
    """
    first, kinds = points[0], subjects[0].kinds
    found: list[PointSamples] = [
        {kind: [Samples() for _ in subjects] for kind in kinds} for _ in points
    ]
    loads: list[list[float]] = [[] for _ in subjects]
    runtimes = [""] * len(subjects)
    used: set[int] = set()
    others: list[float] = []
    started = time.monotonic()
    for launch in track(range(first.launches), "timing, a launch each", first.launches):
        due = started + first.spread * launch / max(1, first.launches - 1)
        time.sleep(max(0.0, due - time.monotonic()))
        cores = choose_cores(first.threads, launch)
        used |= set(cores or ())
        order = range(len(subjects)) if launch % 2 == 0 else reversed(range(len(subjects)))
        with ExitStack() as stack:
            processes = {
                place: stack.enter_context(Process(subjects[place], first, cores))
                for place in order
            }
            for place, process in processes.items():
                loads[place].append(process.load_seconds)
                runtimes[place] = str(process.hello["runtime"])
            watch = CoreWatch(cores, [process.pid for process in processes.values()])
            for samples, settings in zip(found, points, strict=True):
                for kind, turns in _timed(list(processes.values()), kinds, settings).items():
                    for place, each in zip(processes, turns, strict=True):
                        samples[kind][place].launches.append(each)
            share = watch.others_share()
            others += [] if share is None else [share]
    return Launched(
        points=found,
        load_seconds=[median(seconds) for seconds in loads],
        runtimes=runtimes,
        cores=sorted(used) or None,
        others=median(others) if others else None,
        seconds=time.monotonic() - started,
    )


def _timed(
    processes: Sequence[Process], kinds: Sequence[Work], settings: BenchSettings
) -> dict[Work, list[list[Turn]]]:
    """One launch: each kind of work in its share of the time, [subjects][turns]."""
    seconds = settings.time_limit / len(kinds) / settings.launches
    least = -(-settings.min_rounds // settings.launches)
    return {kind: time_rounds(processes, kind, settings, seconds, least) for kind in kinds}
