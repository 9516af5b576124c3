"""Waiting for other processes."""

import contextlib
import time

import psutil


def wait_for_end(process: psutil.Process) -> None:
    """Nobody may collect an orphan, whose name stays then."""
    deadline = time.monotonic() + 300
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it did not end"
            time.sleep(0.02)
