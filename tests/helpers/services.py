"""Bundles to serve, and the real process over loopback."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LISTENING = re.compile(r"answers at (http://\S+:\d+)/")


@contextmanager
def process(bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`edgeprune serve` at a free port, and its address; it is ended if it still runs."""
    command = [sys.executable, "-m", "edgeprune", "serve", str(bundle), "--port", "0", *options]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stderr is not None
        for line in started.stderr:
            if found := LISTENING.search(line):
                yield started, found[1]
                return
        raise AssertionError(f"the service ended with {started.wait()}")
    finally:
        started.kill()
        started.wait()
        started.stderr.close()
