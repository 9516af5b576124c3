"""Run a benchmark on another machine by ssh: copy the models there, run, bring the JSON back.

The device needs edgeprune, tar and a POSIX shell; this side needs the
system's ssh, whose configuration, keys and questions stay its own. Everything there lies in one
temporary folder, which is removed at the end, also after Ctrl-C.
"""

import contextlib
import json
import secrets
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.export.opened import open_model
from edgeprune.measure.bench.beside import FIRST, Beside, Where
from edgeprune.measure.bench.graph_file import of_graph_file
from edgeprune.measure.bench.record import Speed, Sweep, read_speed
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.works import Work

_SSH_FAILED, _NO_SUCH_COMMAND = 255, 127
_SIDES = ("candidate", "baseline")
_OTHER_ANSWER = "{} answered something else than a result."
_REMEDY = "install the same edgeprune there as here"


def bench_remotely(
    destination: str,
    candidate: str,
    baseline: str | None,
    options: Mapping[str, Any],
    python: str = "python3",
) -> Speed | Sweep:
    """`edgeprune bench` on another machine.

    Args:
        destination: ssh's: user@host, a name of its configuration, or ssh://user@host:port.
        candidate, baseline: folders or ONNX files; a Hugging Face folder is exported here.
        options: of `edgeprune bench`, by name; those that are None stay its defaults.
        python: the Python there that has edgeprune.

    Returns:
        What it measured there, with the destination, and the names used here.

    Raises:
        UserError: the host cannot be reached, has no edgeprune, or the benchmark fails there.
    """
    targets = [target for target in (candidate, baseline) if target is not None]
    with ExitStack() as stack:
        models = [stack.enter_context(_model_files(target)) for target in targets]
        host = stack.enter_context(Host(destination))
        _require_edgeprune(host, python)
        folder = stack.enter_context(_folder_on(host))
        there = []
        for side, (files, inside) in zip(_SIDES, models, strict=False):
            say(f"Copying the {side} to {destination} ...")
            host.send(files, f"{folder}/{side}")
            there.append(f"{side}/{inside}")
        command = [python, "-P", "-m", "edgeprune", "bench", there[0], "--json", "-"]
        command += ["--against", there[1]] if baseline else []
        result = _run_in(host, folder, [*command, *_as_options(options)])
    points = [_named_here(point, destination, targets) for point in _points(result, destination)]
    return Sweep(sweep=tuple(points)) if "sweep" in result else points[0]


class Timer:
    """Another machine that times graphs beside each other. A context: leaving it ends the
    connection."""

    def __init__(self, destination: str, python: str = "python3") -> None:
        """Connect; ssh may ask for a password.

        Raises:
            UserError: the host cannot be reached, or has no edgeprune.
        """
        self._python = python
        self._host = Host(destination)
        try:
            _require_edgeprune(self._host, python)
        except BaseException:
            self._host.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._host.close()

    def where(self, threads: int) -> Where:
        """That machine.

        Raises:
            UserError: it answers something else.
        """
        with _folder_on(self._host) as folder:
            answer = _run_in(self._host, folder, [*self._program, "facts", str(threads)])
        return Where.from_json(answer, self._answered, _REMEDY)

    def time_beside(
        self, files: Sequence[Path], settings: BenchSettings, work: Work | None
    ) -> Beside:
        """As beside.time_beside, there; the graphs are copied with their configurations.

        Raises:
            UserError: they do not arrive, or it fails there.
        """
        with _folder_on(self._host) as folder:
            say(f"Copying {len(files)} graphs to {self._host.destination} ...")
            there = []
            for place, file in enumerate(files):
                parts = _graph_files(file)
                self._host.send(parts, f"{folder}/{place}")
                there.append(f"{place}/{file.name}")
            asked = ["time", work or FIRST, settings.model_dump_json(), *there]
            answer = _run_in(self._host, folder, [*self._program, *asked])
        return Beside.from_json(answer, self._answered, _REMEDY)

    @property
    def _program(self) -> list[str]:
        return [self._python, "-P", "-m", "edgeprune.measure.bench.beside"]

    @property
    def _answered(self) -> Path:
        return Path(f"{self._host.destination}'s answer")


def _points(result: dict[str, Any], destination: str) -> list[Speed]:
    """Every result that came back."""
    points = result.get("sweep", [result])
    if not isinstance(points, list):
        raise UserError(_OTHER_ANSWER.format(destination))
    return [read_speed(point, Path(f"{destination}'s answer"), _REMEDY) for point in points]


def _named_here(point: Speed, destination: str, targets: Sequence[str]) -> Speed:
    """A result with the destination, and its models by the names that they have here."""
    sides = {
        side: getattr(point, side).model_copy(update={"name": target})
        for side, target in zip(_SIDES, targets, strict=False)
    }
    return point.model_copy(update={**sides, "remote": destination})


