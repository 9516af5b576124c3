"""Stream generated text from one decoder: one request at a time, the others queued."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from edgeprune.runtime.generate import Generator, Piece
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling
from edgeprune.service.requests import Stopping


@dataclass(frozen=True)
class End:
    """The end of a text: at the model's stop token, at a limit of length or time, or because the
    service was stopped."""

    tokens: int
    reason: Literal["stop", "length", "time", "shutdown"]
    kept: int = 0
    """Tokens of the prompt that a kept cache held."""


class Streamer:
    """A decoder's thread. A text that nobody waits for ends at the next token."""

    def __init__(self, model: Generator, kept_conversations: int = 0) -> None:
        self._model, self._readings = model, Readings(model, kept_conversations)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting = 0
        """Texts that have not begun."""
        self._asked: list[_Text] = []
        self._closed = False

    def close(self, seconds: float) -> None:
        """Refuse what is queued, accept no more, and end the running text after `seconds`."""
        self._closed = True
        for text in self._asked:
            if not text.begun:
                text.arrived.put_nowait(Stopping())
        asyncio.get_running_loop().call_later(seconds, self._end_all)

    def _end_all(self) -> None:
        for text in self._asked:
            text.arrived.put_nowait(End(text.tokens, "shutdown"))

    async def stop(self) -> None:
        """Stop after the running text."""
        await asyncio.to_thread(self._thread.shutdown)

    async def pieces(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        seconds: float,
        top_logprobs: int | None = None,
    ) -> AsyncGenerator[Piece | End, None]:
        """The pieces of text that follow a prompt's token ids, then its `End`.

        Args:
            seconds: for the whole text, including the time in the queue.
            top_logprobs: tell the log-probability of each token, and of so many of the likeliest.

        Raises:
            Stopping: the streamer was closed before the text began.
        """
        if self._closed:
            raise Stopping
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        text = _Text(self._model, prompt, sampling, top_logprobs)

        def begin() -> None:
            text.begun = True
            self.waiting -= 1

        def generate() -> None:
            loop.call_soon_threadsafe(begin)
            for item in text.items(self._readings):
                loop.call_soon_threadsafe(text.arrived.put_nowait, item)

        self.waiting += 1
        self._asked.append(text)
        running = self._thread.submit(generate)
        item: Piece | End | Exception = Piece("", ())
        try:
            while not isinstance(item, End):
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await text.arrived.get()
                except TimeoutError:
                    item = End(text.tokens, "time")
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, End) or item.text or item.tokens:
                    yield item
        finally:
            self._asked.remove(text)
            text.given_up.set()
            if running.cancel():
                begin()


class Readings:
    """Caches of the texts before, the last used last: one that goes on, or begins alike, does not
    begin anew. For the decoder's thread alone."""

    def __init__(self, model: Generator, most: int) -> None:
        self._model, self._most = model, most
        self._kept: list[Reading] = []

    def take(self, prompt: Sequence[int]) -> Reading:
        """The part of a prompt that was read: a kept text that it goes on from, which leaves the
        store, or a copy of the beginning that it shares with another."""
        best = max(self._kept, key=lambda each: each.shared(prompt), default=None)
        if best is None or not (shared := best.shared(prompt)):
            return Reading(self._model.decoder)
        if shared == len(best.ids):
            self._kept.remove(best)
            return best
        if not self._model.decoder.cuts:
            return Reading(self._model.decoder)
        return best.copy(shared)

    def give(self, reading: Reading) -> None:
        """Keep a text, and let go of those that were used longest ago."""
        if self._most:
            self._kept = [*self._kept, reading][-self._most :]


class _Text:
    """One text that the decoder's thread is generating; `given_up` ends it from outside."""

    def __init__(
        self, model: Generator, prompt: Sequence[int], sampling: Sampling, top: int | None
    ) -> None:
        self.arrived: asyncio.Queue[Piece | End | Exception] = asyncio.Queue()
        self.begun = False
        self.given_up = threading.Event()
        self.tokens = 0
        self._model, self._prompt, self._sampling, self._top = model, prompt, sampling, top

    def items(self, readings: Readings) -> Iterator[Piece | End | Exception]:
        reading = readings.take(self._prompt)
        try:
            answer = self._model.answer(self._prompt, self._sampling, reading, self._top)
            # Pieces without text come too: between them a text is given up at its next token.
            for piece in answer.pieces():
                self.tokens = answer.tokens
                yield piece
                if self.given_up.is_set():
                    return
            yield End(answer.tokens, answer.reason or "stop", answer.kept)
        except Exception as error:  # becomes the answer to its request
            yield error
        finally:
            readings.give(reading)
