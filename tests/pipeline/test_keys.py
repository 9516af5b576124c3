"""What a kept stage's key depends on: changed code, tables, targets, libraries and processors."""

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_builds import RECIPE, model_folder, recipe_file, text_file

from edgeprune.base.places import called, without_places
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline import keys
from edgeprune.pipeline.build import Build, prepare
from edgeprune.pipeline.recipe import read_recipe
from edgeprune.pipeline.run import stage_key
from edgeprune.pipeline.stages import STAGES
from edgeprune.targets import TABLES, TARGETS, find
from edgeprune.targets.table import keep_table, own_table

ALL = {entry.name for entry in STAGES}
TRAINED = {"load", "vocabulary", "prune", "cut", "sparsify", "recover"}


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory) -> Iterator[Path]:
    """A copy of the package, to be changed, whose keys are taken."""
    copy = tmp_path_factory.mktemp("copy") / "edgeprune"
    shutil.copytree(keys.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with keys.package_at(copy):
        yield copy


@pytest.fixture(scope="module")
def before(package) -> dict[str, str]:
    """Of the package as it is."""
    return codes()


@contextlib.contextmanager
def longer(file: Path, more: str) -> Iterator[None]:
    """A file with more at its end, for a while."""
    was = file.read_bytes()
    file.write_bytes(was + more.encode())
    try:
        yield
    finally:
        file.write_bytes(was)


def codes() -> dict[str, str]:
    task = TASKS["feature-extraction"]
    return {stage.name: keys.code_digest([stage.run, *stage.asks(task)]) for stage in STAGES}


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("model/pooling.py", ALL),
        ("runtime/embed.py", {"measure"}),
        ("runtime/session.py", {"rewrite", "measure"}),
        ("measure/bench/worker.py", {"measure"}),
        ("measure/bench/torch_worker.py", {"measure"}),
        ("measure/evaluate/sts.py", {"measure"}),
        ("export/rewrite/attention.py", {"rewrite"}),
        ("compress/quantize/gptq.py", {"quantize", "rewrite"}),
        ("export/trace.py", {"original", "export", "measure"}),
        ("export/emit/encoder.py", {"export", "rewrite", "measure"}),
        ("compress/prune/wanda.py", {"prune", "sparsify"}),
        ("kernels/src/tiles.h", {"quantize", "export", "rewrite", "measure"}),
        ("service/app.py", set()),
        ("report/write.py", set()),
        ("report/templates/card.md", set()),
        ("measure/check/run.py", set()),
        ("measure/inspect/layers.py", set()),
        ("cli.py", set()),
        ("pipeline/preview.py", set()),
    ],
)
def test_changed_code_runs_what_imports_it(file, changed, before, package):
    with longer(package / file, "\n# changed\n"):
        assert differing(before, codes()) == changed


@pytest.mark.parametrize("folder", ["tables", "format_times"])
def test_changed_tables_run_what_decides_by_them(folder, before, package):
    tables = list((package / "targets" / folder).glob("*.json"))
    assert tables
    with contextlib.ExitStack() as stack:
        for file in tables:
            stack.enter_context(longer(file, " "))
        changed = differing(before, codes())
    assert changed >= {"quantize", "rewrite", "measure"}
    assert not changed & {"load", "original", "prune", "recover", "export"}


def test_a_new_import_counts_wherever_it_stands(before, package):
    more = "\ndef more():\n    from edgeprune.service import app\n"
    with longer(package / "runtime" / "embed.py", more):
        keys.forget()
        changed = codes()
        with longer(package / "service" / "app.py", "\n# changed\n"):
            assert differing(before, changed) == differing(changed, codes()) == {"measure"}
    keys.forget()
    assert codes() == before


