"""Text in OpenAI's form, by its own client over a socket, beside the runtime's answers."""

import json

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service's extra is not installed")

from onnx_models import VOCABULARY, chatting_folder, decoder_logits
from services import process
from starlette.testclient import TestClient

from edgeprune import runtime
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.sampling import Sampler, Sampling
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings
from edgeprune.service.streamer import Readings

TEMPLATE = (
    "{% if tools %}{{ tools[0].function.name }} {% endif %}"
    "{% for m in messages %}{{ m.content }} "
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments.word }} {% endfor %}{% endfor %}"
)
CHAT = [{"role": "system", "content": "the mat"}, {"role": "user", "content": "cat sat"}]
TOOLS = [{"type": "function", "function": {"name": "dog", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chatting_folder(tmp_path_factory.mktemp("served") / "tiny", TEMPLATE)


@pytest.fixture(scope="module")
def model(folder) -> Generator:
    return runtime.load(folder, threads=1)


@pytest.fixture(scope="module")
def client(folder):
    openai = pytest.importorskip("openai")
    with process(folder, "--threads", "1", "--max-new-tokens", "20") as (_, address):
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def expected(model: Generator, **asked) -> str:
    return "".join(model.chat(CHAT, Sampling(**asked)))


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_chat_is_the_runtimes(client, model, limit):
    found = client.chat.completions.create(model="tiny", messages=CHAT, **{limit: 6})
    [choice] = found.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected(model, max_tokens=6)
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "length"
    assert found.object == "chat.completion"
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 6, 10)


def test_a_chat_streams(client, model):
    asked = {"model": "tiny", "messages": CHAT, "max_tokens": 6, "stream": True}
    first, *chunks = client.chat.completions.create(**asked, stream_options={"include_usage": True})
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    *pieces, end, usage = chunks
    text = "".join(chunk.choices[0].delta.content for chunk in pieces)
    assert (len(pieces), text) == (6, expected(model, max_tokens=6))
    assert end.choices[0].finish_reason == "length"
    assert (usage.choices, usage.usage.total_tokens) == ([], 10)
    assert all(chunk.usage is None for chunk in [first, *pieces, end])
    assert len({chunk.id for chunk in [first, *chunks]}) == 1
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**asked))


def test_stop_seed_and_sampling_are_the_runtimes(client, model):
    words = expected(model, max_tokens=12).split()
    stop = f"{words[2]} {words[3][:1]}"
    found = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=12, stop=[stop, "?"]
    ).choices[0]
    assert found.message.content == expected(model, max_tokens=12).partition(stop)[0]
    assert found.finish_reason == "stop"
    asked = {"temperature": 2.0, "top_p": 0.9, "seed": 7, "frequency_penalty": 0.5}
    more = {"top_k": 9, "min_p": 0.01}
    sampled = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=9, extra_body=more, logit_bias={"5": 1}, **asked
    )
    own = expected(model, max_tokens=9, logit_bias={5: 1}, **asked, **more)
    assert sampled.choices[0].message.content == own
    drawn = {
        client.completions.create(model="tiny", prompt="cat", temperature=2.0).choices[0].text
        for _ in range(4)
    }
    assert len(drawn) > 1  # without a seed, one is drawn


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_the_models(client, model, stream):
    found = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=5, logprobs=True, top_logprobs=2, stream=stream
    )
    choices = [chunk.choices[0] for chunk in found] if stream else found.choices
    told = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    ids = [*model.chat_ids(CHAT), *model.generate_ids(model.chat_ids(CHAT), Sampling(max_tokens=5))]
    assert len(told) == 5
    for place, token in enumerate(told, start=4):
        logits = decoder_logits(ids[:place])[-1].astype(np.float64)
        logs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        assert token.token.strip() == VOCABULARY[ids[place]]
        assert bytes(token.bytes).decode() == token.token
        assert token.logprob == pytest.approx(logs[ids[place]], abs=1e-5)
        best = [VOCABULARY[each] for each in np.argsort(-logs)[:2]]
        special = {"[PAD]", "[CLS]", "[SEP]", "[UNK]"}  # which have no text
        shown = [each.token.strip() for each in token.top_logprobs]
        assert shown == ["" if each in special else each for each in best]


