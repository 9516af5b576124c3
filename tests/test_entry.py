"""The command line's entry: Ctrl-C at any moment, faults of ours, terminals of few characters."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import pytest
from onnx_models import encoder_folder
from tiny_builds import model_folder, recipe_file, text_file

from edgeprune.base import disk, interrupt
from edgeprune.base.disk import disk_is_full

# A library's own error that is no Exception, as those of Rust's panics are.
PLANT = """
import sys
class Panic(BaseException): pass
from edgeprune.measure.inspect import system
def fail(): raise {error}
system.describe_system = fail
from edgeprune.__main__ import main
sys.argv = ["edgeprune", "inspect", "--system"]
main()
"""


def ended(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | environment,
        check=False,
    )


# faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["ZeroDivisionError('by\\n zero')", "Panic('by zero')"])
def test_a_fault_of_ours_has_its_own_code_and_keeps_its_traceback(error, tmp_path):
    done = ended(["-c", PLANT.format(error=error)], TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (70, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgeprune: this is a fault of edgeprune's, and none of yours: ")
    assert "by zero" in line
    (file,) = tmp_path.glob("edgeprune-fault-*")
    assert str(file) in line
    assert "in fail" in file.read_text()


def test_a_fault_can_show_its_traceback(tmp_path):
    code = PLANT.format(error="ZeroDivisionError")
    done = ended(["-c", code], TMPDIR=str(tmp_path), EDGEPRUNE_TRACEBACK="1")
    assert done.returncode == 70
    assert "in fail" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("ZeroDivisionError (see above).")
    assert not list(tmp_path.glob("edgeprune-*"))


def test_too_little_memory_is_no_fault(tmp_path):
    done = ended(["-c", PLANT.format(error="MemoryError")], TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        "edgeprune: There is not enough memory for this.\n",
    )


def test_a_closed_pipe_is_quiet(tmp_path):
    model = encoder_folder(tmp_path / "m")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune", "run", str(model), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b"the cat\n" * 100)
    process.stdin.close()
    assert process.wait(60) == 1
    said = process.stderr.read()
    assert b"Error" not in said
    assert b"edgeprune:" not in said
    process.stderr.close()


# terminals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_terminal_cannot_show_is_written_as_json_escapes_it(encoding, tmp_path):
    model = encoder_folder(tmp_path / "m")
    command = ["-m", "edgeprune", "run", str(model), "the cat 😀 猫", "--json"]
    done = ended(command, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "the cat 😀 猫"


@pytest.mark.parametrize("command", [["recipes"], ["inspect", "--system"], ["build", "--help"]])
def test_tables_on_a_terminal_of_few_characters(command):
    for encoding in ("ascii", "latin-1"):
        done = ended(["-m", "edgeprune", *command], PYTHONIOENCODING=encoding, LC_ALL="C")
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_name_that_is_not_utf8_is_one_sentence(tmp_path):
    place = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(place)
    model, text = model_folder(tmp_path / "model"), text_file(tmp_path / "text.txt")
    build = ["build", recipe_file(tmp_path / "r.yaml"), "--model", model, "--data", text]
    for command in (
        ["inspect", place],
        ["bench", place + b"/model.onnx"],
        ["run", place, "text"],
        ["evaluate", place, "--task", "cosine", "--data", text],
        ["report", place],
        [*build, "--output", place],
        [*build[:-2], "--data", place, "--output", tmp_path / "out"],
    ):
        given = [os.fsencode(part) for part in command]
        done = ended(["-m", "edgeprune", *given])
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("edgeprune: ")
        assert "is not UTF-8" in line
    assert list(tmp_path.glob("out*")) == []


# Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_while_anything_is_loaded(tmp_path):
    """After so many imports from the first moment that anything of ours runs, up to torch's."""
    model, text = model_folder(tmp_path / "model"), text_file(tmp_path / "text.txt")
    build = ["build", recipe_file(tmp_path / "r.yaml"), "--model", model, "--data", text]
    chance = random.Random(0)
    for moment in [0, 1, *(chance.randrange(2, 120) for _ in range(3)), 400, 1300]:
        command = [*build, "--output", tmp_path / f"out{moment}"]
        said = interrupted_after(moment, [str(part) for part in command])
        assert said[-1] == "edgeprune: Stopped."
        assert not [line for line in said if "Traceback" in line or "terminate" in line]


def interrupted_after(imports: int, command: list[str]) -> list[str]:
    """What a command says that hears a Ctrl-C after so many imports, but for the imports."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "edgeprune", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    left = -1
    for line in process.stderr:
        if line.startswith("import time:"):
            # `errors`, `signal` and this module are loaded: the next thing that is, is listening.
            left = imports + 1 if "edgeprune.base.interrupt" in line else left - (left > 0)
            if left == 0:
                left = -1
                process.send_signal(signal.SIGINT)
        else:
            said.append(line.rstrip())
    assert process.wait() == 130, said
    process.stderr.close()
    return [line for line in said if line]


def test_a_second_ctrl_c_ends_what_is_being_loaded(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "print('goes on', flush=True)\n"
        "if sys.argv[1:]: signal.raise_signal(signal.SIGINT)\n"
    )
    code = (
        "from edgeprune.base.interrupt import leave, listen\n"
        "listen()\n"
        "try:\n"
        "    import slow, time; time.sleep(60)\n"
        "finally:\n"
        "    leave()\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    twice = ended(["-c", code, "twice"], PYTHONPATH=path)
    assert (twice.returncode, twice.stdout) == (130, "goes on\n")
    assert twice.stderr == f"{interrupt.WORDS}\n"
    once = ended(["-c", code], PYTHONPATH=path)
    assert once.stdout == "goes on\n"
    assert once.stderr.splitlines()[-1] == "KeyboardInterrupt"  # once it is loaded


# disks -----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_file_beyond_the_limit_is_one_sentence(tmp_path, monkeypatch):
    model, text = model_folder(tmp_path / "model"), text_file(tmp_path / "text.txt")
    build = ["build", recipe_file(tmp_path / "r.yaml"), "--model", model, "--data", text]
    command = [*map(str, build), "--output", str(tmp_path / "out")]
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    code = f"{limited}; from edgeprune.__main__ import main; main()"
    # What counts lines would write a file of its own, as large.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    done = ended(["-c", code, *command])
    assert done.returncode == 2, done.stderr
    assert re.search(r"larger than this process may write \(see `ulimit -f`\): .*out", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_named_for_what_it_is(tmp_path, monkeypatch):
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    free = {out: 10**9, temporary: 0}
    monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setattr(disk, "_free", free.get)
    error = RuntimeError("I/O error: No space left on device (os error 28)")
    assert disk_is_full(error, out) == f"The disk is full: {temporary} could not be written."
    assert disk_is_full(error) == f"The disk is full: {temporary} could not be written."
    assert disk_is_full(RuntimeError("something else"), out) is None
    free.update({out: 0, temporary: 10**9})
    assert disk_is_full(error, out) == f"The disk is full: {out} could not be written."
    assert f"{out} could" in disk_is_full(RuntimeError("something else"), out)
    named = OSError(28, "No space left on device", "/elsewhere/file")
    assert "/elsewhere/file could" in disk_is_full(named, out)
    none = FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/here']")
    assert disk_is_full(none) == (
        "No usable temporary directory found in ['/tmp', '/here']: make room there, or name "
        "another folder by TMPDIR."
    )
