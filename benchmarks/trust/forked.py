"""Commands of edgeprune's, each in a process of its own that is forked from one where everything is
imported already, with bounds on memory and time: hundreds of them a minute."""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from trust.patience import IDLE, WORK, Patience

_LONGEST_PAUSE = 0.1
MEGABYTES = 6144
"""Of addresses: this process has 2 GB of them already, in libraries."""
LISTED = (0, 1, 2)
"""Exit codes that a command may end with here; 70 is a fault of edgeprune's, 130 a Ctrl-C."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Below 0: by this signal."""
    said: str
    """What it wrote on standard output and error."""
    hung: str | None = None
    """Why it was ended; None where it ended by itself."""

    @property
    def fault(self) -> str | None:
        """Why this may not be; None where it may."""
        if self.hung:
            return self.hung
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if self.code not in LISTED:
            return f"ended with {self.code}"
        if "Traceback (most recent call last)" in self.said:
            return "a traceback"
        if self.code == 2 and not any(word in self.said for word in ("edgeprune: ", "Error: ")):
            return "no sentence"
        return None


def forked(command: Callable[[], None], idle: float = IDLE, work: float = WORK) -> Ended:
    """Run a function in a process of its own.

    Args:
        idle: seconds in which it may do nothing.
        work: CPU seconds that it may take.
    """
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            _in_child(command, said.fileno())
        code, hung = _wait(child, idle, work)
        said.seek(0)
        return Ended(code, said.read(1 << 20).decode(errors="replace"), hung)


def edgeprune(arguments: Sequence[str], folder: Path) -> Ended:
    """Run a command of edgeprune's in a folder."""

    def run() -> None:
        from edgeprune.__main__ import main

        os.chdir(folder)
        os.environ["EDGEPRUNE_TRACEBACK"] = "1"
        sys.argv = ["edgeprune", *arguments]
        main()

    return forked(run)


def _in_child(command: Callable[[], None], said: int) -> None:
    code = 1
    try:
        os.setsid()  # what it starts ends with it
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, opened in ((0, nothing), (1, said), (2, said)):
            os.dup2(opened, number)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8", closefd=False)
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, idle: float, work: float) -> tuple[int, str | None]:
    """The exit code of a child, and why it had to be ended; so is what it has started."""
    patience, hung, pause = Patience(psutil.Process(child), idle, work), None, 0.002
    while True:
        found, status = os.waitpid(child, 0 if hung else os.WNOHANG)
        if found:
            break
        if pause == _LONGEST_PAUSE and (hung := patience.lost()):
            os.kill(child, signal.SIGKILL)
        else:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), hung
