"""Bodies that would fail, or cost more than a request may."""

import pytest
from paired_models import pair_folder
from starlette.testclient import TestClient
from tiny_builds import model_folder

import edgeprune
from edgeprune.export.opened import open_model
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Of a classifier of pairs and of an encoder that fills in."""
    place = tmp_path_factory.mktemp("misuse")
    pair_folder(place / "pairs")
    model_folder(place / "filler", "bert-filler")
    with open_model(place / "pairs") as pairs, open_model(place / "filler") as filler:
        apps = [make_app(edgeprune.load(each, 1), ServiceSettings()) for each in (pairs, filler)]
        with (
            TestClient(apps[0], "http://localhost") as first,
            TestClient(apps[1], "http://localhost") as second,
        ):
            yield first, second


def test_an_empty_text_is_predicted(clients):
    answer = clients[0].post("/predict", json={"inputs": ""})
    assert answer.json() == clients[0].post("/predict", json={"inputs": [""]}).json()
    assert answer.is_success


def test_labels_of_many_texts_are_counted_before_they_are_paired(clients, monkeypatch):
    monkeypatch.setattr("edgeprune.service.predicting.hypotheses", None)
    body = {"texts": ["a"] * 40_000, "labels": ["b"] * 40_000}
    refused = clients[0].post("/zero-shot", json=body)
    assert (refused.status_code, "1600000000 texts" in refused.json()["error"]) == (400, True)


def test_fills_are_counted(clients):
    body = {"texts": ["[MASK] " * 40] * 64, "top_k": 1000}
    refused = clients[1].post("/fill", json=body)
    assert (refused.status_code, "lower top_k" in refused.json()["error"]) == (400, True)
    assert clients[1].post("/fill", json=body | {"top_k": 3}).is_success


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/classify", {"texts": ["a", 3]}, "texts.1: Input should be a valid string; or texts.1: "),
        ("/classify", {"texts": [{"text": 1}]}, "valid string; or texts.0.text: Input should be"),
        ("/classify", {"texts": [{"txt": "a"}]}, "valid string; or texts.0.text: Field required"),
        ("/predict", {"inputs": 5}, "valid string; or inputs: Input should be a valid array"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "at most 2 items after validation, not 3; or"),
        ("/classify", {}, "takes: texts: Field required."),
        ("/classify", {"texts": ["a"], "more": 1}, "takes: more: Extra inputs are not permitted."),
    ],
)
def test_every_form_that_a_body_may_have_is_told(path, body, words, clients):
    refused = clients[0].post(path, json=body)
    assert (refused.status_code, words in refused.json()["error"]) == (400, True), refused.json()
