"""The paths' answers beside the runtime's own, and everything that is refused."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service's extra is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import WORDS, classifier_folder, decoder_folder, encoder_folder
from starlette.testclient import TestClient

from edgeprune import runtime
from edgeprune.runtime.generate import Sampling
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings

LIMITS = ServiceSettings(
    max_body_bytes=4000, max_texts=3, max_tokens=12, max_new_tokens=20, max_waiting=3
)
TEXTS = ["the cat", "a dog sat on the mat", "far away"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("served")
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    decoder = decoder_folder(base / "decoder")
    (decoder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return {
        "embed": encoder_folder(base / "encoder"),
        "classify": classifier_folder(base / "classifier"),
        "generate": decoder,
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: runtime.load(folder, threads=1) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def clients(folders):
    apps = {n: make_app(runtime.load(f, threads=1), LIMITS) for n, f in folders.items()}
    opened = {name: TestClient(app).__enter__() for name, app in apps.items()}
    yield opened
    for client in opened.values():
        client.__exit__(None, None, None)


def events(body: str) -> list[tuple[str, dict]]:
    """(name, data) of each server-sent event, by the standard's own rules."""
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_embeddings_are_the_runtimes(clients, models):
    found = clients["embed"].post("/embed", json={"texts": TEXTS})
    assert found.status_code == 200
    expected = models["embed"].embed(TEXTS, batch_size=1)
    np.testing.assert_allclose(found.json()["embeddings"], expected, rtol=1e-5)


def test_predictions_are_the_runtimes(clients, models):
    found = clients["classify"].post("/classify", json={"texts": TEXTS}).json()["predictions"]
    expected = models["classify"].classify(TEXTS, batch_size=1)
    assert [row["label"] for row in found] == [row.label for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row["probabilities"] == pytest.approx(other.probabilities)
        assert row["probability"] == pytest.approx(other.probability)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3, "top_p": 0.9}])
def test_streams_and_whole_texts_are_the_runtimes(clients, models, sampling):
    asked = {"prompt": "the cat", "max_tokens": 9, **sampling}
    pieces = list(models["generate"].complete("the cat", Sampling(max_tokens=9, **sampling)))
    assert len(pieces) == 9
    streamed = clients["generate"].post("/generate", json=asked)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *texts, end = events(streamed.text)
    assert [data["text"] for _, data in texts] == pieces
    assert end == ("end", {"tokens": 9, "reason": "length"})
    whole = clients["generate"].post("/generate", json={**asked, "stream": False})
    assert whole.json() == {"text": "".join(pieces), "tokens": 9, "reason": "length"}


def test_a_chat_goes_through_the_bundles_template(clients, models):
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    asked = {"messages": chat, "max_tokens": 5, "stream": False}
    found = clients["generate"].post("/generate", json=asked).json()
    assert found["text"] == "".join(models["generate"].chat(chat, Sampling(max_tokens=5)))


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=10), min_size=1, max_size=3))
def test_any_texts_get_the_runtimes_answers(clients, models, sentences):
    texts = [" ".join(words) for words in sentences]
    found = clients["embed"].post("/embed", json={"texts": texts}).json()["embeddings"]
    np.testing.assert_allclose(found, models["embed"].embed(texts, batch_size=1), rtol=1e-4)


def body(**fields) -> bytes:
    return json.dumps(fields).encode()


