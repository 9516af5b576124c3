"""From a request to the model and back: answers to many texts at once, or text as it comes."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from edgeprune.base.errors import ModelFault
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.answering import Answering
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.chat import apply_chat_template
from edgeprune.runtime.generate import Generator, Sampling
from edgeprune.runtime.tokenize import Tokens
from edgeprune.service.batcher import Batcher, LineFull
from edgeprune.service.metrics import Metrics
from edgeprune.service.requests import Generation, Refused, Texts, parse
from edgeprune.service.responses import event, json_response
from edgeprune.service.settings import ServiceSettings
from edgeprune.service.streamer import End, Streamer

T = TypeVar("T")


class Answers(Protocol):
    """What answers the path of a bundle's task."""

    @property
    def waiting(self) -> int:
        """Texts in line."""

    def warm_up(self) -> None:
        """Run the model once, so that what cannot be run is known before anybody asks."""

    def start(self) -> None:
        """Begin to answer, in the running event loop."""

    def close(self, seconds: float) -> None:
        """Begin to stop: after `seconds` nothing is being answered any more."""

    async def stop(self) -> None: ...
    async def answer(self, request: Request) -> Response: ...


class TextAnswers:
    """An answer for each text: those of all requests go through one batcher."""

    def __init__(self, model: Answering, settings: ServiceSettings, metrics: Metrics) -> None:
        self._model, self._settings, self._metrics = model, settings, metrics
        self._name = TASKS[model.bundle.task].answers
        self._longest = _longest(model.bundle, settings)
        # Texts that would change each other's results go together only where that is asked for.
        asked = "max_batch" in settings.model_fields_set
        self.max_batch = settings.max_batch if asked else model.default_batch or settings.max_batch
        self._batcher: Batcher[Any] = Batcher(
            self._run,
            self.max_batch,
            settings.max_batch_tokens,
            settings.max_wait_ms / 1000,
            settings.max_waiting,
            self._count,
        )
        self.start, self.stop = self._batcher.start, self._batcher.stop

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    def warm_up(self) -> None:
        """Run the widest and the longest batch: the runtime takes all memory that it will need."""
        most, tokens = self.max_batch, self._settings.max_batch_tokens
        longest = min(self._longest, tokens)
        for texts, length in {(most, tokens // most), (tokens // longest, longest)}:
            length = max(1, min(length, longest))
            # Any token will do, and 0 is one in every vocabulary.
            self._run([Tokens([0] * length, [0] * length)] * min(most, texts))

    def close(self, seconds: float) -> None:
        """What waits is still answered; the rest of it is given back when the time is over."""
        asyncio.get_running_loop().call_later(seconds, self._batcher.close)

    async def answer(self, request: Request) -> Response:
        texts = parse(Texts, await read_body(request, self._settings)).texts
        if len(texts) > self._settings.max_texts:
            most = self._settings.max_texts
            raise Refused(400, f"There are {len(texts)} texts; one request takes {most}.")
        encoded = await asyncio.to_thread(self._model.tokenizer.whole, texts)
        for number, tokens in enumerate(encoded, start=1):
            _check_length(f"Text {number}", len(tokens.ids), self._longest)
        try:
            found = await within(
                self._settings.answer_seconds, request, self._batcher.answers(encoded)
            )
        except LineFull:
            raise Refused(503, "Too many texts are waiting: try again later.") from None
        return json_response({self._name: found})

    def _run(self, texts: Sequence[Tokens]) -> list[Any]:
        """One call of the model."""
        return self._model.answers(texts, len(texts))

    def _count(self, batch: Sequence[Tokens]) -> None:
        self._metrics.batches.observe(len(batch))
        self._metrics.tokens.labels("read").inc(sum(len(tokens.ids) for tokens in batch))


class StreamedAnswers:
    """Generated text: one text at a time, streamed as server-sent events or whole."""

    def __init__(self, model: Generator, settings: ServiceSettings, metrics: Metrics) -> None:
        self._model, self._settings, self._metrics = model, settings, metrics
        self._longest = _longest(model.bundle, settings)
        self._name = TASKS[model.bundle.task].answers
        self._streamer = Streamer(model)
        self.close, self.stop = self._streamer.close, self._streamer.stop

    @property
    def waiting(self) -> int:
        return self._streamer.waiting

    def warm_up(self) -> None:
        list(self._model.generate_ids([0], Sampling(max_tokens=1)))

    def start(self) -> None:
        """The thread starts with the first text."""

    async def answer(self, request: Request) -> Response:
        asked = parse(Generation, await read_body(request, self._settings))
        sampling = self._sampling(asked)
        prompt = await asyncio.to_thread(self._prompt, asked)
        _check_length("The prompt", len(prompt), self._longest)
        self._metrics.tokens.labels("read").inc(len(prompt))
        pieces = self._streamer.pieces(prompt, sampling, self._settings.generate_seconds)
        # What goes wrong before the first word still has a status of its own.
        first = await within(self._settings.answer_seconds, request, anext(pieces))
        if asked.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(
                self._events(first, pieces), media_type="text/event-stream", headers=headers
            )
        return await within(self._settings.generate_seconds, request, self._whole(first, pieces))

    def _sampling(self, asked: Generation) -> Sampling:
        most = self._settings.max_new_tokens
        if asked.max_tokens <= most:
            return asked.sampling
        if "max_tokens" in asked.model_fields_set:
            raise Refused(400, f"max_tokens is {asked.max_tokens}; one request may have {most}.")
        return asked.sampling.model_copy(update={"max_tokens": most})

    def _prompt(self, asked: Generation) -> list[int]:
        tokenizer = self._model.tokenizer
        if asked.messages is None:
            return tokenizer.ids(asked.prompt or "")
        messages = [message.model_dump() for message in asked.messages]
        # The template writes the special tokens itself.
        text = apply_chat_template(self._model.bundle, messages)
        return tokenizer.ids(text, special_tokens=False)

    async def _events(
        self, first: str | End, pieces: AsyncGenerator[str | End, None]
    ) -> AsyncGenerator[bytes, None]:
        """`data: {"text": ...}` for each piece, and last `event: end` with the count and why, or
        `event: error` with a sentence where the model fails midway."""
        item = first
        try:
            async with aclosing(pieces):
                while not isinstance(item, End):
                    yield event({self._name: item})
                    item = await anext(pieces)
        except ModelFault as error:
            self._metrics.faults.inc()
            yield event({"error": str(error)}, "error")
            return
        self._count(item)
        yield event(asdict(item), "end")

    async def _whole(self, first: str | End, pieces: AsyncGenerator[str | End, None]) -> Response:
        text: list[str] = []
        item = first
        async with aclosing(pieces):
            while not isinstance(item, End):
                text.append(item)
                item = await anext(pieces)
        self._count(item)
        return json_response({self._name: "".join(text), **asdict(item)})

    def _count(self, end: End) -> None:
        self._metrics.tokens.labels("written").inc(end.tokens)


async def read_body(request: Request, settings: ServiceSettings) -> bytes:
    """A request's body, if it is small enough and comes in time.

    Raises:
        Refused: 413 or 408.
        ClientDisconnect: the client left.
    """
    most = settings.max_body_bytes
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refused(413, f"The body is larger than {most:,} bytes.")
    except TimeoutError:
        seconds = settings.body_seconds
        raise Refused(408, f"The body did not arrive within {seconds:g} s.") from None
    return bytes(body)


async def within(seconds: float, request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; cancels it where its client leaves or the time is over.

    Raises:
        Refused: 503, the time is over.
        ClientDisconnect: the client left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientDisconnect
        raise Refused(503, f"There was no answer within {seconds:g} s: try again later.")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Returns when the client closes its connection; the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _longest(bundle: Bundle, settings: ServiceSettings) -> int:
    return min(settings.max_tokens, bundle.max_length or settings.max_tokens)


def _check_length(what: str, tokens: int, most: int) -> None:
    if tokens > most:
        raise Refused(400, f"{what} has {tokens:,} tokens and may have {most:,}: shorten it.")
    if not tokens:
        raise Refused(400, f"{what} has no tokens: give the model some text.")
