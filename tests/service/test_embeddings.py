"""Embeddings in other services' forms: by OpenAI's own client over a socket, and the answers of the
forms beside the runtime's."""

import json

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service's extra is not installed")

from onnx_models import classifier_folder, encoder_folder
from services import process
from starlette.testclient import TestClient

from edgeprune import runtime
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings

TEXTS = ["the cat", "a dog sat on the mat", "far away"]
PROMPTS = {"prompts": {"query": "the mat ", "document": ""}, "default_prompt_name": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = encoder_folder(tmp_path_factory.mktemp("served") / "encoder")
    (made / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
    return made


@pytest.fixture(scope="module")
def model(folder):
    return runtime.load(folder, threads=1)


@pytest.fixture(scope="module")
def client(folder):
    app = make_app(runtime.load(folder, threads=1), ServiceSettings(max_texts=4))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def openai_client(folder):
    openai = pytest.importorskip("openai")
    with process(folder, "--threads", "1", "--max-texts", "4") as (_, address):
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openais_client_gets_the_runtimes_vectors(form, openai_client, model):
    found = openai_client.embeddings.create(model="encoder", input=TEXTS, **form)
    assert [each.index for each in found.data] == [0, 1, 2]
    assert found.model == "encoder"
    vectors = [each.embedding for each in found.data]
    if form.get("encoding_format") == "base64":  # which that client leaves as it is, where asked
        import base64

        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    np.testing.assert_allclose(vectors, model.embed(TEXTS, batch_size=1), rtol=1e-5)
    count = sum(len(tokens.ids) for tokens in model.tokenizer.encode(TEXTS))
    assert found.usage.prompt_tokens == found.usage.total_tokens == count


def test_openais_client_asks_for_one_text_fewer_values_and_a_prompt(openai_client, model):
    [one] = openai_client.embeddings.create(
        model="encoder", input=TEXTS[0], dimensions=3, extra_body={"prompt": "query"}
    ).data
    expected = unit(model.embed(TEXTS[:1], prompt="query")[:, :3])[0]
    np.testing.assert_allclose(one.embedding, expected, rtol=1e-5)


def test_openais_client_lists_the_model(openai_client):
    [listed] = openai_client.models.list().data
    assert listed.id == "encoder"
    assert openai_client.models.retrieve("encoder") == listed


def test_openais_client_raises_its_own_errors(openai_client):
    import openai

    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.embeddings.create(model="text-embedding-3-small", input="a")
    assert missing.value.code == "model_not_found"
    assert "ask for 'encoder'" in missing.value.message
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("other")
    for wrong, words in (
        ({"input": TEXTS * 2}, "6 texts; one request takes 4"),
        ({"input": "a", "dimensions": 5000}, "dimensions is 5000; the model's vectors have"),
        ({"input": [1, 2]}, "input"),
        ({"input": ""}, None),
        ({"input": "a", "extra_body": {"prompt": "no"}}, "its prompts are query, document"),
    ):
        if words is None:
            openai_client.embeddings.create(model="encoder", **wrong)
            continue
        with pytest.raises(openai.BadRequestError) as bad:
            openai_client.embeddings.create(model="encoder", **wrong)
        assert bad.value.type == "invalid_request_error"
        assert words in bad.value.message


def test_a_model_of_another_task_refuses_in_openais_form(tmp_path):
    app = make_app(runtime.load(classifier_folder(tmp_path / "c")), ServiceSettings())
    with TestClient(app, base_url="http://localhost") as opened:
        found = opened.post("/v1/embeddings", json={"model": "c", "input": "a"})
        assert opened.get("/v1/models").json()["data"][0]["id"] == "c"
    assert found.status_code == 404
    assert found.json()["error"]["message"].startswith("This bundle is for text-classification")


def test_prompts_by_name_are_the_runtimes(client, model):
    found = client.post("/embed", json={"texts": TEXTS, "prompt": "query"}).json()["embeddings"]
    expected = model.embed(TEXTS, batch_size=1, prompt="query")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(expected - model.embed(TEXTS, batch_size=1)).max() > 1e-3
    unknown = client.post("/embed", json={"texts": TEXTS, "prompt": "no"})
    assert unknown.status_code == 400
    assert "its prompts are query, document" in unknown.json()["error"]


@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0]])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_form_of_text_embeddings_inference(inputs, normalize, client, model):
    """A list of lists, of length 1 unless that is declined."""
    asked = {"inputs": inputs, "normalize": normalize, "prompt_name": "query"}
    found = client.post("/embed", json=asked)
    texts = [inputs] if isinstance(inputs, str) else inputs
    expected = model.embed(texts, batch_size=1, prompt="query")
    expected = unit(expected) if normalize else expected
    np.testing.assert_allclose(found.json(), expected, rtol=1e-5)
    assert client.post("/embed", json={**asked, "truncate": True}).status_code == 400
