"""export.by: optimum, with a program in the place of its environment's Python; and, where there is
one, with optimum itself (`make test-clients`)."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from other_python import CLIENTS, needs_clients
from tiny_builds import model_folder, recipe_file, text_file
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.export.emit.reference import torch_outputs
from edgeprune.export.graph import Graph
from edgeprune.export.optimum_environment import VARIABLE, optimum_versions
from edgeprune.export.optimum_exporter import export_by_optimum
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.stage import exported_graph
from edgeprune.export.rewrite.verify import mean_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.model.store import save_model
from edgeprune.model.tasks import TASKS
from edgeprune.targets import find

RIGHT = {"optimum-onnx": "0.1.0", "transformers": "4.57.6", "torch": "2.13.0"}
RECIPE = "text: {max_tokens: 16, batch_tokens: 256}\nmeasure: {tokens: 12}\nexport: {by: optimum}\n"
TARGET = find("x86-avx512-vnni")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Puts a program in the place of the environment's Python: it tells these versions, and does
    `does` where it is asked to export; `options` are then what the exporter was given."""

    def put(does: str = "", versions: dict[str, str] = RIGHT) -> Path:
        place = tmp_path / f"python-{len(list(tmp_path.glob('python-*')))}"
        place.write_text(
            f"#!{sys.executable}\n"
            "import json, os, pathlib, shutil, sys, time\n"
            "assert sys.argv[1:3] == ['-I', '-c'], sys.argv\n"
            "if 'main_export' not in sys.argv[3]:\n"
            f"    found = {versions!r}\n"
            "    print(json.dumps({name: found.get(name) for name in sys.argv[4:]}))\n"
            "    sys.exit()\n"
            "options = json.loads(sys.argv[4])\n"
            "output = pathlib.Path(options['output'])\n"
            f"{does}\n"
        )
        place.chmod(0o755)
        monkeypatch.setenv(VARIABLE, str(place))
        return place

    return put


@pytest.fixture
def dry_run(tmp_path):
    """The end of a dry run of a recipe on a tiny model."""

    def run(family: str = "bert", recipe: str = RECIPE):
        folder = tmp_path / family
        given = ["build", recipe_file(tmp_path / "recipe.yaml", recipe)]
        given += ["--model", model_folder(folder, family), "--data", text_file(tmp_path / "t.txt")]
        return CliRunner().invoke(main, [*map(str, given), "--dry-run"])

    return run


def test_a_dry_run_tells_the_environments_versions(environment, dry_run):
    environment()
    found = dry_run()
    assert found.exit_code == 0, found.stderr
    assert "optimum-onnx 0.1.0" in found.stdout
    assert "4.57.6" in found.stdout


def test_a_dry_run_without_an_environment_says_how_to_make_one(monkeypatch, dry_run):
    monkeypatch.delenv(VARIABLE, raising=False)
    found = dry_run()
    assert found.exit_code == 2
    assert "pip install -r constraints-clients.txt" in " ".join(found.stderr.split())
    assert VARIABLE in found.stderr


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({**RIGHT, "transformers": "5.24.0"}, "needs transformers 4.x"),
        ({**RIGHT, "optimum-onnx": "0.2.0"}, "has optimum-onnx 0.2.0"),
        ({"transformers": "4.57.6", "torch": "2.13.0"}, "has no optimum-onnx"),
    ],
)
def test_other_versions_are_refused(environment, versions, says):
    environment(versions=versions)
    with pytest.raises(UserError, match=says):
        optimum_versions()


def test_what_is_no_python_is_refused(monkeypatch, tmp_path):
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexit 0\n")
    mute.chmod(0o755)
    for named in (tmp_path / "nowhere", tmp_path, mute):
        monkeypatch.setenv(VARIABLE, str(named))
        with pytest.raises(UserError, match="does not answer as a Python"):
            optimum_versions()


@pytest.mark.parametrize(
    ("family", "more", "says"),
    [
        ("bert", "cut: {channels: 0.2}\n", "another width"),
        ("gpt2", "", "as transformers 4 names them"),
        ("mixtral", "", "as transformers 4 names them"),
    ],
)
def test_a_model_that_transformers_4_would_not_read_is_refused(
    environment, dry_run, family, more, says
):
    environment()
    found = dry_run(family, RECIPE + more)
    assert found.exit_code == 2
    assert says in " ".join(found.stderr.split())


