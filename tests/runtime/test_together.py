"""Answers that are generated at once: each as it is alone, whoever comes and goes beside it."""

import random

import numpy as np
import pytest

pytest.importorskip("torch", reason="the build extra is not installed")

from lowered_graphs import operators_folder

from edgeprune import runtime
from edgeprune.base.errors import ModelFault, UserError
from edgeprune.runtime import cache, together
from edgeprune.runtime.cache import Rows
from edgeprune.runtime.generate import Answer, Generator
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling
from edgeprune.runtime.together import Together


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Generator:
    return runtime.load(operators_folder(tmp_path_factory.mktemp("operators")), threads=1)


def asked(model: Generator, prompt: list[int], **settings) -> Answer:
    return model.answer(prompt, Sampling(**settings), top_logprobs=0)


def generated(model: Generator, answers: list[Answer], joins: list[int], most: int = 8):
    """The ids, or the error, of each answer that joins at a round."""
    group, found = Together(model, most), {answer: [] for answer in answers}
    waiting = sorted(zip(joins, answers, strict=True), key=lambda pair: pair[0])
    number = 0
    while waiting or any(each.reason is None and each in found for each in answers):
        while waiting and waiting[0][0] <= number:
            group.join(waiting.pop(0)[1])
        for answer, outcome in group.round():
            if isinstance(outcome, Exception):
                found[answer] = outcome
                answer.reason = "stop"
            else:
                found[answer] += [token.id for piece in outcome for token in piece.tokens]
        number += 1
    assert group._rows.lengths == []
    assert group._rows._buffers == {}
    return [found[answer] for answer in answers]


@pytest.mark.parametrize("seed", range(4))
def test_every_text_is_the_one_that_it_is_alone(model, seed, monkeypatch):
    monkeypatch.setattr(together, "_PART", 8)
    monkeypatch.setattr(cache, "_ROOM", 5)
    chance = random.Random(seed)
    prompts = [
        [chance.randrange(3, 130) for _ in range(chance.choice((1, 3, 20, 50)))] for _ in range(7)
    ]
    settings = [
        {"max_tokens": chance.randint(1, 25), **chance.choice(({}, {"temperature": 0.7}))}
        for _ in prompts
    ]
    both = list(zip(prompts, settings, strict=True))
    answers = [asked(model, prompt, **wish) for prompt, wish in both]
    found = generated(model, answers, [chance.randrange(12) for _ in prompts])
    for answer, (prompt, wish), ids in zip(answers, both, found, strict=True):
        assert ids == list(model.generate_ids(prompt, Sampling(**wish)))
        assert answer.tokens == len(ids) == wish["max_tokens"]
        # What was read is whole, and goes on as if it had been alone.
        assert answer.reading.ids == [*prompt, *ids[:-1]]
        longer = [*prompt, *ids, 7]
        assert answer.reading.keep(longer) == len(longer) - 2
        fresh = Reading(model.decoder)
        logits = fresh.read(longer)[-1].copy()
        np.testing.assert_array_equal(answer.reading.read(longer[-2:])[-1], logits)


def test_one_that_leaves_changes_no_other(model):
    prompts = [[9, 8, 7], [5, 5, 6, 6], [30, 31]]
    answers = [asked(model, prompt, max_tokens=12) for prompt in prompts]
    group, found = Together(model, 3), {answer: [] for answer in answers}
    for answer in answers:
        group.join(answer)
    for number in range(30):
        for answer, outcome in group.round():
            found[answer] += [token.id for piece in outcome for token in piece.tokens]
        if number == 5:
            group.leave(answers[0])
            assert answers[0].reason is None
            begun = answers[0].reading
            assert begun.ids[:3] == prompts[0]
            assert len(begun.ids) == 2 + answers[0].tokens
    for answer, prompt in list(zip(answers, prompts, strict=True))[1:]:
        assert found[answer] == list(model.generate_ids(prompt, Sampling(max_tokens=12)))


def test_an_error_of_one_is_its_own(model):
    prompts = [[9, 8, 7], [5, 5, 6, 6], [30, 31]]
    wrong = {"logit_bias": {5000: 1.0}}
    answers = [
        asked(model, prompt, max_tokens=6, **(wrong if n == 1 else {}))
        for n, prompt in enumerate(prompts)
    ]
    first, failed, last = generated(model, answers, [0, 0, 0])
    assert isinstance(failed, UserError)
    for ids, prompt in ((first, prompts[0]), (last, prompts[2])):
        assert ids == list(model.generate_ids(prompt, Sampling(max_tokens=6)))


def test_a_graph_that_fails_fails_those_of_the_call_alone(model, monkeypatch):
    answers = [asked(model, [n + 3, 4], max_tokens=6) for n in range(3)]
    step, calls = Rows.step, []

    def failing(self: Rows, ids: list[int]) -> np.ndarray:
        calls.append(len(ids))
        if len(calls) == 2:
            raise ModelFault("The model's graph fails.")
        return step(self, ids)

    monkeypatch.setattr(Rows, "step", failing)
    *failed, last = generated(model, answers, [0, 0, 10])
    assert calls == [2, 2]
    assert all(isinstance(each, ModelFault) for each in failed)
    assert answers[0].reading.ids == []
    assert last == list(model.generate_ids([5, 4], Sampling(max_tokens=6)))


def test_a_short_prompt_does_not_wait_for_a_long_one(model, monkeypatch):
    monkeypatch.setattr(together, "_PART", 4)
    writing, long, short = (asked(model, [5] * count, max_tokens=20) for count in (2, 60, 3))
    group = Together(model, 3)
    group.join(writing)
    list(group.round())
    group.join(long)
    list(group.round())
    group.join(short)
    before = writing.tokens
    for _ in range(2):
        list(group.round())
    assert short.tokens > 0
    assert long.tokens == 0
    assert writing.tokens == before + 2  # nor does one that is being written
