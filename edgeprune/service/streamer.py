"""Stream generated text from one decoder: one request at a time, the others queued."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from edgeprune.runtime.generate import Generator, stream_text
from edgeprune.runtime.sampling import Sampling
from edgeprune.service.requests import Stopping


@dataclass(frozen=True)
class End:
    """The end of a text: at the model's stop token, at a limit of length or time, or because the
    service was stopped."""

    tokens: int
    reason: Literal["stop", "length", "time", "shutdown"]


class Streamer:
    """A decoder's thread. A text that nobody waits for ends at the next token."""

    def __init__(self, model: Generator) -> None:
        self._model = model
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
        self, prompt: Sequence[int], sampling: Sampling, seconds: float
    ) -> AsyncGenerator[str | End, None]:
        """The pieces of text that follow a prompt's token ids, then its `End`.

        Args:
            seconds: for the whole text, including the time in the queue.

        Raises:
            Stopping: the streamer was closed before the text began.
        """
        if self._closed:
            raise Stopping
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        text = _Text(self._model, prompt, sampling)

        def begin() -> None:
            text.begun = True
            self.waiting -= 1

        def generate() -> None:
            loop.call_soon_threadsafe(begin)
            for item in text.items():
                loop.call_soon_threadsafe(text.arrived.put_nowait, item)

        self.waiting += 1
        self._asked.append(text)
        running = self._thread.submit(generate)
        item: str | End | Exception = ""
        try:
            while not isinstance(item, End):
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await text.arrived.get()
                except TimeoutError:
                    item = End(text.tokens, "time")
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._asked.remove(text)
            text.given_up.set()
            if running.cancel():
                begin()


class _Text:
    """One text that the decoder's thread is generating; `given_up` ends it from outside."""

    def __init__(self, model: Generator, prompt: Sequence[int], sampling: Sampling) -> None:
        self.arrived: asyncio.Queue[str | End | Exception] = asyncio.Queue()
        self.begun = False
        self.given_up = threading.Event()
        self.tokens = 0
        self._model, self._prompt, self._sampling = model, prompt, sampling

    def items(self) -> Iterator[str | End | Exception]:
        try:
            yield from stream_text(self._model.tokenizer, self._ids())
            yield End(self.tokens, "length" if self._full() else "stop")
        except Exception as error:  # becomes the answer to its request
            yield error

    def _ids(self) -> Iterator[int]:
        for token in self._model.generate_ids(self._prompt, self._sampling):
            self.tokens += 1
            yield token
            if self.given_up.is_set():
                return

    def _full(self) -> bool:
        longest = self._model.bundle.max_length
        whole = len(self._prompt) + self.tokens
        return self.tokens == self._sampling.max_tokens or (
            longest is not None and whole >= longest
        )
