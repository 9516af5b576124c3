"""Waiting for what other processes do: the only place in the tests that sleeps."""

import contextlib
import time
from collections.abc import Callable

import psutil


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Look again and again. A busy machine is slow: the limit is for what never comes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def wait_for_end(process: psutil.Process) -> None:
    """Nobody may collect an orphan, whose name stays then."""
    with contextlib.suppress(psutil.NoSuchProcess):
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def command_of(process: psutil.Process) -> list[str]:
    """Nothing of a process that is just ending."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def running(module: str, parent: int) -> list[psutil.Process]:
    """The processes of a module that a process has started, or one that it started has."""
    try:
        started = psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in started if module in command_of(process)]
