"""Labels at run time, beside transformers' pipeline: from Python, the command and HTTP."""

import json

import numpy as np
import pytest
import transformers
from click.testing import CliRunner
from onnx_models import classifier_folder
from paired_models import NAMES, pair_folder
from tiny_builds import WORDS, sentence_lines

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.export.opened import open_model
from edgeprune.runtime.entailment import entailment_of, hypotheses

TEXTS = [*sentence_lines(3), " ".join(WORDS[:90])]
LABELS = [WORDS[3], f"{WORDS[8]} {WORDS[9]}", WORDS[20]]
TEMPLATE = f"{WORDS[1]} {{}} {WORDS[2]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pair_folder(tmp_path_factory.mktemp("nli") / "model")


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    """The model in ONNX, opened from its folder."""
    with open_model(folder) as opened:
        yield opened


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:1]])
def test_labels_are_scored_as_transformers_does(labels, multi_label, folder, bundle):
    """A text beyond the model's 64 tokens too, which alone is cut."""
    theirs = transformers.pipeline("zero-shot-classification", str(folder))
    found = runtime.load(bundle).zero_shot(TEXTS, labels, TEMPLATE, multi_label)
    options = {"hypothesis_template": TEMPLATE, "multi_label": multi_label}
    for text, mine in zip(TEXTS, found, strict=True):
        expected = theirs(text, candidate_labels=labels, **options)
        assert mine.labels == expected["labels"]
        assert mine.scores == pytest.approx(expected["scores"], abs=1e-4)


def test_the_command(bundle):
    words = ["run", str(bundle.folder), TEXTS[0], "--labels", ", ".join(LABELS)]
    words += ["--hypothesis", TEMPLATE]
    [expected] = runtime.load(bundle).zero_shot(TEXTS[:1], LABELS, TEMPLATE)
    line = CliRunner().invoke(main, words).stdout
    scored = zip(expected.labels, expected.scores, strict=True)
    assert line == "; ".join(f"{label} {score:.3f}" for label, score in scored) + "\n"
    whole = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert whole["labels"] == expected.labels
    assert whole["scores"] == pytest.approx(expected.scores)
    refused = CliRunner().invoke(main, ["run", str(bundle.folder), "a", "--multi-label"])
    assert "name them with --labels" in refused.stderr


def test_http(bundle):
    pytest.importorskip("starlette", reason="the service's extra is not installed")
    from starlette.testclient import TestClient

    from edgeprune.service.app import make_app
    from edgeprune.service.settings import ServiceSettings

    model = runtime.load(bundle, threads=1)
    with TestClient(make_app(model, ServiceSettings()), base_url="http://localhost") as client:
        body = {"texts": TEXTS, "labels": LABELS, "hypothesis_template": TEMPLATE}
        found = client.post("/zero-shot", json=body).json()["predictions"]
        expected = model.zero_shot(TEXTS, LABELS, TEMPLATE)
        assert [each["labels"] for each in found] == [each.labels for each in expected]
        np.testing.assert_allclose(
            [each["scores"] for each in found], [each.scores for each in expected], atol=1e-6
        )
        pair = TEXTS[:2]
        [prediction] = model.classify([tuple(pair)])
        one = client.post("/predict", json={"inputs": pair}).json()
        assert {each["label"]: each["score"] for each in one} == pytest.approx(
            prediction.probabilities
        )
        assert one[0]["label"] == prediction.label
        many = client.post("/predict", json={"inputs": [pair, [TEXTS[0]]], "raw_scores": True})
        logits = model.logits([tuple(pair), TEXTS[0]])
        for row, expected_row in zip(many.json(), logits, strict=True):
            named = {each["label"]: each["score"] for each in row}
            assert [named[name] for name in NAMES] == pytest.approx(expected_row.tolist(), abs=1e-5)
        alone = client.post("/predict", json={"inputs": TEXTS[0]}).json()
        assert alone[0]["label"] == model.classify(TEXTS[:1])[0].label
        classified = client.post("/classify", json={"texts": [TEXTS[0]]}).json()["predictions"]
        assert set(classified[0]) == {"label", "probability", "probabilities"}
        long = client.post("/predict", json={"inputs": TEXTS[3]})
        assert (long.status_code, "may have 64" in long.json()["error"]) == (400, True)
        assert client.post("/predict", json={"inputs": TEXTS[3], "truncate": True}).is_success
        refused = client.post("/zero-shot", json=body | {"hypothesis_template": "no place"})
        assert (refused.status_code, "no place for a label" in refused.json()["error"]) == (
            400,
            True,
        )


def test_what_cannot_be_asked_is_refused(tmp_path):
    model = runtime.load(classifier_folder(tmp_path / "model"))
    with pytest.raises(UserError, match=r"labels are bad, good, so-so: give it a label called"):
        model.zero_shot(["the cat"], ["a"])
    for template in ("none", "{", "{name}"):
        with pytest.raises(UserError, match="has no place for a label"):
            hypotheses(["a"], ["b"], template)
    for labels in ([], [" "]):
        with pytest.raises(UserError, match="needs labels, none of them empty"):
            hypotheses(["a"], labels)
    assert entailment_of(["CONTRADICTION", "Entailment"]) == 1
