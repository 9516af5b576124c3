"""Whether the machine was quiet while something was timed on it.

Two signs, each a share with a limit of 5 %, the smallest difference that people act on (and what
`edgeprune check` allows by default):

- turn spread: the distance between the quartiles of one subject's turn medians, over their
  median; the largest of all subjects and kinds of work. A turn's median has shaken off single
  hiccups already, so what is left is a machine whose speed changes for whole turns.
- others' share: the time of the cores in use that went to other programs, or that the hypervisor
  kept for its other guests ("steal"), while the rounds ran.

Ratios are paired within a round and state their own interval, which noise widens; it is the plain
milliseconds that another run may not repeat.
"""

import os
import time
from collections.abc import Iterable, Sequence

import numpy as np
import psutil

from edgeprune.base.cores import allowed_cpus
from edgeprune.measure.bench.record import Noise
from edgeprune.measure.bench.rounds import Samples

LIMIT = 0.05
LOUD = 0.10
"""The turn spread from which the processor's time is told beside the clock's."""
# Of psutil's times, what is not idleness; "guest" is a part of "user" already.
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")


class CoreWatch:
    """Counts what others take of some cores, from its making on."""

    def __init__(self, cores: Sequence[int] | None, pids: Iterable[int]) -> None:
        """`cores` are those in use, None for all that this process may use; `pids` the processes
        that are timed."""
        self._cores = list(cores) if cores else allowed_cpus()
        # The asking process works only while the others wait for it: that is not a disturbance.
        self._timed = [psutil.Process(pid) for pid in (*pids, os.getpid())]
        self._before = self._read()

    def others_share(self) -> float | None:
        """The share of the cores' time since then that others took; None where unknown."""
        now = self._read()
        if now is None or self._before is None:
            return None
        passed, busy, timed = (b - a for a, b in zip(self._before, now, strict=True))
        return min(1.0, max(0.0, (busy - timed) / (passed * len(self._cores))))

    def _read(self) -> tuple[float, float, float] | None:
        """(clock, the cores' busy seconds, our own processes' seconds)."""
        all_cores = psutil.cpu_times(percpu=True)
        if max(self._cores) >= len(all_cores):  # a core is offline, so that numbers shift
            return None
        busy = sum(getattr(all_cores[core], kind, 0.0) for core in self._cores for kind in _BUSY)
        try:
            times = [process.cpu_times() for process in self._timed]
        except psutil.Error:
            return None
        return time.monotonic(), busy, sum(spent.user + spent.system for spent in times)


def turn_spread(times: Iterable[Samples]) -> float:
    """The widest distance between quartiles of a subject's turns, as a share of their median."""
    turns = [np.concatenate(found.turns) for found in times]
    return max(
        float(np.subtract(*np.percentile(each, [75, 25])) / np.median(each)) for each in turns
    )


def judge(spread: float, others: float | None) -> Noise:
    """Both signs, whether either is beyond its limit, and a sentence for each that is."""
    why = []
    if spread > LIMIT:
        why.append(f"turns differed by {spread:.0%} between quartiles")
    if others is not None and others > LIMIT:
        why.append(f"other programs took {others:.0%} of the cores' time")
    return Noise(
        turn_spread=spread, others_share=others, limit=LIMIT, noisy=bool(why), why=tuple(why)
    )
