"""Batches of concurrent requests' texts: which go together, in what order, and who left."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import until

from edgeprune.runtime.tokenize import Tokens
from edgeprune.service.batcher import Batcher, LineFull, go_together
from edgeprune.service.requests import Stopping

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 20), st.integers(1, 4000))
def test_the_oldest_always_goes_within_both_limits(lengths, most, most_tokens):
    chosen = go_together(lengths, most, most_tokens)
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) <= most
    padded = max(lengths[place] for place in chosen) * len(chosen)
    assert len(chosen) == 1 or padded <= most_tokens


@given(LENGTHS, st.integers(1, 20))
def test_little_is_padding(lengths, most):
    """Beside the oldest's own length, no text is padded by more than half of itself and a few."""
    chosen = go_together(lengths, most, 10**9)
    longest = max(lengths[place] for place in chosen)
    assert all(longest <= lengths[place] * 1.7 + 32 for place in chosen)


@given(st.lists(st.just(7), min_size=1, max_size=40), st.integers(1, 20))
def test_equal_texts_go_in_the_order_of_arrival(lengths, most):
    assert go_together(lengths, most, 10**9) == list(range(min(most, len(lengths))))


def tokens(number: int, length: int = 1) -> Tokens:
    return Tokens([number] * length, [0] * length)


class Model:
    """Answers each text with the square of its number; waits at the gate, noting its batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.begun = 0

    def __call__(self, texts: Any) -> list[int]:
        self.begun += 1
        self.gate.wait(10)
        numbers = [text.ids[0] for text in texts]
        self.batches.append(numbers)
        if 13 in numbers:
            raise ArithmeticError("unlucky")
        return [number**2 for number in numbers]


def run(
    scene: Callable[[Batcher[int], Model], Coroutine[Any, Any, None]],
    max_batch: int = 4,
    max_wait: float = 0.0,
    max_waiting: int = 100,
) -> Model:
    """Play a scene with a batcher of a gated model."""
    model = Model()

    async def whole() -> None:
        batcher = Batcher(model, max_batch, 10**9, max_wait, max_waiting, lambda texts: None)
        batcher.start()
        try:
            async with asyncio.timeout(10):
                await scene(batcher, model)
        finally:
            model.gate.set()
            await batcher.stop()

    asyncio.run(whole())
    return model


async def settled(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, condition, 10)


def test_every_request_gets_its_own_answers():
    async def scene(batcher: Batcher[int], model: Model) -> None:
        asked = [[100 * i + j for j in range(20, 23)] for i in range(40)]
        found = await asyncio.gather(*(batcher.answers([tokens(n) for n in ns]) for ns in asked))
        assert found == [[n**2 for n in ns] for ns in asked]

    model = run(scene, max_waiting=120)
    assert all(len(batch) <= 4 for batch in model.batches)
    assert len(model.batches) < 40


def test_what_waits_while_the_model_is_busy_goes_together():
    async def scene(batcher: Batcher[int], model: Model) -> None:
        model.gate.clear()
        first = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: model.begun == 1)
        others = [asyncio.create_task(batcher.answers([tokens(n)])) for n in (2, 3, 4)]
        await settled(lambda: batcher.waiting == 3)
        model.gate.set()
        assert await asyncio.gather(first, *others) == [[1], [4], [9], [16]]

    assert run(scene).batches == [[1], [2, 3, 4]]


def test_an_idle_model_waits_as_long_as_it_is_told():
    async def patient(batcher: Batcher[int], model: Model) -> None:
        first = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: batcher.waiting == 1)
        second = asyncio.create_task(batcher.answers([tokens(2)]))
        assert await asyncio.gather(first, second) == [[1], [4]]

    async def at_once(batcher: Batcher[int], model: Model) -> None:
        first = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: model.begun == 1)
        second = asyncio.create_task(batcher.answers([tokens(2)]))
        assert await asyncio.gather(first, second) == [[1], [4]]

    assert run(patient, max_wait=60, max_batch=2).batches == [[1, 2]]
    assert run(at_once).batches == [[1], [2]]


def test_a_full_line_refuses_and_frees_again():
    async def scene(batcher: Batcher[int], model: Model) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: model.begun == 1)
        waiting = asyncio.create_task(batcher.answers([tokens(2), tokens(3)]))
        await settled(lambda: batcher.waiting == 2)
        with pytest.raises(LineFull):
            await batcher.answers([tokens(4), tokens(5)])
        model.gate.set()
        assert await running == [1]
        assert await waiting == [4, 9]
        assert await batcher.answers([tokens(4), tokens(5)]) == [16, 25]

    run(scene, max_waiting=3)


def test_who_leaves_takes_the_waiting_texts_along():
    async def scene(batcher: Batcher[int], model: Model) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: model.begun == 1)
        leaving = asyncio.create_task(batcher.answers([tokens(n) for n in (2, 3)]))
        staying = asyncio.create_task(batcher.answers([tokens(4)]))
        await settled(lambda: batcher.waiting == 3)
        leaving.cancel()
        await settled(lambda: batcher.waiting == 1)
        running.cancel()  # what runs already ends, and its answer is dropped
        model.gate.set()
        assert await staying == [16]

    assert run(scene).batches == [[1], [4]]


def test_an_error_is_its_texts_alone():
    async def scene(batcher: Batcher[int], model: Model) -> None:
        model.gate.clear()
        first = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: model.begun == 1)
        others = [asyncio.create_task(batcher.answers([tokens(n)])) for n in (2, 13, 4)]
        await settled(lambda: batcher.waiting == 3)
        model.gate.set()
        assert await asyncio.gather(first, others[0], others[2]) == [[1], [4], [16]]
        with pytest.raises(ArithmeticError):
            await others[1]
        assert await batcher.answers([tokens(5)]) == [25]

    assert run(scene).batches == [[1], [2, 13, 4], [2], [13], [4], [5]]


def test_closed_it_gives_back_what_waits_and_ends_what_runs():
    async def scene(batcher: Batcher[int], model: Model) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.answers([tokens(1)]))
        await settled(lambda: model.begun == 1)
        waiting = [asyncio.create_task(batcher.answers([tokens(n)])) for n in (2, 3)]
        await settled(lambda: batcher.waiting == 2)
        waiting[0].cancel()
        batcher.close()
        with pytest.raises(Stopping):
            await waiting[1]
        with pytest.raises(Stopping):
            await batcher.answers([tokens(4)])
        model.gate.set()
        assert await running == [1]

    assert run(scene).batches == [[1]]
