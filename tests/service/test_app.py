"""The paths' answers beside the runtime's own, and everything that is refused."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from socket import gethostname

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service's extra is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    WORDS,
    classifier_folder,
    decoder_folder,
    encoder_folder,
    ids_of,
    poison,
)
from starlette.testclient import TestClient

from edgeprune import runtime
from edgeprune.runtime.sampling import Sampling
from edgeprune.service.app import make_app
from edgeprune.service.callers import Callers
from edgeprune.service.settings import ServiceSettings

LIMITS = ServiceSettings(
    max_body_bytes=4000, max_texts=3, max_tokens=12, max_new_tokens=20, max_waiting=3
)
JSON = {"Content-Type": "application/json"}
TEXTS = ["the cat", "a dog sat on the mat", "far away"]


def client_of(app) -> TestClient:
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


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
    opened = {name: client_of(app).__enter__() for name, app in apps.items()}
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
    found = clients[task].post(path, content=content, headers=JSON)
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
    with client_of(make_app(model, LIMITS)) as client:
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
    with client_of(app) as client:
        first = client.post("/embed", json={"texts": ["the cat"]})
        assert (first.status_code, first.json()["error"][-1]) == (500, ".")
        assert "graph" not in first.text
        assert client.post("/embed", json={"texts": ["the cat"]}).status_code == 200


def test_too_many_texts_for_the_line_is_503_with_a_time_to_come_again(folders):
    tight = LIMITS.model_copy(update={"max_waiting": 1})
    with client_of(make_app(runtime.load(folders["embed"], threads=1), tight)) as client:
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

    with client_of(make_app(runtime.load(folders["embed"], threads=1), LIMITS)) as client:
        client.post("/embed", json={"texts": ["the cat", "a dog sat"]})
        client.post("/embed", content=b"?", headers=JSON)
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


# Who may ask --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
     "", "[::1", "x@localhost", "::1"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/embed", "/health", "/metrics", "/elsewhere"])
def test_by_a_name_that_is_not_its_own_nothing_answers(clients, host, path):
    ask = clients["embed"].post if path == "/embed" else clients["embed"].get
    found = ask(path, headers={"Host": host})
    assert found.status_code == 421
    assert re.fullmatch(r"[^\n]+--allowed-host[^\n]+\.", found.json()["error"])


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "localhost.", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000",
     "192.168.1.7:8000", "edge.example", "edge.example:80",
     gethostname(), f"{gethostname()}.local"],
)  # fmt: skip
def test_by_its_own_names_and_addresses_it_answers(folders, host):
    named = LIMITS.model_copy(update={"allowed_host": ("Edge.example",)})
    client = client_of(make_app(runtime.load(folders["embed"], threads=1), named))
    assert client.get("/health", headers={"Host": host}).status_code == 200


@given(st.text(st.characters(max_codepoint=255)))
def test_no_other_host_is_taken_for_an_own_one(name):
    scope = {"method": "GET", "path": "/health", "http_version": "1.1"}
    host = (b"host", f"evil.example{name}".encode("latin-1"))
    assert Callers(LIMITS).refused({**scope, "headers": [host]}).status_code == 421


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "text/plain; application/json", "application/jsonx", "text/plain, application/json"],
)  # fmt: skip
def test_a_body_that_a_page_may_send_anywhere_is_refused(clients, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    found = clients["embed"].post("/embed", content=body(texts=["the cat"]), headers=headers)
    assert found.status_code == 415
    assert "application/json" in found.json()["error"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_by_any_of_its_spellings_is_taken(clients, kind):
    headers = {"Content-Type": kind}
    found = clients["embed"].post("/embed", content=body(texts=["the cat"]), headers=headers)
    assert found.status_code == 200


def test_no_page_is_allowed_to_ask(clients):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    found = clients["embed"].options("/embed", headers=asked)
    assert found.status_code == 405
    assert not any(name.startswith("access-control") for name in found.headers)


# Values that are no numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("task", ["embed", "classify"])
def test_an_answer_that_is_no_number_is_500_and_its_neighbours_are_answered(tmp_path, task, value):
    make = {"embed": encoder_folder, "classify": classifier_folder}[task]
    folder = poison(make(tmp_path / "bad"), "table", ids_of("cat")[1:-1], value)
    right = runtime.load(make(tmp_path / "good"), threads=1)
    # An idle model waits for all three requests, so that they run in one call.
    together = LIMITS.model_copy(update={"max_wait_ms": 10_000, "max_batch": 3})
    with client_of(make_app(runtime.load(folder, threads=1), together)) as client:
        with ThreadPoolExecutor(3) as pool:
            asked = [{"texts": [text]} for text in ("the dog", "the cat", "far away")]
            found = list(pool.map(lambda each: client.post(f"/{task}", json=each), asked))
        counted = client.get("/metrics").text
    assert [answer.status_code for answer in found] == [200, 500, 200]
    assert "produced NaN or infinite" in found[1].json()["error"]
    assert str(tmp_path) not in found[1].text
    assert re.search(r"^edgeprune_model_faults_total 1\.0$", counted, re.M)
    if task == "embed":
        vectors = [found[0].json()["embeddings"][0], found[2].json()["embeddings"][0]]
        np.testing.assert_allclose(vectors, right.embed(["the dog", "far away"]), rtol=1e-5)


@pytest.mark.parametrize("stream", [True, False])
def test_a_decoder_without_numbers_is_500_before_the_first_word(tmp_path, stream):
    folder = poison(decoder_folder(tmp_path / "d"), "table", ids_of("cat")[1:-1])
    with client_of(make_app(runtime.load(folder, threads=1), LIMITS)) as client:
        found = client.post("/generate", json={"prompt": "the cat", "stream": stream})
    assert found.status_code == 500
    assert "produced NaN or infinite" in found.json()["error"]


def test_a_decoder_that_fails_midway_ends_its_stream_with_a_sentence(tmp_path, models):
    firsts = {
        word: next(models["generate"].generate_ids(ids_of(word), Sampling(max_tokens=1)))
        for word in WORDS
    }
    prompt, first = next(each for each in firsts.items() if each[1] not in ids_of(each[0]))
    folder = poison(decoder_folder(tmp_path / "d"), "table", first)
    with client_of(make_app(runtime.load(folder, threads=1), LIMITS)) as client:
        found = client.post("/generate", json={"prompt": prompt, "max_tokens": 9})
        counted = client.get("/metrics").text
    [(_, text), (name, data)] = events(found.text)
    assert text == {"text": models["generate"].tokenizer.text([first])}
    assert (name, list(data)) == ("error", ["error"])
    assert re.search(r"^edgeprune_model_faults_total 1\.0$", counted, re.M)
