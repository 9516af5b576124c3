"""Processes that accelerate starts train as one does, and a build by them goes on after a death.

Mostly skipped where accelerate is not installed: `make test-cluster` installs it.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import trained_together
from click.testing import CliRunner
from processes import until
from tiny_builds import RECIPE, model_folder, recipe_file, text_file
from trained_together import CASES, TIMED

from edgeprune.base.errors import UserError
from edgeprune.base.progress import console
from edgeprune.cli import main
from edgeprune.pipeline.build import prepare
from edgeprune.pipeline.joined import joined
from edgeprune.pipeline.recipe import read_recipe
from edgeprune.pipeline.run import run

with_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None,
    reason="accelerate is not installed: make test-cluster",
)
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["--main_process_port", "0"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models")
    trained_together.make_models(place)
    return place


@pytest.fixture(scope="module")
def by_two(models, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    result = tmp_path_factory.mktemp("by-two") / "found.pt"
    command = [*LAUNCH, trained_together.__file__, str(models), str(result)]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=600)
    return torch.load(result)


@pytest.mark.slow
@with_accelerate
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, by_two, models):
    alone, together = CASES[case](models), by_two[case]
    assert alone.keys() == together.keys()
    torch.testing.assert_close(together["losses"], alone["losses"], rtol=1e-4, atol=0)
    masks = [name for name in alone if name.startswith("mask ")]
    apart = sum(int((alone[name] != together[name]).sum()) for name in masks)
    allowed = 0 if "gates" in case else 1e-4 * sum(alone[name].numel() for name in masks)
    assert apart <= allowed
    if apart:
        return  # single weights differ then, and what follows from them
    # Softmax does not see a key's bias: its gradient is rounding alone, which Adam makes a step of.
    for name in (name for name in alone if not name.endswith("key.bias")):
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@with_accelerate
def test_a_training_by_the_clock_ends_in_all_processes(by_two):
    (case,) = TIMED
    losses = by_two[case]["losses"]
    assert len(losses)
    assert bool(torch.isfinite(losses).all())


@pytest.mark.slow
@with_accelerate
def test_processes_that_come_to_different_weights_stop(by_two):
    assert "machines that are alike" in by_two["refused"]


@pytest.mark.slow
@with_accelerate
def test_a_build_that_loses_a_process_says_so_and_goes_on(tmp_path):
    recipe = recipe_file(tmp_path / "recipe.yaml", RECIPE.replace("{steps: 6,", "{steps: 150,"))
    given = ["build", recipe, "--model", model_folder(tmp_path / "model")]
    given += ["--data", text_file(tmp_path / "text.txt"), "--output", tmp_path / "out"]
    command = [*LAUNCH, "-m", "edgeprune", *map(str, given)]
    options = {"env": ENVIRONMENT, "text": True, "stderr": subprocess.PIPE}

    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    until(lambda: list(tmp_path.glob("out/stages/.recover-*")))
    (second,) = (
        each
        for each in psutil.Process(started.pid).children(recursive=True)
        if each.environ().get("RANK") == "1"
    )
    os.kill(second.pid, signal.SIGKILL)
    _, told = started.communicate(timeout=300)
    assert started.returncode
    assert "Another of the processes that train this model together has ended" in told
    assert not list(tmp_path.glob("out/stages/recover-*"))

    again = subprocess.run(command, stdout=subprocess.PIPE, timeout=300, **options)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("kept from an earlier build") == 4  # load, original, prune, cut
    assert again.stdout.count("\nbundle ") == 1  # the first process alone speaks
    assert (tmp_path / "out" / "bundle" / "onnx" / "model.onnx").is_file()


def test_a_missing_accelerate_is_one_sentence(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"package accelerate: .*\[cluster\]"), joined():
        pass


@with_accelerate
@pytest.mark.parametrize(
    ("given", "missing"), [({}, "MASTER_ADDR"), ({"MASTER_ADDR": "127.0.0.1"}, "RANK")]
)
def test_a_stray_count_of_processes_is_one_sentence(monkeypatch, given, missing):
    """As a shell of a cluster's job may have it: nobody else would ever come."""
    for name in ("MASTER_ADDR", "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{missing}, which a launcher.*unset WORLD_SIZE"), joined():
        pass


class Group:
    """accelerate's state of two processes, this one the second, without the first."""

    process_index, num_processes = 1, 2

    def __init__(self, **unused: object) -> None:
        self.term = None

    def destroy_process_group(self) -> None:
        Group.term = signal.getsignal(signal.SIGTERM)


@pytest.fixture
def grouped(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=Group))
    monkeypatch.setattr(console, "quiet", console.quiet)
    before = signal.getsignal(signal.SIGTERM)
    yield before
    signal.signal(signal.SIGTERM, before)


def test_a_process_that_is_ended_says_why_though_it_is_ended_again(grouped):
    with pytest.raises(UserError, match="Another of the processes"), joined():
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # while the sentence is on its way: not heard
    assert Group.term is signal.SIG_IGN


def test_a_process_that_is_done_is_ended_as_before(grouped):
    with joined():
        assert signal.getsignal(signal.SIGTERM) is not grouped
    assert signal.getsignal(signal.SIGTERM) is grouped


def test_one_process_where_several_were_asked_for_is_refused(monkeypatch):
    """As accelerate starts it with --cpu and no MPI."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="--multi_gpu --num_processes N"), joined():
        pass


def test_a_search_is_not_shared_so(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = CliRunner().invoke(main, ["search", "encoder", "--output", str(tmp_path / "out")])
    assert found.exit_code == 2
    assert "--workers" in found.stderr


def test_a_process_with_another_text_is_refused(tmp_path, monkeypatch):
    recipe = read_recipe(str(recipe_file(tmp_path / "recipe.yaml")))
    model, text = model_folder(tmp_path / "model"), text_file(tmp_path / "text.txt")
    build = prepare(recipe, str(model), (str(text),), tmp_path / "out")
    monkeypatch.setattr("edgeprune.pipeline.run.led", lambda make, *given: "the first one's")
    with pytest.raises(UserError, match="another model or text than the first"):
        run(build)