def test_fewer_layers_are_not(environment, dry_run):
    environment()
    found = dry_run("bert", f"{RECIPE}cut: {{layers: 0.5, keep_first: 0, keep_last: 0}}\n")
    assert found.exit_code == 0, found.stderr


def test_an_exporter_that_fails_is_quoted(environment, tmp_path, capsys):
    environment("print('looking'); sys.exit('KeyError: no such \\x1b architecture.')")
    with pytest.raises(UserError, match=r"failed: KeyError: no such . architecture\. Leave"):
        export_by_optimum(tmp_path, TASKS["feature-extraction"], tmp_path / "model.onnx", 1)
    assert "looking" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


def test_an_exporter_that_does_not_end_is_ended(environment, tmp_path):
    environment("time.sleep(60)")
    with pytest.raises(UserError, match=r"within 0\.01 minutes: raise export\.minutes"):
        export_by_optimum(tmp_path, TASKS["feature-extraction"], tmp_path / "model.onnx", 0.01)


def test_an_exporter_that_writes_nothing_is_refused(environment, tmp_path):
    environment()
    with pytest.raises(UserError, match=r"wrote no model.onnx"):
        export_by_optimum(tmp_path, TASKS["feature-extraction"], tmp_path / "model.onnx", 1)


def test_a_graph_with_other_names_is_refused(environment, tmp_path):
    path = export_onnx(make_model("bert", tmp_path / "bert", unequal=False), tmp_path / "plain")
    environment(f"shutil.copy({str(path)!r}, output)")
    with pytest.raises(UserError, match="no output logits"):
        export_by_optimum(tmp_path, TASKS["text-classification"], tmp_path / "model.onnx", 1)


def _saved(family: str, folder: Path):
    """A stage's folder of a tiny model, and the model."""
    model = make_model(family, folder / "original", unequal=False)
    save_model(model, folder / "stage")
    return model, folder / "stage"


def _batches():
    return [{name: value.numpy() for name, value in make_batch().items()}]


@pytest.mark.parametrize("family", ["bert", "llama-fused"])
def test_the_exporters_graph_is_rewritten_and_answers_as_torch(environment, tmp_path, family):
    """The exporter is a copy of a plain trace, which is what optimum's is."""
    model, stage = _saved(family, tmp_path)
    plain = export_onnx(model, tmp_path / "plain", plain=True)
    told = tmp_path / "told.json"
    environment(
        f"shutil.copy({str(plain)!r}, output)\n"
        "seen = {'offline': os.environ['HF_HUB_OFFLINE'], **options}\n"
        f"pathlib.Path({str(told)!r}).write_text(json.dumps(seen))"
    )
    written = export_by_optimum(stage, TASKS[model.task], tmp_path / "read" / "model.onnx", 1)
    asked = json.loads(told.read_text())
    assert (asked["offline"], asked["trust_remote_code"]) == ("1", False)
    assert asked["task"] == model.task + "-with-past" * bool(model.anatomy.head)
    assert asked["model_name_or_path"] == str(stage)
    batches, output = _batches(), tmp_path / "model.onnx"
    start = exported_graph(written, stage, batches, "optimum")
    reports = rewrite(start, output, model.anatomy, None, batches, TARGET)
    assert [report.name for report in reports][:2] == ["optimum", "fold constants"]
    found = run_graph(Graph.load(output), batches)
    assert mean_drift(found, torch_outputs(model, batches)) < 1e-5


def test_a_graph_that_answers_otherwise_than_torch_is_refused(environment, tmp_path):
    _, stage = _saved("bert", tmp_path)
    other = make_model("bert", tmp_path / "other", unequal=False)
    other.linear("encoder.layer.0.output.dense").weight.data *= 1.1
    path = export_onnx(other, tmp_path / "plain")
    start = exported_graph(path, stage, _batches(), "optimum")
    with pytest.raises(UserError, match=r"leave export\.by out"):
        rewrite(start, tmp_path / "out.onnx", other.anatomy, None, _batches(), TARGET)


@needs_clients
@pytest.mark.parametrize("family", ["bert", "classifier", "llama-fused", "qwen3"])
def test_optimum_writes_what_torch_answers(monkeypatch, tmp_path, family):
    monkeypatch.setenv(VARIABLE, str(CLIENTS))
    model, stage = _saved(family, tmp_path)
    path = export_by_optimum(stage, TASKS[model.task], tmp_path / "read" / "model.onnx", 10)
    assert (
        mean_drift(run_graph(Graph.load(path), _batches()), torch_outputs(model, _batches())) < 1e-5
    )
