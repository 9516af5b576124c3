"""Stream generated text from one decoder: a token of every text in turn, as many texts at once as
the decoder reads together, the others queued."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from edgeprune.runtime.generate import Answer, Generator, Piece
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling
from edgeprune.runtime.together import Together
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
    """A decoder's thread. A text that nobody waits for ends at the next token, and leaves its place
    to one that waits."""

    def __init__(self, model: Generator, kept_conversations: int = 0, most: int = 1) -> None:
        """`most` texts at once, of a decoder that reads them together; else one."""
        self._model, self._readings = model, Readings(model, kept_conversations)
        self._most = most if model.decoder.together else 1
        self._keeps = kept_conversations > 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting = 0
        """Texts that have not begun."""
        self._asked: list[_Text] = []
        self._line: deque[_Text] = deque()
        self._lock = threading.Lock()
        self._runs = False
        """Whether the thread will look at the line again."""
        self._closed = False

    def close(self, seconds: float) -> None:
        """Refuse what is queued, accept no more, and end the running texts after `seconds`."""
        self._closed = True
        for text in self._asked:
            if not text.begun:
                text.arrived.put_nowait(Stopping())
        asyncio.get_running_loop().call_later(seconds, self._end_all)

    def _end_all(self) -> None:
        for text in self._asked:
            text.arrived.put_nowait(End(text.tokens, "shutdown"))

    async def stop(self) -> None:
        """Stop after the running texts."""
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
        text = _Text(loop, prompt, sampling, top_logprobs)
        self.waiting += 1
        self._asked.append(text)
        self._queue(text)
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
            if self._unqueue(text):
                self._begin(text)

    def _begin(self, text: "_Text") -> None:
        text.begun = True
        self.waiting -= 1

    def _queue(self, text: "_Text") -> None:
        with self._lock:
            self._line.append(text)
            if not self._runs:
                self._runs = True
                self._thread.submit(self._run)

    def _unqueue(self, text: "_Text") -> bool:
        """Take a text out of the line, if it is still there."""
        with self._lock:
            if text not in self._line:
                return False
            self._line.remove(text)
            return True

    def _next(self, running: int) -> "_Text | None":
        """The next text of the line, if there is a place for it; none at the end of all, too."""
        with self._lock:
            if self._line and running < self._most:
                return self._line.popleft()
            self._runs = bool(self._line) or running > 0
            return None

    def _run(self) -> None:
        """In the thread: generate all texts until none is left. What fails beside an answer, as a
        cache for which there is no memory, ends all that are under way, and no other."""
        texts: dict[Answer, _Text] = {}
        try:
            self._generate(texts)
        except Exception as error:  # becomes the answer to their requests
            for text in texts.values():
                text.tell(error)
            with self._lock:
                self._runs = bool(self._line)
                if self._runs:
                    self._thread.submit(self._run)

    def _generate(self, texts: "dict[Answer, _Text]") -> None:
        together = Together(self._model, self._most, self._keeps)
        while True:
            while (text := self._next(len(texts))) is not None:
                text.loop.call_soon_threadsafe(self._begin, text)
                try:
                    answer = text.answer(self._model, self._readings)
                except Exception as error:  # becomes the answer to its request
                    text.tell(error)
                    continue
                texts[answer] = text
                together.join(answer)
            if not texts:
                return
            for answer, outcome in together.round():
                text = texts[answer]
                for item in outcome if isinstance(outcome, list) else [outcome]:
                    text.tokens = answer.tokens
                    text.tell(item)
                if answer.reason is not None:
                    text.tell(End(answer.tokens, answer.reason, answer.kept))
                if answer.reason is not None or isinstance(outcome, Exception):
                    del texts[answer]
                    self._readings.give(answer.reading)
            for answer in [each for each, text in texts.items() if text.given_up.is_set()]:
                together.leave(answer)
                del texts[answer]
                self._readings.give(answer.reading)


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
        if self._most and reading.ids:
            self._kept = [*self._kept, reading][-self._most :]


class _Text:
    """One text that is asked for; `given_up` ends it from outside."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        prompt: Sequence[int],
        sampling: Sampling,
        top: int | None,
    ) -> None:
        self.loop, self.arrived = loop, asyncio.Queue[Piece | End | Exception]()
        self.begun = False
        self.given_up = threading.Event()
        self.tokens = 0
        self._prompt, self._sampling, self._top = prompt, sampling, top

    def answer(self, model: Generator, readings: Readings) -> Answer:
        """The text to be generated, by what is held of its prompt.

        Raises:
            UserError: the prompt is empty or fills the model's maximum.
        """
        model.room(self._prompt)  # before a reading is taken
        reading = readings.take(self._prompt)
        return model.answer(self._prompt, self._sampling, reading, self._top)

    def tell(self, item: Piece | End | Exception) -> None:
        """From the decoder's thread: hand something to whoever waits for it."""
        self.loop.call_soon_threadsafe(self.arrived.put_nowait, item)