class Host:
    """A machine that ssh reaches. A context: leaving it ends the connection."""

    def __init__(self, destination: str) -> None:
        """Connect; ssh may ask for a password.

        Raises:
            UserError: ssh is not installed, or does not get there.
        """
        if shutil.which("ssh") is None:
            raise UserError("--remote needs ssh, which is not installed here.")
        if not destination or destination.startswith("-"):
            raise UserError(f"--remote {destination!r} is not a host: write user@host.")
        self.destination = destination
        self._sockets = tempfile.TemporaryDirectory(prefix="edgeprune-")
        # One connection for all commands, so that a password is asked for once.
        self._options = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
        self._options += ["-o", f"ControlPath={self._sockets.name}/%C"]
        try:
            # In this terminal's foreground, where ssh can ask.
            status = subprocess.run(self._line("true"), stdin=subprocess.DEVNULL, check=False)
            if status.returncode:
                raise UserError(f"ssh does not reach {destination}; try `ssh {destination} true`.")
        except BaseException:
            self.close()
            raise

    def start(self, command: str, **pipes: Any) -> "subprocess.Popen[bytes]":
        """Start a shell command there."""
        # Ctrl-C reaches the asking process alone, which then cleans up over there.
        return subprocess.Popen(self._line(command), start_new_session=True, **pipes)

    def run(self, command: str, shown: bool = False) -> tuple[int, bytes, str]:
        """Run a shell command there to its end.

        Args:
            shown: let what it writes to standard error through to ours.

        Returns:
            Exit code, standard output, and the last line on standard error.

        Raises:
            UserError: the connection is lost.
        """
        process = self.start(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
        )
        return self._end(process)

    def send(self, files: Sequence[tuple[Path, str]], folder: str) -> None:
        """Copy files and folders, each under a name, into a folder there; links as their targets.

        Raises:
            UserError: they do not arrive whole.
        """
        place = shlex.quote(folder)
        process = self.start(
            f"mkdir -p {place} && tar -xf - -C {place}",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        try:
            with (
                contextlib.suppress(BrokenPipeError),  # what it died of is read below
                tarfile.open(fileobj=process.stdin, mode="w|", dereference=True) as archive,
            ):
                for file, name in files:
                    archive.add(file, name)
        except BaseException:
            process.kill()
            process.wait()
            raise
        code, _, said = self._end(process)
        if code:
            raise UserError(f"Copying to {self.destination} failed: {said}.")

    def close(self) -> None:
        """End the connection."""
        end = ["ssh", *self._options, "-O", "exit", "--", self.destination]
        subprocess.run(end, capture_output=True, check=False, start_new_session=True)
        self._sockets.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _line(self, command: str) -> list[str]:
        return ["ssh", *self._options, "--", self.destination, command]

    def _end(self, process: "subprocess.Popen[bytes]") -> tuple[int, bytes, str]:
        try:
            with contextlib.suppress(BrokenPipeError):
                out, errors = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        said = (errors or b"").decode(errors="replace").strip().splitlines() or [""]
        if process.returncode == _SSH_FAILED:
            raise UserError(f"The connection to {self.destination} failed: {said[-1]}.")
        return process.returncode, out or b"", said[-1]


@contextlib.contextmanager
def _model_files(target: str) -> Iterator[tuple[list[tuple[Path, str]], str]]:
    """The files to copy of a model, each under a name, and the name that bench is told."""
    if target.startswith(("torch:", "command:")):
        raise UserError(f"--remote copies models, and {target} is a program of this machine.")
    path = Path(target)
    if path.suffix == ".onnx":
        yield _graph_files(path), path.name
    else:
        with open_model(target) as bundle:
            yield [(bundle.folder, ".")], ""


def _graph_files(path: Path) -> list[tuple[Path, str]]:
    """A graph, its data and the configuration beside it, each with its name."""
    files = [(file, str(file.relative_to(path.parent))) for file in of_graph_file(path).files]
    config = path.parent / "config.json"
    return files + ([(config, config.name)] if config.is_file() else [])


def _require_edgeprune(host: Host, python: str) -> None:
    code, _, said = host.run(
        f"{shlex.quote(python)} -P -c 'import edgeprune.measure.bench.compare'"
    )
    if code == _NO_SUCH_COMMAND:
        raise UserError(f"{host.destination} has no {python}: name its Python by --remote-python.")
    if code:
        raise UserError(
            f"{host.destination} has no working edgeprune for {python} ({said}): install it there "
            "(deploy/raspberry-pi/install.sh does), or name the Python that has it by "
            "--remote-python."
        )


@contextlib.contextmanager
def _folder_on(host: Host) -> Iterator[str]:
    """A temporary folder there. At the end a benchmark that still runs in it is stopped."""
    # Named here, so that it can be removed whatever the making was interrupted by.
    folder = f"/tmp/edgeprune-{secrets.token_hex(8)}"
    try:
        code, _, said = host.run(f"mkdir -m 700 {folder}")
        if code:
            raise UserError(f"{host.destination} made no folder {folder}: {said}.")
        yield folder
    finally:
        host.run(
            f"if read pid < {folder}/pid; then kill -INT $pid; for i in 1 2 3 4 5 6 7 8 9 10; do "
            f"kill -0 $pid || break; sleep 1; done; kill -KILL $pid; fi 2>/dev/null; "
            f"rm -rf {folder}"
        )


def _run_in(host: Host, folder: str, command: Sequence[str]) -> dict[str, Any]:
    """The JSON that a command prints, run in a folder there; its progress is shown here."""
    # The shell that writes down its number becomes the command; the file goes when it has ended.
    inner = f"echo $$ > pid; exec {shlex.join(command)}"
    code, out, _ = host.run(
        f"cd {folder} && {{ sh -c {shlex.quote(inner)}; code=$?; rm -f pid; exit $code; }}",
        shown=True,
    )
    if code:
        raise UserError(f"The benchmark failed on {host.destination}, for the reason above.")
    try:
        return dict(json.loads(out))
    except ValueError:
        raise UserError(_OTHER_ANSWER.format(host.destination)) from None


def _as_options(options: Mapping[str, Any]) -> list[str]:
    """Command-line options: True is --name, False is --no-name, several values get commas."""
    words: list[str] = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, tuple):
            words += [f"--{option}", ",".join(map(str, value))]
        elif value is not None:
            words += [f"--{option}", str(value)]
    return words
