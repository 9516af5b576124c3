"""A reranker's paths: this service's, text-embeddings-inference's and Cohere's."""

import json

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service's extra is not installed")

from click.testing import CliRunner
from onnx_models import classifier_folder
from starlette.testclient import TestClient

from edgeprune import runtime
from edgeprune.cli import main
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings

TEXTS = ["the cat", "a dog sat on the mat", "far away", "ran ran"]
QUERY = "the dog"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifier_folder(tmp_path_factory.mktemp("served") / "ranker", labels=("score",))


@pytest.fixture(scope="module")
def client(folder):
    app = make_app(runtime.load(folder, threads=1), ServiceSettings(max_texts=4, max_tokens=12))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def logits(folder) -> np.ndarray:
    return runtime.load(folder).logits([(QUERY, text) for text in TEXTS])[:, 0]


def test_scores_of_texts_and_pairs(client, folder, logits):
    texts = ["the cat", {"text": QUERY, "text_pair": TEXTS[1]}]
    found = client.post("/score", json={"texts": texts}).json()["predictions"]
    expected = runtime.load(folder).score(["the cat", (QUERY, TEXTS[1])])
    assert [each["score"] for each in found] == pytest.approx(expected, abs=1e-6)
    assert found[1]["logit"] == pytest.approx(logits[1], abs=1e-5)


@pytest.mark.parametrize("raw", [False, True])
def test_the_form_of_text_embeddings_inference(raw, client, logits):
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": raw, "return_text": True}
    found = client.post("/rerank", json=body).json()
    order = np.argsort(-logits).tolist()
    scores = logits if raw else 1 / (1 + np.exp(-logits))
    assert [each["index"] for each in found] == order
    assert [each["score"] for each in found] == pytest.approx(scores[order], abs=1e-5)
    assert [each["text"] for each in found] == [TEXTS[index] for index in order]
    [least, *_] = client.post("/rerank", json={"query": QUERY, "texts": TEXTS}).json()
    assert set(least) == {"index", "score"}


def test_the_form_of_cohere(client, folder, logits):
    body = {
        "model": folder.name,
        "query": QUERY,
        "documents": [*TEXTS[:3], {"text": TEXTS[3]}],
        "top_n": 2,
        "return_documents": True,
    }
    found = client.post("/v1/rerank", json=body).json()
    order = np.argsort(-logits).tolist()[:2]
    assert [each["index"] for each in found["results"]] == order
    expected = (1 / (1 + np.exp(-logits)))[order]
    assert [each["relevance_score"] for each in found["results"]] == pytest.approx(expected)
    assert [each["document"] for each in found["results"]] == [{"text": TEXTS[n]} for n in order]
    del body["return_documents"], body["top_n"], body["model"]
    found = client.post("/v1/rerank", json=body).json()
    assert [set(each) for each in found["results"]] == [{"index", "relevance_score"}] * 4


def test_long_documents_are_cut_on_request_and_always_for_cohere(client, folder):
    long = " ".join(["cat dog mat"] * 9)
    refused = client.post("/rerank", json={"query": QUERY, "texts": [long]})
    assert (refused.status_code, "may have 12" in refused.json()["error"]) == (400, True)
    model = runtime.load(folder)
    model.tokenizer.max_length = 12
    [expected] = model.score([(QUERY, long)])
    cut = client.post("/rerank", json={"query": QUERY, "texts": [long], "truncate": True}).json()
    assert cut[0]["score"] == pytest.approx(expected, abs=1e-6)
    cohere = client.post("/v1/rerank", json={"query": QUERY, "documents": [long]}).json()
    assert cohere["results"][0]["relevance_score"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/rerank", {"query": "a", "texts": []}, 400),
        ("/rerank", {"query": "a", "texts": ["b"] * 5}, 400),
        ("/rerank", {"texts": ["b"]}, 400),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 400),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "model": "other"}, 404),
        ("/embed", {"texts": ["b"]}, 404),
    ],
)
def test_other_bodies_are_refused(path, body, status, client):
    assert client.post(path, json=body).status_code == status


def test_the_command_ranks_a_file(folder, tmp_path):
    (tmp_path / "documents.txt").write_text("\n".join(TEXTS))
    words = ["run", str(folder), QUERY, "--documents", str(tmp_path / "documents.txt")]
    ranked = runtime.load(folder).rank(QUERY, TEXTS)
    lines = CliRunner().invoke(main, words).stdout.splitlines()
    assert lines == [f"{each.score:.6g} {each.index + 1} {each.document}" for each in ranked]
    rows = [
        json.loads(line)
        for line in CliRunner().invoke(main, [*words, "--json"]).stdout.splitlines()
    ]
    assert [(row["rank"], row["index"]) for row in rows] == [
        (n, each.index) for n, each in enumerate(ranked, start=1)
    ]
    other = classifier_folder(tmp_path / "classifier")
    refused = CliRunner().invoke(main, ["run", str(other), *words[2:]])
    assert "which knows no --documents: leave it out" in refused.stderr
