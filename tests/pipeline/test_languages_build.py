"""A build on text of several languages: each is measured, and the worst one is named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from speeds import make_speed
from tiny_builds import WORDS, model_folder, recipe_file

from edgeprune.cli import main
from edgeprune.measure.evaluate.measures import evaluate

RECIPE = """
name: tiny
text:
  max_tokens: 16
  batch_tokens: 256
  held_out: 0.3
  held_out_samples: 16
  language_balance: 0.7
  fields: {lang: tongue}
vocabulary: {min_count: 2}
quantize: {calibration_samples: 8}
measure: {tokens: 12, profile: false, curve: [], stages: false}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of sixty texts in one language, and of ten in another, whose words are its own."""
    place = tmp_path_factory.mktemp("languages")
    rows = [
        {"text": " ".join(WORDS[(7 * n + 3 * k) % 20] for k in range(6)), "tongue": "de"}
        for n in range(60)
    ]
    rows += [
        {"text": " ".join(WORDS[40 + 6 * n + k] for k in range(6)), "tongue": "sw"}
        for n in range(10)
    ]
    data = place / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    model = model_folder(place / "model", pieces=True)
    words = ["build", recipe_file(place / "tiny.yaml", RECIPE), "--model", model, "--data", data]
    speed = make_speed("feature-extraction")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.pipeline.measure.stage.compare", lambda *_a, **_k: speed)
        told = CliRunner().invoke(main, [str(word) for word in [*words, "--output", place / "out"]])
    assert told.exit_code == 0, told.output
    (place / "out" / "told.txt").write_text(" ".join(told.output.split()))
    return place / "out"


def test_every_language_is_measured_and_the_worst_one_named(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert report["text"]["languages"] == {"de": 60, "sw": 10}
    stages = {s["name"]: s for s in report["stages"]}
    quality = stages["measure"]["quality"][0]
    assert quality["group"] == "language"
    groups = quality["groups"]
    assert set(groups) == {"de", "sw"}
    worst = min(groups, key=lambda name: groups[name]["values"]["mean_cosine"])
    assert quality["worst"]["mean_cosine"] == worst
    [held] = (out / "stages").glob("measure-*/held_out.jsonl")
    again = evaluate(out / "bundle", "cosine", held, against=out / "original", languages=True)
    assert again.groups[worst].values["mean_cosine"] == pytest.approx(
        groups[worst]["values"]["mean_cosine"]
    )
    assert again.values["mean_cosine"] == pytest.approx(quality["values"]["mean_cosine"])
    card = " ".join((out / "bundle" / "README.md").read_text().split())
    sentence = f"worst mean cosine on held-out text: {worst} ("
    for told in (card, (out / "report.html").read_text(), (out / "told.txt").read_text()):
        assert sentence in told
    assert "70 texts from" in (out / "told.txt").read_text()
    assert "(de 60, sw 10)" in (out / "told.txt").read_text()


def test_trimming_is_told_by_language(out: Path) -> None:
    stages = {s["name"]: s for s in json.loads((out / "report.json").read_text())["stages"]}
    found = stages["vocabulary"]["languages"]
    assert set(found) == {"de", "sw"}
    assert found["de"]["texts_same"] == 1
    # No word of the other language comes twice, so that all are spelt.
    assert found["sw"]["texts_same"] == 0
    assert found["sw"]["length"] > 2
    assert found["sw"]["unknown"] == found["sw"]["unknown_before"] == 0
    whole = stages["vocabulary"]["held_out"]
    assert whole["texts"] == sum(each["texts"] for each in found.values())
    assert "of 2 languages sw: 0.0 %" in (out / "report.html").read_text()
