"""Models with several labels a text, and of one logit: from rows to answers, beside transformers
and sentence-transformers."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from paired_models import NAMES, pair_folder, pairs, write_judged, write_pairs
from sentence_transformers import CrossEncoder
from tiny_builds import recipe_file

import edgeprune
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.export.opened import open_model
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.fits import check_fits
from edgeprune.runtime.bundle import Bundle

KINDS = {
    "labels": {"labels": 3, "problem_type": "multi_label_classification"},
    "score": {"labels": 1},
}
MEASURES = {"labels": ("multilabel", "multilabel"), "score": ("correlation", "ranking")}
LOSSES = ["prune.label_weight=1", "recover.label_weight=0.5"]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """Makes a model with a kind of head, and builds it once; labels and scores train too."""

    @functools.cache
    def made(kind: str) -> tuple[Path, Path]:
        place = tmp_path_factory.mktemp(kind)
        model = pair_folder(place / "model", **KINDS[kind])
        data = write_pairs(place / "rows.jsonl", truth=kind)
        recipe, out, own = recipe_file(place / "tiny.yaml"), place / "out", data
        words = ["build", recipe, "--model", model, "--data", data, "--output", out]
        if kind == "score":
            own = write_judged(place / "judged.jsonl")
        settings = [*LOSSES, f"measure.task={MEASURES[kind][1]}", f"measure.data={own}"]
        words += [word for each in settings for word in ("--set", each)]
        result = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return model, out

    return made


@pytest.fixture(params=KINDS)
def built(request, build) -> tuple[str, Path, Path]:
    """A kind, its model and a build of it."""
    return request.param, *build(request.param)


@pytest.fixture
def reranker(build) -> tuple[Path, Path]:
    """A model of one logit, and its bundle in float32."""
    folder, out = build("score")
    return folder, out / "original"


def test_answers_are_transformers_own(built):
    kind, folder, out = built
    theirs = transformers.pipeline("text-classification", str(folder), top_k=None)
    asked = [*pairs(10), "w001 w002 w003"]
    model = edgeprune.load(out / "original")
    found = model.classify(asked) if kind == "labels" else model.score(asked)
    for texts, mine in zip(asked, found, strict=True):
        both = (texts,) if isinstance(texts, str) else texts
        expected = theirs(dict(zip(("text", "text_pair"), both, strict=False)))
        scores = {each["label"]: each["score"] for each in expected}
        mine_too = mine.probabilities if kind == "labels" else {NAMES[0]: mine}
        assert mine_too == pytest.approx(scores, abs=1e-4)
        if kind == "labels":
            assert mine.labels == [each["label"] for each in expected if each["score"] >= 0.5]


def test_the_bundle_says_what_it_is(built):
    kind, _, out = built
    bundle = Bundle.open(out / "bundle")
    assert bundle.task == ("multi-label-classification" if kind == "labels" else "text-ranking")
    quality = bundle.manifest["stages"][-1]["quality"]
    assert [each["task"] for each in quality] == list(MEASURES[kind])
    card = (out / "bundle" / "README.md").read_text()
    tag = "text-classification" if kind == "labels" else "text-ranking"
    assert f"pipeline_tag: {tag}" in card
    assert ("model.classify(" if kind == "labels" else "model.rank(") in card
    (out / "bundle" / "edgeprune.json").rename(out / "aside.json")
    try:
        assert Bundle.open(out / "bundle").task == bundle.task
    finally:
        (out / "aside.json").rename(out / "bundle" / "edgeprune.json")


def test_lines_of_the_command(built):
    kind, _, out = built
    words = ["run", str(out / "original"), pairs()[0][0], "--pair", pairs()[0][1]]
    line = CliRunner().invoke(main, words).stdout.strip()
    whole = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    model = edgeprune.load(out / "original")
    if kind == "labels":
        [found] = model.classify(pairs()[:1])
        assert whole["labels"] == found.labels
        assert line == "; ".join(f"{n} {found.probabilities[n]:.3f}" for n in found.labels)
    else:
        [score] = model.score(pairs()[:1])
        assert whole["score"] == pytest.approx(score)
        assert line == f"{score:.6g}"


@pytest.mark.parametrize(
    "settings",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
        {"sbert_ce_default_activation_function": "torch.nn.Identity"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
        {"sentence_transformers": {"activation_fn": "torch.nn.ReLU"}},
        {},
    ],
)
def test_scores_are_sentence_transformers_own(settings, reranker, tmp_path):
    """Whatever activation function config.json names."""
    folder, bundle = reranker
    for source, place in ((folder, "theirs"), (bundle, "mine")):
        shutil.copytree(source, tmp_path / place)
        config = json.loads((source / "config.json").read_text()) | settings
        (tmp_path / place / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine" / "edgeprune.json").unlink()
    theirs = CrossEncoder(str(tmp_path / "theirs"), device="cpu").predict(pairs()[:8])
    mine = edgeprune.load(tmp_path / "mine").score(pairs()[:8])
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_a_cross_encoder_as_its_library_saves_it_now(reranker, tmp_path):
    folder, bundle = reranker
    theirs = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert open_checkpoint(str(tmp_path / "theirs")).task == "text-ranking"
    shutil.copytree(bundle, tmp_path / "mine")
    (tmp_path / "mine" / "edgeprune.json").unlink()
    for name in ("modules.json", "config_sentence_transformers.json"):
        shutil.copy(tmp_path / "theirs" / name, tmp_path / "mine" / name)
    mine = edgeprune.load(tmp_path / "mine").score(pairs()[:8])
    np.testing.assert_allclose(mine, theirs.predict(pairs()[:8]), atol=1e-4)
    assert max(mine) > 1 or min(mine) < 0


def test_an_unknown_activation_is_refused_before_the_work(tmp_path):
    theirs = {"sentence_transformers": {"activation_fn": "their.module.Sigmoid"}}
    folder = pair_folder(tmp_path / "model", labels=1, **theirs)
    with pytest.raises(UserError, match=r"their\.module\.Sigmoid, which EdgePrune does not run"):
        check_fits(open_checkpoint(str(folder)))


@pytest.mark.parametrize("family", ["roberta", "modernbert", "deberta-v2", "mpnet"])
def test_rerankers_of_other_families_score_as_sentence_transformers_does(family, tmp_path):
    """With a table of two types, of one, and without any."""
    folder = pair_folder(tmp_path / "model", f"{family}-classifier", labels=1)
    theirs = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    expected = theirs.predict(pairs()[:6])
    with open_model(folder) as opened:
        found = edgeprune.load(opened).logits(pairs()[:6])[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 0.05


@pytest.mark.parametrize(
    ("kind", "same", "field"),
    [
        ({"labels": 3}, {"label": "neutral"}, "label"),
        (KINDS["labels"], {"labels": ["neutral"]}, "labels"),
        (KINDS["score"], {"score": 0.5}, "score"),
    ],
)
def test_data_of_one_label_train_nothing(kind, same, field, tmp_path):
    """Whoever quantizes alone may give any."""
    model, data = pair_folder(tmp_path / "m", **kind), write_pairs(tmp_path / "rows.jsonl")
    rows = [json.loads(line) | same for line in data.read_text().splitlines()]
    data.write_text("\n".join(map(json.dumps, rows)))

    def told(recipe: str) -> tuple[int, str]:
        file = recipe_file(
            tmp_path / "r.yaml", f"text: {{max_tokens: 16}}\nmeasure: {{tokens: 12}}\n{recipe}"
        )
        words = ["build", file, "--model", model, "--data", data, "--dry-run"]
        result = CliRunner().invoke(main, list(map(str, words)))
        return result.exit_code, " ".join(result.stderr.split())

    code, said = told("recover: {steps: 4}")
    assert (code, f"all of its 60 texts say the same by their {field}" in said) == (2, True), said
    code, said = told("quantize: {calibration_samples: 8}")
    assert code == 0, said
