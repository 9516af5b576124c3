"""`bench --remote` against an sshd of the test's own, on loopback, with keys of its own."""

import getpass
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil
import pytest
from bench_runs import table_text
from click.testing import CliRunner, Result
from onnx_models import encoder_folder
from processes import until

import edgeprune
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.measure.bench.beside import here
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.record import read_speed
from edgeprune.measure.bench.remote import Timer
from edgeprune.measure.bench.settings import BenchSettings

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="sshd is not installed (Debian: apt-get install openssh-server)",
)

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv PYTHONPATH={root}
"""
CLIENT = """
Host device
  HostName 127.0.0.1
  Port {port}
Host *
  User {user}
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  BatchMode yes
  ConnectTimeout 20
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A host that ssh knows as "device"; it runs this very checkout."""
    folder = tmp_path_factory.mktemp("ssh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True)
    root = Path(edgeprune.__file__).parents[1]
    known = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {known}")
    facts = {"port": port, "folder": folder, "root": root, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(SERVER.format(**facts))
    (folder / "ssh_config").write_text(CLIENT.format(**facts))
    # The system's ssh reads another configuration only where it is told so.
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: server.poll() is not None or listens(port))
        assert server.returncode is None, "sshd ended"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
            yield "device"
    finally:
        server.terminate()
        server.wait()


def listens(port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


def leftovers() -> set[Path]:
    """The folders that remote benchmarks make."""
    return {path for path in Path("/tmp").glob("edgeprune-*") if len(path.name) == 26}


def processes() -> set[int]:
    """What runs in such a folder, and what keeps a connection open."""
    found = set()
    for process in psutil.process_iter():
        try:
            folder, line = process.cwd(), " ".join(process.cmdline())
        except psutil.Error:
            continue
        if folder.startswith("/tmp/edgeprune-") or ("ssh" in line and "/edgeprune-" in line):
            found.add(process.pid)
    return found


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    folders, before = leftovers(), processes()
    yield
    until(lambda: processes() <= before, 30)  # sshd tells its end of a connection a moment later
    assert leftovers() <= folders


def bench(*arguments: object) -> Result:
    options = ("--no-compressed", "--time-limit", 0.2, "--remote-python", sys.executable)
    return CliRunner().invoke(main, ["bench", *map(str, (*options, *arguments))])


def test_both_models_are_copied_run_there_and_the_result_brought_back(
    device: str, tmp_path: Path
) -> None:
    light = encoder_folder(tmp_path / "light model", depth=2, width=256)
    heavy = encoder_folder(tmp_path / "heavy", depth=30, width=256)
    (tmp_path / "link").symlink_to(heavy)  # as the hub's cache lays folders out
    options = ("--against", tmp_path / "link", "--remote", device, "--tokens", 8, "--profile")
    result = bench(light, *options, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["remote"] == device
    assert found["candidate"]["name"] == str(light)
    assert found["baseline"]["name"] == str(tmp_path / "link")
    assert found["settings"]["tokens"] == 8
    assert found["candidate"]["model_bytes"] == (light / "model.onnx").stat().st_size
    assert found["measures"]["encoder"]["ratio"]["low"] > 2
    assert found["profile"]["encoder"]["baseline"]["operators"]["MatMul"]["count"] == 30
    assert "device: " in table_text(read_speed(found, tmp_path / "r.json", ""))


def test_an_onnx_file_goes_with_its_data_and_a_sweep_comes_back(
    device: str, tmp_path: Path
) -> None:
    folder = encoder_folder(tmp_path / "m", depth=2, width=64)
    model = onnx.load(folder / "model.onnx")
    (tmp_path / "alone").mkdir()
    file = tmp_path / "alone" / "big.onnx"
    onnx.save(model, file, save_as_external_data=True, location="big.data")
    result = bench(file, "--remote", device, "--tokens", "4,8", "--json", "-")
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["sweep"]
    assert [point["settings"]["tokens"] for point in points] == [4, 8]
    assert {point["candidate"]["name"] for point in points} == {str(file)}
    sizes = sum(part.stat().st_size for part in file.parent.iterdir())
    assert points[0]["candidate"]["model_bytes"] == sizes


def test_what_is_missing_there_is_said(device: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\necho \"No module named 'edgeprune'\" >&2\nexit 1\n")
    without.chmod(0o755)
    result = bench(folder, "--remote", device, "--remote-python", without)
    assert result.exit_code == 2
    assert "has no working edgeprune" in result.stderr
    assert "No module named 'edgeprune'" in result.stderr
    assert "install it there" in result.stderr
    result = bench(folder, "--remote", device, "--remote-python", "no-such-python")
    assert "device has no no-such-python" in result.stderr
    result = bench(folder, "--remote", "127.0.0.2")
    assert "ssh does not reach 127.0.0.2" in result.stderr
    assert "is not a host" in bench(folder, "--remote", "-oProxyCommand=touch /tmp/x").stderr
    assert "is a program" in bench("command:cat", "--remote", device).stderr


def test_a_benchmark_that_fails_there_leaves_nothing_there(device: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", max_position_embeddings=8)
    result = bench(folder, "--remote", device, "--tokens", 9)
    assert result.exit_code == 2
    assert "The benchmark failed on device" in result.stderr


def test_ctrl_c_ends_it_here_and_there(device: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", depth=8, width=256)
    before = processes()
    command = [sys.executable, "-m", "edgeprune", "bench", str(folder), "--remote", device]
    process = subprocess.Popen(
        [*command, "--remote-python", sys.executable, "--tokens", "8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def timing_there() -> bool:
        try:
            lines = [" ".join(psutil.Process(pid).cmdline()) for pid in processes() - before]
        except psutil.Error:  # one ended meanwhile
            return False
        return any("edgeprune.measure.bench.worker" in line for line in lines)

    until(lambda: process.poll() is not None or timing_there())
    assert process.returncode is None, process.communicate()
    assert leftovers()
    os.kill(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=40)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "edgeprune: Stopped."
    assert out == ""


def test_graphs_are_timed_beside_each_other_there(device: str, tmp_path: Path) -> None:
    files = [next(encoder_folder(tmp_path / name).rglob("*.onnx")) for name in "ab"]
    settings = BenchSettings(launches=1, time_limit=0.1, tokens=8)
    with Timer(device, sys.executable) as timer:
        assert timer.where(1) == here(1)
        found = timer.time_beside(files, settings, None)
        with pytest.raises(UserError, match=f"failed on {device}"):
            timer.time_beside(files, settings, "decode")
    assert (found.work, len(found.seconds)) == ("encoder", 2)
    assert all(seconds > 0 for seconds in found.seconds)
    assert found.machine.processor == machine_facts().processor


def test_a_host_without_edgeprune_times_nothing(device: str) -> None:
    with pytest.raises(UserError, match="has no no-python"):
        Timer(device, "no-python")
