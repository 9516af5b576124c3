"""What a cache holds: calls that stay bound, texts that share their beginnings, stop strings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import VOCABULARY, decoder_folder, decoder_logits

from edgeprune import runtime
from edgeprune.runtime import cache, reading
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling

IDS = st.lists(st.integers(0, len(VOCABULARY) - 1), min_size=1, max_size=30)


@pytest.fixture(scope="module", params=[False, True], ids=["grown", "shared"])
def model(request, tmp_path_factory) -> Generator:
    folder = decoder_folder(tmp_path_factory.mktemp("d"), shared=request.param)
    return runtime.load(folder, threads=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=6), st.booleans())
def test_calls_of_any_length_give_the_whole_texts_logits(
    model: Generator, parts: list[list[int]], last_only: bool
) -> None:
    decoding, whole, kept = model.decoder.start(), [], []
    for part in parts:
        whole += part
        logits = decoding.feed(part, last_only)[0]
        kept.append((logits, decoder_logits(whole)[-len(logits) :]))
    # What was returned first is not overwritten by what came later.
    for logits, expected in kept:
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=5), st.data())
def test_a_text_is_read_as_far_as_it_differs(
    model: Generator, texts: list[list[int]], data: st.DataObject
) -> None:
    held = Reading(model.decoder)
    for text in texts:
        begun = [*held.ids[: data.draw(st.integers(0, len(held.ids)))], *text]
        kept = held.keep(begun)
        assert kept == len(held.ids) < len(begun)
        assert held.ids == begun[:kept]
        logits = held.read(begun[kept:])[-1]
        np.testing.assert_allclose(logits, decoder_logits(begun)[-1], atol=1e-4)
        half = len(begun) // 2
        other = held.copy(half)
        more = other.read([3, 4])[-1]
        np.testing.assert_allclose(more, decoder_logits([*begun[:half], 3, 4])[-1], atol=1e-4)
    before = held.read([7])[-1].copy()
    np.testing.assert_allclose(before, decoder_logits([*begun, 7])[-1], atol=1e-4)


def test_a_long_prompt_is_read_in_parts(model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK", 4)
    monkeypatch.setattr(cache, "_ROOM", 3)
    prompt = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 4]
    held = Reading(model.decoder)
    np.testing.assert_allclose(held.read(prompt)[-1], decoder_logits(prompt)[-1], atol=1e-4)
    assert held.ids == prompt


def test_an_answer_goes_on_with_what_was_read(model: Generator) -> None:
    held = Reading(model.decoder)
    first = model.answer([1, 5, 6], Sampling(max_tokens=4), held)
    assert first.kept == 0
    said = "".join(piece.text for piece in first)
    assert (first.tokens, first.reason, len(said.split())) == (4, "length", 4)
    longer = [*held.ids, 9, 9]
    again = model.answer(longer, Sampling(max_tokens=4), held)
    assert again.kept == 6
    fresh = list(model.generate_ids(longer, Sampling(max_tokens=4)))
    assert "".join(piece.text for piece in again) == "".join(
        piece.text for piece in model.answer(longer, Sampling(max_tokens=4))
    )
    assert held.ids == [*longer, *fresh[:-1]]


def test_an_answer_ends_before_a_stop_string(model: Generator) -> None:
    whole = model.answer([1, 5, 6], Sampling(max_tokens=12))
    words = "".join(piece.text for piece in whole).split()
    # Across the tokens' limits: the end of the third word, and the beginning of the fourth.
    stop = f"{words[2][-1]} {words[3][:1]}"
    answer = model.answer([1, 5, 6], Sampling(max_tokens=12, stop=("?", stop)))
    text = "".join(piece.text for piece in answer)
    assert text == " ".join(words).partition(stop)[0]
    assert answer.reason == "stop"
    assert answer.tokens < 12


def test_log_probabilities_are_told_of_every_token(model: Generator) -> None:
    answer = model.answer([1, 5, 6], Sampling(max_tokens=5), top_logprobs=3)
    tokens = [token for piece in answer for token in piece.tokens]
    ids = [1, 5, 6]
    for token in tokens:
        logits = decoder_logits(ids)[-1].astype(np.float64)
        expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert token.log_probability == pytest.approx(expected[token.id], abs=1e-5)
        best = np.argsort(-expected)[:3]
        assert [each for each, _ in token.likeliest] == best.tolist()
        np.testing.assert_allclose([p for _, p in token.likeliest], expected[best], atol=1e-5)
        ids.append(token.id)
    assert len(tokens) == 5
