"""The next token beside transformers' logits processors, and what OpenAI says of its penalties."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.base.errors import UserError
from edgeprune.runtime.logits import likeliest, log_probabilities, log_softmax, softmax
from edgeprune.runtime.sampling import Sampler, Sampling, choose, own_sampling, weighted

VOCABULARY = 700


def logits_of(seed: int, size: int = VOCABULARY, spread: float = 3.0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).normal(size=size)).astype(np.float32)


def probabilities(scores: np.ndarray, sampling: Sampling) -> np.ndarray:
    ids, weights = weighted(scores, sampling)
    found = np.zeros(len(scores))
    found[slice(None) if ids is None else ids] = weights / weights.sum(dtype=np.float64)
    return found


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.05, 5),
        "top_k": st.sampled_from([1, 2, 7, 50, 699, 2000]),
        "top_p": st.floats(0.01, 0.999),
        "min_p": st.floats(0.001, 1),
    },
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), SETTINGS)
def test_tokens_that_may_follow_are_those_of_transformers(seed: int, asked: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    sampling = Sampling(**{"temperature": 1.0, **asked})
    logits = logits_of(seed)
    scores = torch.from_numpy(logits.copy())[None].double()
    for made in (
        processors.TemperatureLogitsWarper(sampling.temperature),
        processors.TopKLogitsWarper(sampling.top_k) if sampling.top_k else None,
        processors.TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None,
        processors.MinPLogitsWarper(sampling.min_p) if sampling.min_p else None,
    ):
        scores = scores if made is None else made(None, scores)
    expected = torch.softmax(scores[0], -1).numpy()
    np.testing.assert_allclose(probabilities(logits, sampling), expected, rtol=2e-5, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20),
    st.floats(0.2, 5),
    st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-100, 100), max_size=5),
)
def test_repetition_and_bias_are_those_of_transformers(
    seed: int, prompt: list[int], penalty: float, bias: dict[int, float]
) -> None:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    sampler = Sampler(Sampling(repetition_penalty=penalty, logit_bias=bias), prompt)
    ids = list(prompt)
    for step in range(5):
        logits = logits_of(seed + step)
        before = logits.copy()
        scores = torch.from_numpy(logits.copy())[None]
        read = torch.tensor([ids])
        if bias:
            named = [[[token], value] for token, value in bias.items()]
            scores = processors.SequenceBiasLogitsProcessor(named)(read, scores)
        scores = processors.RepetitionPenaltyLogitsProcessor(penalty)(read, scores)
        chosen = sampler.choose(logits)
        assert chosen == int(scores[0].argmax())
        np.testing.assert_array_equal(logits, before)
        ids.append(chosen)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2), st.floats(-2, 2))
def test_frequency_and_presence_are_of_the_answers_tokens_alone(
    seed: int, frequency: float, presence: float
) -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, as OpenAI's reference has it."""
    asked = Sampling(frequency_penalty=frequency, presence_penalty=presence)
    sampler, counts = Sampler(asked, prompt=list(range(12))), Counter[int]()
    for step in range(12):
        logits = logits_of(seed + step, size=12, spread=1.0)
        scores = [
            value - counts[token] * frequency - (counts[token] > 0) * presence
            for token, value in enumerate(logits)
        ]
        chosen = sampler.choose(logits)
        assert scores[chosen] == pytest.approx(max(scores), abs=1e-5)
        counts[chosen] += 1


@pytest.mark.parametrize("asked", [{}, {"top_k": 300}, {"top_p": 0.97}, {"min_p": 0.01}])
def test_draws_have_the_probabilities_asked_for(asked: dict[str, Any]) -> None:
    """By a chi-square test over the tokens that are expected five times at least."""
    stats = pytest.importorskip("scipy.stats")
    sampling, logits, draws = Sampling(temperature=1.3, **asked), logits_of(3), 10_000
    random = np.random.default_rng(0)
    counts = np.bincount([choose(logits, sampling, random) for _ in range(draws)], minlength=700)
    expected = draws * probabilities(logits, sampling)
    often = expected >= 5
    assert often.sum() > 20
    groups = [*zip(counts[often], expected[often], strict=True)]
    groups.append((counts[~often].sum(), expected[~often].sum()))
    found, wanted = np.array([each for each in groups if each[1] > 0]).T
    assert stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-3
    assert counts[expected == 0].sum() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2000), st.integers(1, 2000), st.booleans())
def test_the_likeliest_are_those_of_a_whole_sort(
    seed: int, size: int, count: int, equals: bool
) -> None:
    logits = logits_of(seed, size)
    if equals:
        logits = np.round(logits)
    expected = np.argsort(-logits, kind="stable")[:count]
    np.testing.assert_array_equal(likeliest(logits, count), expected)


def test_forbidden_tokens_are_never_drawn_and_their_neighbours_are() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 600]] = 0.0
    random = np.random.default_rng(1)
    for asked in ({}, {"top_p": 0.99}, {"top_k": 40}, {"temperature": 1e-6}):
        sampling = Sampling(**{"temperature": 2.0, **asked})
        assert {choose(logits, sampling, random) for _ in range(60)} == {3, 600}


def test_log_probabilities_are_those_of_the_whole_softmax() -> None:
    logits = logits_of(5)
    ids = np.array([5, 0, 699])
    np.testing.assert_allclose(log_probabilities(logits, ids), log_softmax(logits)[ids], rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_probabilities(logits, ids)), softmax(logits)[ids], 1e-6)


def test_a_bias_of_a_token_that_is_not_there_is_refused() -> None:
    for bias in ({VOCABULARY: 1.0}, {-1: 1.0}):
        with pytest.raises(UserError, match="logit_bias names the tokens"):
            Sampler(Sampling(logit_bias=bias), [1]).choose(logits_of(0))


def test_the_models_own_settings_stand_under_what_is_given() -> None:
    place = Path("m/generation_config.json")
    stated = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None, "eos_token_id": 2}
    assert own_sampling(stated, None, place) == Sampling(temperature=0.6, top_p=0.9)
    mine = Sampling(temperature=0.0, max_tokens=5)
    assert own_sampling(stated, mine, place) == Sampling(temperature=0.0, max_tokens=5, top_p=0.9)
    still = {**stated, "do_sample": False, "repetition_penalty": 1.1}
    assert own_sampling(still, None, place) == Sampling(repetition_penalty=1.1)
    with pytest.raises(UserError, match=r"generation_config\.json: top_p is 'much': "):
        own_sampling({**stated, "top_p": "much"}, None, place)
