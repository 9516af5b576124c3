"""The service as a process, for benchmarks that call it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_LISTENING = re.compile(r"answers at (http://\S+:\d+)/")


@dataclass
class Service:
    """The running service."""

    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])


@contextmanager
def serving(bundle: Path, *options: str, pin: bool = False) -> Iterator[Service]:
    """`edgeprune serve` with one thread at a free port."""
    command = [sys.executable, "-m", "edgeprune", "serve", bundle, "--port", "0", "--threads", "1"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:
        if pin:
            psutil.Process(process.pid).cpu_affinity([1])
        assert process.stderr is not None
        for line in process.stderr:
            if found := _LISTENING.search(line):
                yield Service(process, found[1])
                return
        raise SystemExit(f"the service ended with {process.wait()}")
    finally:
        process.kill()
        process.wait()
