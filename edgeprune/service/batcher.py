"""Batch the texts of concurrent requests into calls of the model.

One thread runs the model. While it is busy, texts wait in a bounded queue. When it is free, the
oldest text goes next, with others of similar length, so that little padding is computed and no text
waits forever.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgeprune.service.requests import Stopping
from edgeprune.text.batches import Tokens

Answer = TypeVar("Answer")

# Texts are batched if their lengths differ by this share of the oldest's, or by these few tokens.
_LIKE, _FEW_TOKENS = 0.25, 16


class LineFull(Exception):
    """The queue of texts is full."""


@dataclass(eq=False)
class _Waiting(Generic[Answer]):
    tokens: Tokens
    arrived: float
    answer: "asyncio.Future[Answer]"


class Batcher(Generic[Answer]):
    """`start` it in an event loop, call `answers` from any number of tasks, `stop` it."""

    def __init__(
        self,
        run: Callable[[Sequence[Tokens]], Sequence[Answer]],
        max_batch: int,
        max_batch_tokens: int,
        max_wait: float,
        max_waiting: int,
        on_batch: Callable[[Sequence[Tokens]], None],
    ) -> None:
        """
        Args:
            run: one call of the model, in a separate thread; an answer for each text.
            max_wait: seconds that an idle model waits for more texts.
            on_batch: called with each batch before it runs.
        """
        self._run = run
        self._max_batch, self._max_batch_tokens = max_batch, max_batch_tokens
        self._max_wait, self._max_waiting = max_wait, max_waiting
        self._on_batch = on_batch
        self._line: deque[_Waiting[Answer]] = deque()
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._working: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Queued texts, without those that run."""
        return len(self._line)

    def start(self) -> None:
        self._working = asyncio.create_task(self._work())

    def close(self) -> None:
        """Refuse what is queued, and accept no more."""
        self._closed = True
        for each in self._line:
            if not each.answer.done():
                each.answer.set_exception(Stopping())
        self._line.clear()
        self._note()

    async def stop(self) -> None:
        """Stop after the running batch."""
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError):
                await self._working
        await asyncio.to_thread(self._thread.shutdown)

    async def answers(self, texts: Sequence[Tokens]) -> list[Answer]:
        """The answer to each text. If cancelled, texts that have not begun leave the queue.

        Raises:
            LineFull: the queue has no room for these texts.
            Stopping: the batcher was closed before they began.
        """
        if self._closed:
            raise Stopping
        if len(self._line) + len(texts) > self._max_waiting:
            raise LineFull
        loop = asyncio.get_running_loop()
        asked = [_Waiting(tokens, loop.time(), loop.create_future()) for tokens in texts]
        self._line.extend(asked)
        self._note()
        try:
            return list(await asyncio.gather(*(each.answer for each in asked)))
        finally:
            if not all(each.answer.done() and not each.answer.cancelled() for each in asked):
                for each in asked:
                    each.answer.cancel()
                self._line = deque(each for each in self._line if not each.answer.done())
                self._note()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            patience = self._line[0].arrived + self._max_wait - loop.time()
            if patience > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), patience)
            batch = self._take()
            if not batch:  # its client has gone
                continue
            await self._answer(batch)

    async def _answer(self, batch: Sequence[_Waiting[Answer]]) -> None:
        """Run a batch; if it fails, run it text by text, so that only a faulty text fails."""
        texts = [each.tokens for each in batch]
        self._on_batch(texts)
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._run, texts)
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    if not each.answer.done():
                        await self._answer([each])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for each, answer in zip(batch, answers, strict=True):
            if not each.answer.done():
                each.answer.set_result(answer)

    def _take(self) -> list[_Waiting[Answer]]:
        lengths = [len(each.tokens.ids) for each in self._line]
        chosen = go_together(lengths, self._max_batch, self._max_batch_tokens)
        batch = [self._line[index] for index in chosen]
        taken = set(chosen)
        self._line = deque(each for index, each in enumerate(self._line) if index not in taken)
        self._note()
        return batch

    def _note(self) -> None:
        for event, reached in (
            (self._some, bool(self._line)),
            (self._enough, len(self._line) >= self._max_batch or not self._line),
        ):
            if reached:
                event.set()
            else:
                event.clear()


def go_together(lengths: Sequence[int], most: int, most_tokens: int) -> list[int]:
    """The indices of the texts that run in one call with the first: those nearest in length.

    Args:
        lengths: tokens of each waiting text, in order of arrival.
        most: maximum texts in a call.
        most_tokens: maximum tokens in a call, padded to its longest text; a text alone may have
            more.
    """
    if not lengths:
        return []
    first = lengths[0]
    slack = max(_FEW_TOKENS, _LIKE * first)
    near = sorted(
        (index for index in range(1, len(lengths)) if abs(lengths[index] - first) <= slack),
        key=lambda index: abs(lengths[index] - first),
    )
    chosen, longest = [0], first
    for index in near[: most - 1]:
        longest = max(longest, lengths[index])
        if longest * (len(chosen) + 1) > most_tokens:
            break
        chosen.append(index)
    return chosen
