"""Patience with a process by what it does: the clock says nothing on a busy machine.

A process hangs where it and all that it has started do nothing for a while although nothing is
owed to them, or where they work on and on. One that waits for a core or for the disk does neither.
"""

import contextlib
import time
from collections.abc import Iterator

import psutil

IDLE = 10.0
"""Seconds in which a process that is not waiting for a core or the disk uses less than MOVES."""
MOVES = 0.1
"""CPU seconds."""
LOOKS = 1.0
"""Seconds between two looks, which cost a walk over all processes."""
WORK = 120.0
"""CPU seconds that a command may take: the longest here takes a tenth of that."""
_WAITING = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)


def ended(process: psutil.Popen, idle: float = IDLE, work: float = WORK) -> str | None:
    """Wait for a process; why it had to be killed, None where it ended by itself."""
    patience = Patience(process, idle, work)
    while True:
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.1)
            return None
        if lost := patience.lost():
            process.kill()
            process.wait()
            return lost


class Patience:
    """With one process from now on."""

    def __init__(self, process: psutil.Process, idle: float = IDLE, work: float = WORK) -> None:
        self._process, self._idle, self._work = process, idle, work
        self._begun = self._moved = _cpu_seconds(process)
        self._since = self._looked = time.monotonic()

    def lost(self) -> str | None:
        """Why there is none left; None where there is."""
        now = time.monotonic()
        if now - self._looked < min(LOOKS, self._idle / 3):
            return None
        self._looked, spent = now, _cpu_seconds(self._process)
        if spent - self._begun > self._work:
            return f"no end within {self._work:g} s of work"
        if spent - self._moved > MOVES or any(_is_waiting(each) for each in _tree(self._process)):
            self._moved, self._since = spent, now
        return f"idle for {self._idle:g} s" if now - self._since > self._idle else None


def _tree(process: psutil.Process) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        yield process
        yield from process.children(recursive=True)


def _cpu_seconds(process: psutil.Process) -> float:
    """Of a process, those that it has started, and those of them that have ended."""
    seconds = 0.0
    for each in _tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(each.cpu_times()[:4])
    return seconds


def _is_waiting(process: psutil.Process) -> bool:
    try:
        return process.status() in _WAITING
    except psutil.NoSuchProcess:
        return False