REFUSED = {
    "no JSON": ("embed", b"{", 400, "not what this path takes"),
    "not UTF-8": ("embed", b'{"texts": ["\xff"]}', 400, "not what this path takes"),
    "half a surrogate": ("embed", b'{"texts": ["\\ud800"]}', 400, "not what this path takes"),
    "nothing": ("embed", b"", 400, "not what this path takes"),
    "another type": ("embed", b'"text"', 400, "not what this path takes"),
    "no texts": ("embed", body(), 400, "texts: Field required"),
    "an empty list": ("embed", body(texts=[]), 400, "texts"),
    "numbers": ("embed", body(texts=[3]), 400, "texts.0"),
    "unknown field": ("embed", body(texts=["a"], text="a"), 400, "text: Extra"),
    "nested deep": ("embed", b"[" * 3000, 400, "not what this path takes"),
    "many texts": ("embed", body(texts=["a"] * 4), 400, "4 texts; one request takes 3"),
    "a long text": ("embed", body(texts=["a", "a " * 11]), 400, "Text 2 has 13 tokens"),
    "a large body": ("embed", body(texts=["a " * 3000]), 413, "larger than 4,000 bytes"),
    "another task": ("embed", body(texts=["a"]), 404, "its path is /embed"),
    "many words": ("generate", body(prompt="a", max_tokens=21), 400, "may have 20"),
    "a long prompt": ("generate", body(prompt="a " * 20), 400, "The prompt has 22 tokens"),
    "neither": ("generate", body(), 400, "either messages or prompt"),
    "both": ("generate", body(prompt="a", messages=[]), 400, "either messages or prompt"),
    "no prompt": ("generate", body(messages=[]), 400, "no tokens"),
    "text for a number": ("generate", body(prompt="a", max_tokens="3"), 400, "max_tokens"),
    "a bad setting": ("generate", body(prompt="a", temperature=-1), 400, "temperature"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(clients, case):
    task, content, status, words = REFUSED[case]
    path = "/classify" if case == "another task" else f"/{task}"
    found = clients[task].post(path, content=content)
    assert found.status_code == status, found.text
    sentence = found.json()["error"]
    assert words in sentence
    assert re.fullmatch(r"[^\n]+\.", sentence)
    assert len(sentence) < 300


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/embed", 405), ("GET", "/x", 404), ("POST", "/", 404)]
)
def test_other_paths_and_methods_are_refused_in_json(clients, method, path, status):
    found = clients["embed"].request(method, path)
    assert found.status_code == status
    assert found.json()["error"].endswith(".")


def test_a_template_that_refuses_is_the_clients_mistake(folders):
    model = runtime.load(folders["generate"], threads=1)
    broken = "{{ raise_exception('user first') }}"
    model.bundle.tokenizer_config["chat_template"] = broken
    with TestClient(make_app(model, LIMITS)) as client:
        found = client.post("/generate", json={"messages": [{"role": "x", "content": "y"}]})
    assert found.status_code == 400
    assert "user first" in found.json()["error"]


def test_a_model_that_fails_is_500_in_a_sentence_and_the_next_request_works(folders):
    model = runtime.load(folders["embed"], threads=1)
    real, calls = model.embed_tokens, []

    def fails_once(*given):
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("a node of the graph failed")
        return real(*given)

    app = make_app(model, LIMITS)
    model.embed_tokens = fails_once
    with TestClient(app, raise_server_exceptions=False) as client:
        first = client.post("/embed", json={"texts": ["the cat"]})
        assert (first.status_code, first.json()["error"][-1]) == (500, ".")
        assert "graph" not in first.text
        assert client.post("/embed", json={"texts": ["the cat"]}).status_code == 200


def test_too_many_texts_for_the_line_is_503_with_a_time_to_come_again(folders):
    tight = LIMITS.model_copy(update={"max_waiting": 1})
    with TestClient(make_app(runtime.load(folders["embed"], threads=1), tight)) as client:
        found = client.post("/embed", json={"texts": ["a", "the"]})
    assert found.status_code == 503
    assert int(found.headers["retry-after"]) >= 1


def test_health_says_what_is_served(clients):
    found = clients["classify"].get("/health").json()
    assert found["status"] == "ok"
    assert found["task"] == "text-classification"
    assert found["path"] == "/classify"
    assert found["bundle"] == "classifier"


def test_metrics_count_requests_batches_and_tokens(folders):
    from prometheus_client.parser import text_string_to_metric_families

    with TestClient(make_app(runtime.load(folders["embed"], threads=1), LIMITS)) as client:
        client.post("/embed", json={"texts": ["the cat", "a dog sat"]})
        client.post("/embed", content=b"?")
        client.get("/health")
        text = client.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["edgeprune_requests_total", "/embed", "200"] == 1
    assert found["edgeprune_requests_total", "/embed", "400"] == 1
    assert not any("/health" in key for key in found)
    assert found["edgeprune_batch_texts_sum",] == 2
    assert found["edgeprune_tokens_total", "read"] == 4 + 5
    assert found["edgeprune_requests_running",] == 0
    assert found["process_resident_memory_bytes",] > 1e6