@pytest.mark.parametrize(
    ("library", "changed"),
    [
        ("onnxruntime", {"rewrite", "measure"}),
        ("torch", ALL),
        ("click", set()),
    ],
)
def test_another_version_of_a_library_runs_what_imports_it(library, changed, before, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        keys,
        "_version",
        lambda name: "0.0.test" if name == library else version(name),
    )
    assert differing(before, codes()) == changed


def test_what_made_it_is_told_with_versions():
    told = keys.versions(keys.reads("edgeprune.pipeline.measure.stage:run").libraries)
    for name in ("torch", "transformers", "onnxruntime", "onnx", "numpy", "tokenizers"):
        assert told[name] == importlib.metadata.version(name)
    assert told["python"].startswith("3.")


# targets and processors ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Build:
    folder = tmp_path_factory.mktemp("build")
    model, text = model_folder(folder / "model"), text_file(folder / "text.txt")
    recipe = read_recipe(str(recipe_file(folder / "tiny.yaml", RECIPE)))
    found = prepare(recipe, str(model), (str(text),), folder / "out")
    found.context.folders["original"] = folder / "original-0123"
    return found


def stage_keys(build: Build) -> dict[str, str]:
    return {stage.name: stage_key(stage, build.context, "before") for stage in STAGES}


def test_auto_is_keyed_by_the_target_that_it_is_here(build, monkeypatch):
    first, second = TARGETS[:2]
    found = {}
    for target in (first, second):
        monkeypatch.setattr("edgeprune.targets.detect", lambda target=target: target)
        here, named = (
            replace(build, context=replace(build.context, target=find(name)))
            for name in ("auto", target.name)
        )
        found[target.name] = stage_keys(here)
        assert stage_keys(named) == found[target.name]
    changed = differing(found[first.name], found[second.name])
    assert changed == {"quantize", "rewrite"}


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_a_machine_s_own_tables_run_what_decides_by_them(folder, build, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path))
    shipped = stage_keys(build)
    content = {"target": build.context.target.name, "points": []}
    keep_table(content, folder)
    own = stage_keys(build)
    assert differing(shipped, own) == {"quantize", "rewrite"}
    keep_table({**content, "rounds": 5}, folder)
    assert differing(own, stage_keys(build)) == {"quantize", "rewrite"}
    keep_table({**content, "target": "another"}, folder).rename(tmp_path / "gone")
    own_table(folder, content["target"]).unlink()
    assert stage_keys(build) == shipped


@pytest.mark.parametrize("fact", ["processor", "logical_cores", "governor"])
def test_another_processor_is_measured_again(fact, build, monkeypatch):
    before = stage_keys(build)
    facts = keys.machine_facts().model_copy(update={fact: "another"})
    monkeypatch.setattr(keys, "machine_facts", lambda: facts)
    assert differing(before, stage_keys(build)) == {"measure"}


# places ----------------------------------------------------------------------------------------


def test_places_are_called_by_their_names(tmp_path, monkeypatch):
    folder = tmp_path / "a model"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert called(str(folder)) == called("a model") == called("./a model/") == "a model"
    assert called("owner/name") == "owner/name"
    assert called("package:some-model") == "package:some-model"
    stages = Path("out") / "stages"
    content = {
        "given": [str(folder), "a model", "owner/name", 5, None],
        "stage": f"{stages}/rewrite-0123456789ab",
        "scratch": f"{stages.absolute()}/.measure-0123456789ab.77/cut",
        "sentence": f"{folder}/x.onnx failed, in {tempfile.gettempdir()}/y and {tmp_path}",
        "node": "/encoder/layer.0/query/MatMul",
    }
    assert without_places(content, stages, [str(folder), "owner/name"]) == {
        "given": ["a model", "a model", "owner/name", 5, None],
        "stage": "rewrite",
        "scratch": "cut",
        "sentence": f"x.onnx failed, in y and {tmp_path.name}",
        "node": "/encoder/layer.0/query/MatMul",
    }
    assert os.sep not in str(without_places(str(Path.home() / "x"), stages, []))
