"""The client of template_worker.py: one worker process for all chats of this process.

It starts at the first chat, in about a tenth of a second, and lives as long as this process; a chat
then takes a fraction of a millisecond. A template that exceeds its limits ends the worker, and the
next chat starts another.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from edgeprune.base.errors import UserError

CPU_SECONDS = 1.0
MEMORY_BYTES = 256 * 1024 * 1024
_MODULE = "edgeprune.text.template_worker"
# Variables that Python may need to start, and the time zone; keys and tokens are withheld.
_ENVIRONMENT = ("DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "TZ")
_CHUNK = 1024 * 1024

Process = subprocess.Popen[bytes]


class TemplateFailure(Exception):
    """A template failed to render; the message completes a sentence about it."""


class TemplateProcess:
    """Renders templates one at a time; any thread may call it."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._limits = cpu_seconds, memory_bytes
        self.lock = threading.Lock()
        self.process: Process | None = None

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Render a template with variables of JSON's types.

        Raises:
            TemplateFailure: it refuses, fails, or exceeds a limit.
            UserError: the process cannot be started.
        """
        request = {"template": template, "variables": variables}
        line = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self.lock:
            try:
                answered = _ask(self._running(), line)
                if not answered:
                    seconds, memory = self._limits
                    raise TemplateFailure(
                        f"was ended: one chat may take {seconds:g} s of a processor's time and "
                        f"{memory >> 20} MB of memory"
                    )
            except BaseException:  # a late answer must not be taken for the next one
                self.end()
                raise
        answer = json.loads(answered)
        if "failure" in answer:
            raise TemplateFailure(answer["failure"])
        return answer["text"]

    def end(self) -> None:
        """Kill the process."""
        process, self.process = self.process, None
        if process is not None:
            with process:
                process.kill()

    def forget(self) -> None:
        """Leave the worker to the parent of this forked process."""
        for pipe in (self.process.stdin, self.process.stdout) if self.process else ():
            if pipe is not None:
                pipe.close()
        self.lock, self.process = threading.Lock(), None

    def _running(self) -> Process:
        if self.process is None or self.process.poll() is not None:
            self.end()
            self.process = self._start()
        return self.process

    def _start(self) -> Process:
        command = [sys.executable, "-P", "-m", _MODULE, *map(str, self._limits)]
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,  # a forked process would write buffered bytes a second time
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, "PYTHONPATH": path},
                # Ctrl-C must reach this process only.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise UserError(
                f"The process that renders chat templates cannot be started: {error.strerror}."
            ) from None
        if not _read(process):
            with process:
                process.kill()
            raise UserError(
                "The process that renders chat templates ended at its start: run "
                f"`python -m {_MODULE} {self._limits[0]} {self._limits[1]}` to see why."
            )
        return process


def _ask(process: Process, line: bytes) -> bytes:
    """The answer to a line; empty if the process ended."""
    assert process.stdin is not None
    left = memoryview(line)
    with contextlib.suppress(OSError):  # it ended before reading everything
        while left:
            left = left[process.stdin.write(left) :]
    return _read(process)


def _read(process: Process) -> bytes:
    """A line from the process; empty if it ended."""
    assert process.stdout is not None
    line = bytearray()
    while more := process.stdout.read(_CHUNK):
        line += more
        if line.endswith(b"\n"):
            return bytes(line)
    return b""


SHARED = TemplateProcess()
"""The renderer of this process; a forked process starts its own."""
atexit.register(SHARED.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED.forget)
