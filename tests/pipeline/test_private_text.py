"""No sentence of the user's texts, and no label or group of them, is in what a build leaves to be
passed on: bundle, original, report. What its stages keep for the next build is not passed on. The
names of labels are the model's own: they stand in its config.json, and where its quality is told
class by class."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from speeds import make_speed
from tiny_builds import model_folder, recipe_file, sentence_lines

from edgeprune.cli import main

WORD, GROUP = "xyzzysecret", "plughgroup"
"""A word of every text, that no tokenizer knows, and a group that half of the texts are of."""
LABELS = [f"grueslabel{number}" for number in range(3)]
"""The classifier's names of its labels, by which the texts are labelled."""
TASKS = {
    "bert": "feature-extraction",
    "classifier": "text-classification",
    "llama": "text-generation",
}
RECIPE = """
name: tiny
text:
  max_tokens: 16
  batch_tokens: 256
  held_out: 0.2
  held_out_samples: 16
  sampler: stratified
  group_field: owner
PRUNE
cut: {channels: 0.2, samples: 16, layers: 1, layer_score: loss, layer_samples: 8}
sparsify: {pattern: 4x1, sparsity: 0.1, steps: 4, updates: 2, checks: 1, precision: float32}
recover: {steps: 4, checks: 2, precision: float32}
quantize:
  weights: mixed
  average_bits: 8
  group: 16
  method: gptq
  calibration_samples: 8
measure: {tokens: 12, launches: 1, profile: false, curve: [], stages: true}
"""
PRUNE = (
    "prune: {pattern: channels, sparsity: 0.3, steps: 4, updates: 2, checks: 1, precision: float32}"
)


@pytest.fixture(scope="module", params=TASKS)
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build's output with every kind of stage, not timed and not drawn."""
    family, folder = request.param, tmp_path_factory.mktemp("secret")
    rows = [
        {
            "text": f"{line} {WORD}",
            "label": LABELS[place % 3],
            "owner": GROUP if place % 2 else "other",
        }
        for place, line in enumerate(sentence_lines(60))
    ]
    if family != "classifier":
        for row in rows:
            del row["label"]
    text = folder / "text.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)))
    recipe = recipe_file(folder / "tiny.yaml", RECIPE.replace("PRUNE", PRUNE))
    model = model_folder(folder / "model", family)
    if family == "classifier":
        config = json.loads((model / "config.json").read_text())
        names = {
            "id2label": dict(enumerate(LABELS)),
            "label2id": {n: i for i, n in enumerate(LABELS)},
        }
        (model / "config.json").write_text(json.dumps(config | names))
    command = ["build", recipe, "--model", model]
    speed = make_speed(TASKS[family])
    with pytest.MonkeyPatch.context() as patch:
        for place in ("stage", "stages"):
            patch.setattr(f"edgeprune.pipeline.measure.{place}.compare", lambda *_a, **_k: speed)
        given = [*command, "--data", text, "--output", folder / "out"]
        done = CliRunner().invoke(main, list(map(str, given)))
    assert done.exit_code == 0, done.output
    return folder / "out"


def passed_on(left: Path) -> list[Path]:
    """The files of a build's output but those of its stages."""
    files = [file for file in left.rglob("*") if file.is_file()]
    return [file for file in files if "stages" not in file.relative_to(left).parts]


def test_nothing_that_is_passed_on_holds_a_word_of_the_texts(left: Path) -> None:
    files = passed_on(left)
    names = {file.name for file in files}
    assert {"report.json", "report.html", "edgeprune.json", "README.md", "model.onnx"} <= names
    for word in (WORD, GROUP):
        assert [file for file in files if word.encode() in file.read_bytes()] == []


def test_names_of_labels_stand_where_classes_are_told_alone(left: Path) -> None:
    found = {
        str(file.relative_to(left))
        for file in passed_on(left)
        if any(name.encode() in file.read_bytes() for name in LABELS)
    }
    classifies = "classification" in (left / "bundle" / "edgeprune.json").read_text()
    told = {"bundle/edgeprune.json", "bundle/README.md", "report.html", "report.json"}
    own = {"bundle/config.json", "original/config.json"}
    assert found == ({*own, *told} if classifies else set())


def test_the_search_would_find_it(left: Path) -> None:
    """The held-out text, which measures read, stays with the stages."""
    assert any(WORD in file.read_text() for file in left.rglob("held_out.*"))
