"""Trials on Ray's workers: what this process makes, whatever happens to a worker.

Skipped where Ray is not installed: `make test-cluster` installs it.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from processes import command_of, until, wait_for_end
from tiny_builds import model_folder, recipe_file, text_file

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")

import ray_driver  # noqa: E402
from ray_driver import SHAPES, prepared_in, trials  # noqa: E402

from edgeprune.base.errors import MISTAKE, UserError  # noqa: E402
from edgeprune.search.cluster import Packed, cluster  # noqa: E402
from edgeprune.search.engine import Here  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
RECIPE = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
recover: {checks: 2, precision: float32}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = tmp_path_factory.mktemp("cluster")
    model_folder(place / "model")
    recipe_file(place / "recipe.yaml", RECIPE)
    text_file(place / "text.txt", 80)
    return prepared_in(place)


def graphs(place: Path) -> list[bytes]:
    return [
        (place / str(number) / "bundle" / "onnx" / "model.onnx").read_bytes()
        for number in range(len(SHAPES))
    ]


def test_a_trial_gives_the_same_bundle_on_a_worker_as_here(prepared, tmp_path):
    here = Here().run(trials(prepared, tmp_path / "here", 12))
    with cluster(prepared, 2, None) as workers:
        there = workers.run(trials(prepared, tmp_path / "there", 12))
    assert [each.distance for each in here] == [each.distance for each in there]
    assert graphs(tmp_path / "here") == graphs(tmp_path / "there")


def test_a_worker_that_is_killed_loses_nothing(prepared, tmp_path):
    killed = []

    def killed_one() -> bool:
        for process in psutil.Process().children(recursive=True):
            busy = any("_carry_out" in word for word in command_of(process))
            if busy and list(tmp_path.glob("*/stages/load-*")):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return True
        return False

    with cluster(prepared, 1, None) as workers:
        thread = threading.Thread(target=until, args=(killed_one,))
        thread.start()
        tried = workers.run(trials(prepared, tmp_path, 200))
        thread.join()
    assert killed
    assert len(tried) == len(SHAPES)
    assert all(graphs(tmp_path))


@contextmanager
def head(port: int) -> Iterator[None]:
    """A cluster's head on a core of this machine, which is killed in the end."""
    place = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # paths of sockets are short
    words = ["start", "--head", "--port", str(port), "--num-cpus", "1", "--temp-dir", str(place)]
    words += [
        "--node-ip-address",
        "127.0.0.1",
        "--include-dashboard",
        "false",
        "--disable-usage-stats",
    ]
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *words], check=True, capture_output=True
    )
    started = [each for each in psutil.process_iter() if str(place) in " ".join(command_of(each))]
    try:
        yield
    finally:
        for process in started:
            with suppress(psutil.NoSuchProcess):
                started += process.children(recursive=True)  # workers, which have other names
                process.kill()
        for process in started:
            wait_for_end(process)
        shutil.rmtree(place, ignore_errors=True)


def test_a_head_that_is_killed_and_started_again_keeps_what_was_finished(tmp_path, monkeypatch):
    # A head asks for a token where its user has one: the test's own, on every machine.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
    model_folder(tmp_path / "model")
    recipe_file(tmp_path / "recipe.yaml", RECIPE)
    text_file(tmp_path / "text.txt", 80)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    driver = [sys.executable, ray_driver.__file__, f"127.0.0.1:{port}", str(tmp_path)]
    driver += ["12", "600"]  # steps of the first trial, and of the second
    first, second = (tmp_path / "trials" / str(number) / "stages" for number in range(2))
    with head(port), (tmp_path / "log").open("w") as log:
        command = subprocess.Popen(driver, stderr=log, start_new_session=True)
        until(lambda: list(second.glob("shape-*")) or command.poll() is not None)
        assert command.poll() is None, (tmp_path / "log").read_text()
        finished = stamps(first)
        assert any(name.startswith("measure-") for name in finished)
        shaped = stamps(second)
    assert command.wait(300) == MISTAKE
    assert "give the same command again" in (tmp_path / "log").read_text()
    with head(port):
        again = subprocess.run(driver, check=True, capture_output=True, text=True)
    assert len(again.stdout.split()) == len(SHAPES)
    assert stamps(first) == finished
    assert shaped.items() <= stamps(second).items()


def stamps(stages: Path) -> dict[str, int]:
    """When each stage of a build was carried out."""
    return {each.parent.name: each.stat().st_mtime_ns for each in stages.glob("[!.]*/stage.json")}


def test_a_trial_that_is_refused_says_why(prepared, tmp_path):
    one = trials(prepared, tmp_path, 12)[0]
    (tmp_path / "0").write_text("in the way")
    with cluster(prepared, 1, None) as workers, pytest.raises(UserError, match="is a file"):
        workers.run([one])


def test_files_are_written_once_under_their_hash(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "a.txt").write_text("a")
    (tmp_path / "model" / "sub" / "b.txt").write_text("b")
    packed = Packed.of(tmp_path / "model")
    folder = packed.unpacked()
    assert (folder / "sub" / "b.txt").read_text() == "b"
    assert packed.unpacked() == folder
    (tmp_path / "model" / "a.txt").write_text("c")
    assert Packed.of(tmp_path / "model").digest != packed.digest


def test_a_cluster_that_is_not_there_is_named(prepared):
    with (
        pytest.raises(UserError, match="No Ray cluster answers"),
        cluster(prepared, None, "127.0.0.1:1"),
    ):
        pass
