"""The asking side of the protocol: one process for one subject."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.protocol import VERSION, Message
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import Subject

# Since 1.31 ONNX Runtime keeps a database of telemetry and threads that send it, unless told not
# to: work on the timed cores that is none of the model's.
_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1"}
_GRACE_SECONDS = 5.0
# Until a program that says nothing is given up: hello loads nothing, and the longest of the rest
# loads a large model on a small device.
_HELLO_SECONDS, _ANSWER_SECONDS = 300.0, 3600.0
_MAX_SAID = 300


class Conversation:
    """A process that speaks the protocol. A context: leaving it ends the process."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it and greet it; `hello` is its answer.

        Args:
            environment: variables to add to this process's own.

        Raises:
            UserError: it cannot be started, or does not speak this version of the protocol.
        """
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **_ENVIRONMENT, **(environment or {})},
                # Ctrl-C reaches the asking process alone, which then ends this one.
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise UserError(f"{name} cannot be started: {error.strerror}.") from None
        try:
            self.hello = self.ask("hello")
            if self.hello.get("protocol") != VERSION:
                raise UserError(
                    f"{name} speaks version {self.hello.get('protocol')} of the benchmark's "
                    f"protocol and this edgeprune version {VERSION}: see "
                    "edgeprune.measure.bench.protocol."
                )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str, **request: Any) -> Message:
        """Send a command and wait for its answer.

        Raises:
            UserError: the process failed, died, answered something else, or nothing for long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # One that has ended may have left a word.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": command, **request}).encode() + b"\n")
            self._process.stdin.flush()
        seconds = _HELLO_SECONDS if command == "hello" else _ANSWER_SECONDS
        with self._at_most(seconds) as late:
            line = self._process.stdout.readline()
            death = "" if line else self._death()
        if late.is_set():
            raise UserError(
                f"{self.name} did not answer {command} within {seconds:g} seconds and was ended: "
                "see edgeprune.measure.bench.protocol for what it must answer."
            )
        if death:
            raise UserError(death)
        try:
            answer = dict(json.loads(line))
        except (ValueError, TypeError):
            said = line.decode(errors="replace").strip()[:_MAX_SAID]
            raise UserError(
                f"{self.name} does not speak the protocol of edgeprune.measure.bench.protocol: "
                f"asked to {command}, it said {said!r}."
            ) from None
        if "error" in answer:
            raise UserError(f"{self.name} cannot be benchmarked: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process, gently and then not."""
        try:
            if self._process.poll() is None:
                try:
                    self._process.communicate(b'{"do": "exit"}\n', timeout=_GRACE_SECONDS)
                except (BrokenPipeError, subprocess.TimeoutExpired):
                    self._kill()
        finally:
            if self._process.poll() is None:
                self._kill()
            for pipe in (self._process.stdin, self._process.stdout, self._errors):
                # Closing writes what a dead process did not take.
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:  # nobody waits for a call that is under way
            self._kill()
        self.close()

    @contextlib.contextmanager
    def _at_most(self, seconds: float) -> Iterator[threading.Event]:
        """End the process once this context has lasted `seconds`; the event says whether it did."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _kill(self) -> None:
        """End it at once, and what it started: a command may run the model as its own child."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()

    def _death(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        why = f"signal {-status}" if status < 0 else f"exit code {status}"
        if status == -9:
            why += ", perhaps for want of memory"
        return (
            f"The process that ran {self.name} ended with {why}{': ' + said[-1] if said else ''}."
        )


class Process(Conversation):
    """A process with a subject loaded."""

    def __init__(
        self,
        subject: Subject,
        settings: BenchSettings,
        cores: list[int] | None,
        profile: bool = False,
        under: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and load the model; `load_seconds` says how long loading took.

        Args:
            cores: processor cores to stay on; None for all.
            profile: let the runtime note the time of each operator, which slows it.
            under: a command that runs the process as its own child.
            environment: variables to add to this process's own.

        Raises:
            UserError: the model cannot be loaded.
        """
        super().__init__(subject.name, [*under, *subject.command], environment)
        try:
            self.load_seconds = self.ask(
                "load",
                threads=settings.threads,
                cores=cores,
                seed=settings.seed,
                profile=profile,
                **subject.load,
            )["seconds"][0]
        except BaseException:
            self.close()
            raise


def choose_cores(threads: int, launch: int = 0) -> list[int] | None:
    """The cores that all subjects of a launch share: as many as there are threads. None where
    pinning is impossible or would take all.

    Launches go over the cores that this process may use, two on the same, beginning with the last:
    systems put their own work on the first.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if threads >= len(allowed):
        return None
    last = len(allowed) - threads * (launch // 2 % (len(allowed) // threads))
    return allowed[last - threads : last]
