"""Drafts from the text itself: the same text as without, and no more lost than is allowed."""

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_models import VOCABULARY, decoder_folder

from edgeprune import runtime
from edgeprune.runtime import lookup
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.lookup import Lookup
from edgeprune.runtime.names import ROW_INVARIANT
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling

TOKENS = st.integers(0, len(VOCABULARY) - 1)


def invariant(folder: Path, shared: bool) -> Path:
    """A decoder whose graph says that a token's logits do not depend on the others of its call."""
    decoder_folder(folder, shared=shared, max_position_embeddings=400, eos_token_id=99)
    model = onnx.load(folder / "model.onnx")
    stated = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**stated, ROW_INVARIANT: "yes"})
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["grown", "shared"])
def model(request, tmp_path_factory) -> Generator:
    return runtime.load(invariant(tmp_path_factory.mktemp("d"), request.param), threads=1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(TOKENS, min_size=1, max_size=40),
    st.integers(1, 60),
    st.sampled_from([{}, {"temperature": 1.5, "seed": 3}, {"repetition_penalty": 1.3}]),
)
def test_texts_are_those_of_the_plain_loop(model, prompt, count, asked) -> None:
    plain = model.generate_ids(prompt, Sampling(max_tokens=count, lookup="off", **asked))
    drafted = model.generate_ids(prompt, Sampling(max_tokens=count, **asked))
    assert list(drafted) == list(plain)


def test_a_text_that_repeats_takes_fewer_calls(model, monkeypatch) -> None:
    calls: list[int] = []
    read = Reading.read

    def counted(self: Reading, ids: list[int], rows: int = 1):
        calls.append(rows)
        return read(self, ids, rows)

    monkeypatch.setattr(Reading, "read", counted)
    reading = Reading(model.decoder)
    answer = model.answer([1, 5, 6], Sampling(max_tokens=120), reading)
    assert answer.tokens == 0
    list(answer)
    assert answer.tokens == 120
    # This model soon says the same word for ever.
    assert len(calls) < 60
    assert max(calls) == 8
    # What was refused is not in the cache.
    assert reading.ids == [1, 5, 6, *list(model.generate_ids([1, 5, 6], Sampling(max_tokens=119)))]


def test_a_graph_that_does_not_say_so_drafts_nothing(tmp_path) -> None:
    assert not runtime.load(decoder_folder(tmp_path), 1).decoder.drafts


@given(st.lists(TOKENS, min_size=1, max_size=200), st.data())
def test_refusals_cost_no_more_than_is_allowed(text: list[int], data: st.DataObject) -> None:
    """Counted anew: a row at its price, 2 % of the tokens and what was gained to pay it with."""
    drafts, lost, gained = Lookup(text[:1]), 0.0, 0.0
    for token in text[1:]:
        drafted = drafts.draft()
        assert len(drafted) <= 7
        accepted = data.draw(st.integers(0, len(drafted))) if drafted else 0
        for each in [*drafted[:accepted], token]:
            drafts.add(each)
        drafts.learn(len(drafted), accepted)
        lost += lookup._ROW * len(drafted)
        gained += accepted + lookup._LOSS * (1 + accepted)
        assert lost <= gained + 1e-6


def test_a_draft_is_what_followed_the_last_time() -> None:
    drafts = Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert drafts.draft() == []  # nothing is paid for yet
    for _ in range(30):
        drafts.learn(0, 0)
    assert drafts.draft() == [4, 5, 9, 1]
    drafts.learn(4, 4)
    assert drafts.draft() == [4, 5, 9, 1, 2, 3, 4]
    drafts.add(7)
    assert drafts.draft() == []