def test_a_text_is_continued(client, model):
    own = "".join(model.complete("the cat", Sampling(max_tokens=7)))
    for prompt in ("the cat", ["the cat"], model.tokenizer.ids("the cat")):
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=7, logprobs=2)
        assert found.choices[0].text == own
        assert len(found.choices[0].logprobs.tokens) == 7
    chunks = list(client.completions.create(model="tiny", prompt="the cat", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "".join(
        model.complete("the cat", Sampling(max_tokens=16))
    )
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_next_turn_reads_only_what_is_new(client, model):
    chat = [{"role": "user", "content": "far away the dog ran on a mat"}]
    first = client.chat.completions.create(model="tiny", messages=chat, max_tokens=4)
    chat += [first.choices[0].message, {"role": "user", "content": "sat"}]
    second = client.chat.completions.create(model="tiny", messages=chat, max_tokens=4)
    # All but the last word of the answer, which was never read.
    assert second.usage.prompt_tokens_details.cached_tokens == 8 + 3
    plain = [each if isinstance(each, dict) else each.model_dump() for each in chat]
    assert second.choices[0].message.content == "".join(model.chat(plain, Sampling(max_tokens=4)))


def test_the_clients_own_errors(client):
    import openai

    make = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        make(model="gpt-4o", messages=CHAT)
    assert missing.value.code == "model_not_found"
    for wrong, words in (
        ({"max_tokens": 21}, "max_completion_tokens is 21; one request may have 20"),
        ({"n": 2}, "n: Input should be 1"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"99": 1}}, "logit_bias names the tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            make(**{"model": "tiny", "messages": CHAT, **wrong})
        assert bad.value.type == "invalid_request_error"
        assert words in bad.value.message
    with pytest.raises(openai.BadRequestError) as long:
        make(model="tiny", messages=[{"role": "user", "content": "cat " * 99}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="beyond the model's vocabulary"):
        client.completions.create(model="tiny", prompt=[99])


# Tools, with a model that says what it is told to -------------------------------------------------


class Saying:
    """A tokenizer that reads every id as a part of one text."""

    def __init__(self, real, said: list[str]) -> None:
        self._real, self._said = real, said

    def __getattr__(self, name):
        return getattr(self._real, name)

    def text(self, ids):
        return "".join(self._said[each] for each in ids)


@pytest.fixture
def saying(folder, monkeypatch):
    """A service whose model writes a text of three words and ends."""

    def make(*words: str) -> TestClient:
        model = runtime.load(folder, threads=1)

        def next_of(self, logits):
            self.said = getattr(self, "said", 4) + 1
            return self.said

        app = make_app(model, ServiceSettings())
        monkeypatch.setattr(Sampler, "choose", next_of)  # 5, 6, 7, and the end
        monkeypatch.setattr(model, "stop_ids", frozenset({8}))
        said = [""] * 5 + [*words] + [""] * 9
        monkeypatch.setattr(model, "tokenizer", Saying(model.tokenizer, said))
        return TestClient(app, base_url="http://localhost")

    return make


def chunks_of(text: str) -> list[dict]:
    blocks = [each.removeprefix("data: ") for each in text.removesuffix("\n\n").split("\n\n")]
    assert blocks.pop() == "[DONE]"
    return [json.loads(each) for each in blocks]


ASKED = {"model": "tiny", "messages": CHAT, "tools": TOOLS}


def test_calls_of_tools_are_read_back(saying):
    words = ("Well. <tool", '_call>{"name": "dog", "arguments": ', '{"word": "ran"}}</tool_call>')
    with saying(*words) as client:
        found = client.post("/v1/chat/completions", json=ASKED).json()
        streamed = client.post("/v1/chat/completions", json={**ASKED, "stream": True}).text
    [choice] = found["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Well."
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"] == {"name": "dog", "arguments": '{"word": "ran"}'}
    assert call["id"].isalnum()
    assert len(call["id"]) == 9
    deltas = [chunk["choices"][0] for chunk in chunks_of(streamed)]
    assert "".join(each["delta"].get("content", "") for each in deltas) == "Well. "
    [called] = [each["delta"]["tool_calls"] for each in deltas if "tool_calls" in each["delta"]]
    assert called[0]["index"] == 0
    assert called[0]["function"] == call["function"]
    assert deltas[-1]["finish_reason"] == "tool_calls"


def test_what_only_looks_like_a_call_is_text(saying):
    with saying("{", '"name": "other"', "}") as client:
        found = client.post("/v1/chat/completions", json=ASKED).json()["choices"][0]
        streamed = client.post("/v1/chat/completions", json={**ASKED, "stream": True}).text
    assert found["message"]["content"] == '{"name": "other"}'
    assert found["finish_reason"] == "stop"
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(streamed)]
    assert "".join(texts) == '{"name": "other"}'


def test_tools_and_their_answers_go_through_the_template(client, model):
    call = {"id": "abc", "type": "function"}
    call |= {"function": {"name": "dog", "arguments": '{"word": "ran"}'}}
    chat = [CHAT[1], {"role": "assistant", "content": None, "tool_calls": [call]}]
    chat.append({"role": "tool", "tool_call_id": "abc", "content": "far"})
    found = client.chat.completions.create(model="tiny", messages=chat, tools=TOOLS, max_tokens=3)
    own = "".join(model.complete("dog cat sat ran far", Sampling(max_tokens=3)))
    assert found.choices[0].message.content == own
    assert found.usage.prompt_tokens == 5
    none = client.chat.completions.create(
        model="tiny", messages=chat, tools=TOOLS, tool_choice="none", max_tokens=3
    )
    assert none.usage.prompt_tokens == 4


def test_a_template_that_tells_no_tools_refuses_them(folder):
    model = runtime.load(folder, threads=1)
    model.bundle.tokenizer_config["chat_template"] = "{{ messages[0].content }}"
    with TestClient(make_app(model, ServiceSettings()), base_url="http://localhost") as client:
        found = client.post("/v1/chat/completions", json=ASKED)
    assert found.status_code == 400
    assert "tells no tools" in found.json()["error"]["message"]


def test_the_store_of_caches_is_bounded_and_keeps_what_was_used_last(model):
    store = Readings(model, 2)
    for prompt in ([4, 5, 6], [7, 8, 9], [10, 11, 12]):
        reading = store.take(prompt)
        assert reading.ids == []
        reading.read(prompt)
        store.give(reading)
    assert store.take([4, 5, 6, 4]).ids == []  # the oldest has left
    shared = store.take([7, 8, 4])
    assert shared.ids == [7, 8]
    whole = store.take([7, 8, 9, 5])  # a copy went out above, so all of it is still there
    assert whole.ids == [7, 8, 9]
    assert store.take([7, 8, 9, 5]).ids == []  # and now it goes on elsewhere
    none = Readings(model, 0)
    none.give(whole)
    assert none.take([7, 8, 9, 5]).ids == []
