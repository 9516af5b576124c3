"""Trials on Ray's workers: what this process makes, whatever happens to a worker.

Skipped where Ray is not installed: `make test-cluster` installs it.
"""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest
from processes import command_of, until
from tiny_builds import model_folder, recipe_file, text_file

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")

from edgeprune.base.errors import UserError  # noqa: E402
from edgeprune.pipeline.recipe import read_recipe  # noqa: E402
from edgeprune.search.cluster import Packed, cluster  # noqa: E402
from edgeprune.search.engine import Here  # noqa: E402
from edgeprune.search.prepare import prepare  # noqa: E402
from edgeprune.search.settings import SearchRunSettings, Wish  # noqa: E402
from edgeprune.search.shape import Shape  # noqa: E402
from edgeprune.search.trial import Length, Trial, contents, recipe_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
RECIPE = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
recover: {checks: 2, precision: float32}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""
SHAPES = [Shape((0, 1), (2, 2), (20, 30)), Shape((1,), (3,), (16,))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = tmp_path_factory.mktemp("cluster")
    model = model_folder(place / "model")
    recipe = read_recipe(str(recipe_file(place / "recipe.yaml", RECIPE)))
    data = (str(text_file(place / "text.txt", 80)),)
    return prepare(recipe, str(model), data, Wish(), SearchRunSettings(), place / "out")


def trials(prepared, place: Path, steps: int = 12) -> list[Trial]:
    found = []
    for number, shape in enumerate(SHAPES):
        recipe = recipe_of(prepared.base, shape, Length(steps=steps), None, brief=True)
        folder = place / str(number)
        found.append(Trial(contents(recipe), str(folder), str(place / f"answers-{number}")))
    return found


def graphs(place: Path) -> list[bytes]:
    return [
        (place / str(number) / "bundle" / "onnx" / "model.onnx").read_bytes()
        for number in range(len(SHAPES))
    ]


def test_a_trial_gives_the_same_bundle_on_a_worker_as_here(prepared, tmp_path):
    here = Here().run(trials(prepared, tmp_path / "here"))
    with cluster(prepared, 2, None) as workers:
        there = workers.run(trials(prepared, tmp_path / "there"))
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
        tried = workers.run(trials(prepared, tmp_path, steps=200))
        thread.join()
    assert killed
    assert len(tried) == len(SHAPES)
    assert all(graphs(tmp_path))


def test_a_trial_that_is_refused_says_why(prepared, tmp_path):
    one = trials(prepared, tmp_path)[0]
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
