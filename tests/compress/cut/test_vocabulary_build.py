"""Builds whose vocabulary is trimmed, end to end: the bundle says what the original says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from click.testing import CliRunner, Result
from speeds import make_speed, named_by_side
from tiny_builds import WORDS, model_folder, recipe_file, sentence_lines
from tiny_models import VOCABULARY

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.vocabulary import kept_tokens

RECIPE = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
vocabulary: {}
measure: {tokens: 12, seconds: 0.1, launches: 1, profile: false, curve: [], stages: false}
"""
USED = 30


def build(site: Path, *options: str) -> Result:
    given = ("--model", site / "model", "--data", site / "text.txt", "--output", site / "out")
    command = ["build", str(site / "tiny.yaml"), *map(str, given), *options]
    result = CliRunner().invoke(main, command)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def make_site(folder: Path, family: str) -> Path:
    model_folder(folder / "model", family, pieces=True)
    names = dict(zip(WORDS, WORDS[:USED] * len(WORDS), strict=False))
    lines = [" ".join(names[word] for word in line.split()) for line in sentence_lines()]
    (folder / "text.txt").write_text("\n".join(lines))
    generation = {"eos_token_id": 2, "pad_token_id": 0, "max_new_tokens": 5}
    (folder / "model" / "generation_config.json").write_text(json.dumps(generation))
    recipe_file(folder / "tiny.yaml", RECIPE)
    return folder


@pytest.fixture(scope="module", autouse=True)
def untimed():
    """Times are no matter here."""
    speed = named_by_side(make_speed("text-generation"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.pipeline.measure.stage.compare", lambda *_: speed)
        patch.setattr("edgeprune.pipeline.measure.stage.measure_curve", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    site = make_site(tmp_path_factory.mktemp("bert"), "bert")
    assert (done := build(site)).exit_code == 0, done.output
    return site


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    site = make_site(tmp_path_factory.mktemp("llama"), "llama-fused")
    assert (done := build(site)).exit_code == 0, done.output
    return site


def did(site: Path) -> dict[str, dict]:
    report = json.loads((site / "out" / "report.json").read_text())
    return {each["name"]: each for each in report["stages"]}


def test_the_manifest_says_what_left_and_how_held_out_text_fares(encoder):
    found = did(encoder)["vocabulary"]
    letters = 22
    assert found["tokens_before"] == VOCABULARY
    assert found["tokens"] == 4 + letters + USED
    width = 32
    assert found["parameters_before"] - found["parameters"] == width * (
        found["tokens_before"] - found["tokens"]
    )
    assert found["held_out"]["texts_same"] == found["held_out"]["tokens_kept"] == 1
    assert found["held_out"]["length"] == 1


def test_embeddings_are_the_originals(encoder):
    """On kept tokens the same; where a word went, its letters are read."""
    mine, its = (Embedder(Bundle.open(encoder / "out" / n)) for n in ("bundle", "original"))
    texts = ["w001 w002 w029", "w005", "w011 w000 w011 w020"]
    np.testing.assert_allclose(mine.embed(texts), its.embed(texts), rtol=0, atol=1e-5)
    spelled = ["w", "##0", "##5", "##0"]
    assert mine.tokenizer.rust.encode("w050").tokens[1:-1] == spelled
    assert its.tokenizer.rust.encode("w050").tokens[1:-1] == ["w050"]


def test_other_clients_read_the_folder(encoder, decoder):
    for site in (encoder, decoder):
        bundle = site / "out" / "bundle"
        kept = kept_tokens(Bundle.open(bundle))
        mine = transformers.AutoTokenizer.from_pretrained(bundle)
        its = transformers.AutoTokenizer.from_pretrained(site / "out" / "original")
        text = "w003 w007"
        assert kept[mine(text)["input_ids"]].tolist() == its(text)["input_ids"]
        assert len(mine) == len(kept) == Bundle.open(bundle).config["vocab_size"]
        assert (mine.pad_token_id, mine.unk_token_id) == (0, 3)


def test_a_decoder_says_what_the_original_says(decoder):
    mine, its = (Generator(Bundle.open(decoder / "out" / n)) for n in ("bundle", "original"))
    kept = kept_tokens(mine.bundle)
    ids = mine.tokenizer.ids("w001 w002 w003 w004")
    np.testing.assert_allclose(mine.logits(ids), its.logits(kept[ids])[:, kept], rtol=0, atol=1e-4)
    assert mine.stop_ids == {2}
    [quality] = did(decoder)["measure"]["quality"]
    assert quality["task"] == "kl"
    assert abs(quality["values"]["kl_nats_per_token"]) < 1e-6
    assert quality["values"]["same_top_token"] == 100


def test_perplexity_of_other_tokens_is_not_compared(decoder):
    out = decoder / "out"
    with pytest.raises(UserError, match="take kl"):
        evaluate(out / "bundle", "perplexity", decoder / "text.txt", 2, out / "original", window=16)
    asked = ("measure.task=perplexity", f"measure.data={decoder / 'text.txt'}")
    refused = build(decoder, *(word for each in asked for word in ("--set", each)), "--dry-run")
    assert refused.exit_code == 2
    assert "vocabulary" in refused.stderr


def test_later_stages_learn_from_the_trimmed_model_and_resume(encoder, tmp_path):
    site = shutil.copytree(encoder, tmp_path / "site")
    options = ("cut={channels: 0.25, samples: 8}", "recover={steps: 4, checks: 1}", "quantize={}")
    words = [word for each in options for word in ("--set", each)]
    assert build(site, *words).exit_code == 0
    found = did(site)
    assert list(found)[:5] == ["load", "original", "vocabulary", "cut", "recover"]
    [rows] = [
        entry["shape"][0]
        for entry in found["quantize"]["plan"]["entries"]
        if entry["name"] == "embeddings.word_embeddings"
    ]
    assert rows == found["vocabulary"]["tokens"]
    assert all(report["kept"] for report in found["rewrite"]["passes"])
    again = build(site, *words)
    assert again.stderr.count("kept from an earlier build") == len(found)
    more = site / "more.txt"
    more.write_text("w060 w061\nw062 w063")
    words += ["--set", f"vocabulary.data={more}"]
    assert build(site, *words).exit_code == 0
    assert did(site)["vocabulary"]["tokens"] == found["vocabulary"]["tokens"] + 4


def test_the_preview_names_the_tokens_before(encoder):
    shown = build(encoder, "--dry-run").stdout
    assert f"of {VOCABULARY} tokens" in " ".join(shown.split())
