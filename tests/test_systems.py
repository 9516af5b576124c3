"""What a device does where a system has none of POSIX's own modules and signals, as Windows has
none: shown here by hiding them."""

import subprocess
import sys

import pytest
from on_device import modules
from onnx_models import encoder_folder

HIDDEN = ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "readline")
# From edgeprune alone: on this system other packages and the standard library need them.
WITHOUT = f"""
import asyncio, builtins, multiprocessing, os, signal, subprocess, sys, tempfile
import onnxruntime, psutil, rich.console
find = builtins.__import__
def refuse(name, given=None, *rest, **more):
    if name in {HIDDEN!r} and (given or {{}}).get("__name__", "edgeprune").startswith(
        ("edgeprune", "__main__")
    ):
        raise ModuleNotFoundError("no " + name + " on this system", name=name)
    return find(name, given, *rest, **more)
builtins.__import__ = refuse
for module, names in (
    (signal, ("SIGALRM", "SIGKILL", "SIGHUP", "SIGUSR1", "setitimer", "getitimer", "alarm")),
    (os, ("fork", "setsid", "killpg", "getpgid", "sched_getaffinity", "getuid", "nice")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""


def elsewhere(code: str) -> str:
    given = [sys.executable, "-c", WITHOUT + code]
    found = subprocess.run(given, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_hidden_is_hidden(name):
    code = f"try:\n    import {name}\nexcept ImportError as error:\n    print(error)"
    assert elsewhere(code) == f"no {name} on this system\n"


def test_every_module_of_a_device_imports():
    names = modules("base", "targets", "text", "runtime", "measure", "service", "pipeline", "cli")
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('all')"
    assert elsewhere(code) == "all\n"


def test_commands_of_a_device_run(tmp_path):
    model = encoder_folder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("the cat\na dog ran far\n" * 8)
    cosine = ["--task", "cosine", "--data", str(tmp_path / "texts.txt"), "--against", str(model)]
    commands = [
        ["recipes"],
        ["inspect", str(model)],
        ["run", str(model), "the cat"],
        ["evaluate", str(model), *cosine],
        ["run", str(tmp_path / "none"), "the cat"],
    ]
    code = f"""
from edgeprune import __main__
for command in {commands!r}:
    sys.argv = ["edgeprune", *command]
    try:
        __main__.main()
    except SystemExit as end:
        print("<", command[0], end.code or 0)
"""
    ended = [line for line in elsewhere(code).splitlines() if line.startswith("<")]
    names = ("recipes 0", "inspect 0", "run 0", "evaluate 0", "run 2")
    assert ended == [f"< {name}" for name in names]


def test_two_builds_go_without_a_lock(tmp_path):
    code = f"""
from pathlib import Path
from edgeprune.pipeline.keep import locked
file = Path({str(tmp_path / "lock")!r})
with locked(file), locked(file):
    print(file.exists())
"""
    assert elsewhere(code) == "False\n"
