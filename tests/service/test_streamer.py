"""Texts that the service generates at once, through their queue."""

import asyncio

import pytest

pytest.importorskip("torch", reason="the build extra is not installed")
pytest.importorskip("starlette", reason="the service's extra is not installed")

from lowered_graphs import operators_folder

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.runtime.cache import Rows
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.sampling import Sampling
from edgeprune.service.streamer import End, Streamer


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Generator:
    return runtime.load(operators_folder(tmp_path_factory.mktemp("operators")), threads=1)


def test_texts_at_once_are_those_of_the_runtime(model, monkeypatch):
    rows: list[int] = []
    step = Rows.step
    monkeypatch.setattr(Rows, "step", lambda self, ids: rows.append(len(ids)) or step(self, ids))
    prompts = [[3 + n, 4, 5 * n + 3] for n in range(9)]
    few = Sampling(max_tokens=12)

    async def ids_of(streamer: Streamer, prompt: list[int]) -> list[int]:
        found = []
        async for item in streamer.pieces(prompt, few, 60, 0):
            if isinstance(item, End):
                assert (item.tokens, item.reason) == (12, "length")
            else:
                found += [token.id for token in item.tokens]
        return found

    async def leaves(streamer: Streamer) -> None:
        pieces = streamer.pieces([8, 8, 8], Sampling(max_tokens=80), 60, 0)
        asking = asyncio.ensure_future(anext(pieces))
        await ids_of(streamer, prompts[3])
        asking.cancel()

    async def fails(streamer: Streamer) -> None:
        wrong = Sampling(max_tokens=9, logit_bias={5000: 1.0})
        with pytest.raises(UserError, match="logit_bias"):
            await anext(streamer.pieces([9, 9], wrong, 60))

    async def run() -> list[list[int]]:
        streamer = Streamer(model, 2, most=4)
        *found, _, _ = await asyncio.gather(
            *(ids_of(streamer, prompt) for prompt in prompts), leaves(streamer), fails(streamer)
        )
        assert streamer.waiting == 0
        found.append(await ids_of(streamer, prompts[0]))  # the thread begins anew
        await streamer.stop()
        return found

    found = asyncio.run(run())
    for ids, prompt in zip(found, [*prompts, prompts[0]], strict=True):
        assert ids == list(model.generate_ids(prompt, few))
    assert max(rows) == 4


def test_no_memory_for_a_cache_ends_the_texts_that_are_under_way_alone(model, monkeypatch):
    long = Sampling(max_tokens=60)
    joins = []

    def join(self: Rows, decoding: object) -> None:
        joins.append(decoding)
        raise MemoryError("no room for a row")

    async def ask(streamer: Streamer, prompt: list[int]) -> str:
        try:
            return [item async for item in streamer.pieces(prompt, long, 60)][-1].reason
        except MemoryError:
            return "no memory"

    async def run() -> tuple[list[str], str]:
        streamer = Streamer(model, 0, most=4)
        with monkeypatch.context() as patch:
            patch.setattr(Rows, "join", join)
            together = await asyncio.gather(*(ask(streamer, [3 + n, 4, 9]) for n in range(2)))
        after = await ask(streamer, [8, 4, 9])
        await streamer.stop()
        return together, after

    together, after = asyncio.run(run())
    assert joins
    assert together == ["no memory"] * 2
    assert after == "length"
