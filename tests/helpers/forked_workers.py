"""Processes that run an ONNX file, forked from one that has imported what they need.

To start such a process takes half a second of a core, of which a tiny model's own loading is next
to nothing, and every build starts two. They also stay on no core, which tests that run beside these
would have to share. Tests of the benchmark itself, and those of times, start theirs as a user does.
"""

import functools
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import IO, Any

import pytest

from edgeprune.measure.bench import launches, process, worker
from edgeprune.measure.bench.subject import own_command

COMMAND = own_command(worker.__name__)


def fork_workers(patch: pytest.MonkeyPatch) -> None:
    """From now on, on Linux: elsewhere libraries may not be forked."""
    if sys.platform == "linux":
        patch.setattr(
            process, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": _start})
        )
        patch.setattr(launches, "choose_cores", lambda *_: None)


def start_workers(patch: pytest.MonkeyPatch) -> None:
    """As a user does."""
    patch.setattr(process, "subprocess", subprocess)
    patch.setattr(launches, "choose_cores", process.choose_cores)


@functools.cache
def _context() -> BaseContext:
    """Whose server has imported this module: it looks for it where PYTHONPATH says alone."""
    from multiprocessing import forkserver  # which Windows has not

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


def _start(command: Sequence[str], **options: Any) -> Any:
    if tuple(command) == COMMAND:
        return _Forked(options["stderr"], options["env"])
    return subprocess.Popen(command, **options)


class _Forked:
    """What `process.Conversation` needs of a subprocess.Popen."""

    def __init__(self, errors: IO[bytes], environment: Mapping[str, str]) -> None:
        context = _context()
        (asked, stdin), (stdout, answers) = os.pipe(), os.pipe()
        pipes = (
            Connection(asked, writable=False),
            Connection(answers, readable=False),
            Connection(os.dup(errors.fileno()), readable=False),
        )
        given = (*pipes, dict(environment), os.getcwd())
        self._process = context.Process(target=_run, args=given, daemon=True)
        self._process.start()
        for pipe in pipes:
            pipe.close()
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(COMMAND, timeout)
        return self._process.exitcode

    def communicate(self, said: bytes, timeout: float) -> None:
        with self.stdin:
            self.stdin.write(said)
        self.wait(timeout)


def _run(
    asked: Connection,
    answers: Connection,
    errors: Connection,
    environment: Mapping[str, str],
    folder: str,
) -> None:
    """In the forked process: be as one that was started with these pipes, there."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for place, pipe in enumerate((asked, answers, errors)):
        os.dup2(pipe.fileno(), place)
        pipe.close()
    sys.stdin, sys.stdout, sys.stderr = (
        open(place, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for place, mode in enumerate("rww")
    )
    worker.main()
