"""Ctrl-C: every command that works for long ends at once, without processes or half files."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psutil
import pytest
from click.testing import CliRunner
from onnx_models import WORDS, encoder_folder
from processes import running, until
from tiny_builds import model_folder, recipe_file, text_file

from edgeprune.base.errors import UserError
from edgeprune.base.interrupt import leave, listen, pressed
from edgeprune.cli import Commands, main
from edgeprune.runtime.bundle import Bundle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")

Ready = Callable[[psutil.Process], bool]


def workers(count: int) -> Ready:
    return lambda process: len(running("edgeprune.measure.bench.worker", process.pid)) >= count


def has_onnxruntime(process: psutil.Process) -> bool:
    return any("onnxruntime" in mapped.path for mapped in process.memory_maps())


def recovers_in(folder: Path) -> Ready:
    return lambda process: any(folder.glob("stages/.recover-*"))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    encoder_folder(tmp_path / "m", depth=8, width=256)
    (tmp_path / "long.txt").write_text("\n".join([" ".join(WORDS * 4)] * 200_000))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def commands(scene: Path) -> dict[str, tuple[list[object], Ready]]:
    """What to run, and when to interrupt it."""
    model, out = scene / "m", scene / "out"
    both = [model, "--against", model, "--tokens", 16, "--json", out / "r.json"]
    cosine = ["--task", "cosine", "--data", scene / "long.txt"]
    return {
        "bench": (["bench", *both], workers(2)),
        "check": (["check", *both, "--save", out / "s.json"], workers(2)),
        "check quality": (["check", *both, *cosine], has_onnxruntime),
        "evaluate": (["evaluate", *both[:3], *cosine, *both[-2:]], has_onnxruntime),
    }


@pytest.mark.parametrize("name", ["bench", "check", "check quality", "evaluate"])
def test_ctrl_c_leaves_nothing(name: str, scene: Path) -> None:
    command, ready = commands(scene)[name]
    interrupt(command, ready, scene)
    assert list((scene / "out").iterdir()) == []


def test_a_build_leaves_no_half_stage_and_goes_on_after_the_last_whole_one(scene: Path) -> None:
    out = scene / "out" / "build"
    build = ["build", recipe_file(scene / "tiny.yaml"), "--model", model_folder(scene / "bert")]
    build += ["--data", text_file(scene / "text.txt"), "--output", out]
    interrupt([*build, "--set", "recover.steps=1000000"], recovers_in(out), scene)
    assert not (out / "bundle").exists()
    whole = {file.parent for file in out.glob("stages/*/stage.json") if file.stat().st_size}
    names = sorted(folder.name.split("-")[0] for folder in whole)
    assert names == ["cut", "load", "original", "prune"]
    assert whole == set((out / "stages").iterdir())
    again = CliRunner().invoke(main, list(map(str, build)))
    assert again.exit_code == 0, again.stderr
    assert again.stderr.count("kept from an earlier build") == len(names)
    Bundle.open(out / "bundle").verify()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """In this process, as in one of the command line."""
    before = signal.getsignal(signal.SIGINT)
    listen()
    try:
        yield
    finally:
        leave()
        signal.signal(signal.SIGINT, before)
        pressed.clear()


def test_ctrl_c_that_a_library_swallows_comes_again() -> None:
    with listening():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            until(lambda: False)


def test_ctrl_c_does_not_come_again_into_what_an_error_ends_with() -> None:
    with listening():
        tidied = False
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            for _ in range(3):
                signal.raise_signal(signal.SIGALRM)
            tidied = True
    assert tidied


def test_ctrl_c_that_a_library_turns_into_its_own_error_still_stops() -> None:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    @click.option("--pressed", is_flag=True)
    def load(pressed: bool) -> None:
        try:
            if pressed:
                signal.raise_signal(signal.SIGINT)
        except BaseException:  # as a library does that looks for another way to load
            pass
        raise UserError("Building needs the package version.")

    mistaken = CliRunner().invoke(group, ["load"])
    assert (mistaken.exit_code, "package version" in mistaken.stderr) == (2, True)
    with listening():
        stopped = CliRunner().invoke(group, ["load", "--pressed"])
    assert (stopped.exit_code, stopped.stderr) == (130, "edgeprune: Stopped.\n")


def interrupt(command: list[object], ready: Ready, scene: Path) -> None:
    """Start a command, interrupt it when it is ready; it and all its processes must end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scene / "temporary")},
    )
    watched = psutil.Process(process.pid)
    until(lambda: process.poll() is not None or ready(watched))
    assert process.returncode is None, process.communicate()
    descendants = watched.children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == "edgeprune: Stopped."
    _, alive = psutil.wait_procs(descendants, timeout=5)
    assert not alive
    # ONNX Runtime's own, which it writes when it is imported.
    assert {path.name for path in (scene / "temporary").iterdir()} <= {".ses"}
