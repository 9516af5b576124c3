"""Answer requests with the model, many texts at once."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edgeprune.model.tasks import TASKS
from edgeprune.runtime.answering import Answering
from edgeprune.runtime.bundle import Bundle
from edgeprune.service.batcher import Batcher, LineFull
from edgeprune.service.metrics import Metrics
from edgeprune.service.requests import Documents, Refused, Texts, parse
from edgeprune.service.responses import json_response
from edgeprune.service.settings import ServiceSettings
from edgeprune.text.batches import Tokens
from edgeprune.text.pairs import Document

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Answers(Protocol):
    """The handler of the path of a bundle's task."""

    @property
    def waiting(self) -> int:
        """Queued texts."""

    def warm_up(self) -> None:
        """Run the model once, so that a model that cannot run fails before the first request."""

    def start(self) -> None:
        """Start answering, in the running event loop."""

    def close(self, seconds: float) -> None:
        """Begin to stop: nothing is answered after `seconds`."""

    @property
    def paths(self) -> Mapping[str, "Handler"]:
        """The paths on which it answers."""

    async def stop(self) -> None: ...
    async def answer(self, request: Request) -> Response: ...


class TextAnswers:
    """An answer for each text; the texts of all requests share one batcher."""

    def __init__(self, model: Answering, settings: ServiceSettings, metrics: Metrics) -> None:
        self._model, self._settings, self._metrics = model, settings, metrics
        task = TASKS[model.bundle.task]
        self._name, self._path, self._pairs = task.answers, task.path, task.pairs
        self._longest = longest(model.bundle, settings)
        # Texts that would change each other's results are batched only on request.
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

    @property
    def paths(self) -> dict[str, Handler]:
        return {self._path: self.answer}

    def warm_up(self) -> None:
        """Run the widest and the longest batch, so that the runtime allocates all its memory."""
        most, tokens = self.max_batch, self._settings.max_batch_tokens
        longest = min(self._longest, tokens)
        for texts, length in {(most, tokens // most), (tokens // longest, longest)}:
            length = max(1, min(length, longest))
            # Any token will do; every vocabulary has 0.
            self._run([Tokens([0] * length, [0] * length)] * min(most, texts))

    def close(self, seconds: float) -> None:
        """Still answer what is queued; refuse the rest of it after `seconds`."""
        asyncio.get_running_loop().call_later(seconds, self._batcher.close)

    async def answer(self, request: Request) -> Response:
        body = await read_body(request, self._settings)
        texts = parse(Documents, body).documents if self._pairs else parse(Texts, body).texts
        self._check_count(texts)
        encoded = await asyncio.to_thread(self._model.tokenizer.whole, texts)
        return json_response({self._name: await self._answered(request, encoded)})

    def _check_count(self, texts: Sequence[Document]) -> None:
        self._check_number(len(texts))

    def _check_number(self, texts: int) -> None:
        """Refuse more texts than a request may have."""
        most = self._settings.max_texts
        if texts > most:
            raise Refused(400, f"There are {texts} texts; one request takes {most}.")

    async def _answered(self, request: Request, encoded: Sequence[Tokens]) -> list[Any]:
        """An answer for each tokenized text, in its turn."""
        for number, tokens in enumerate(encoded, start=1):
            check_length(f"Text {number}", len(tokens.ids), self._longest)
        try:
            return await within(
                self._settings.answer_seconds, request, self._batcher.answers(encoded)
            )
        except LineFull:
            raise Refused(503, "Too many texts are waiting: try again later.") from None

    def _run(self, texts: Sequence[Tokens]) -> list[Any]:
        """One call of the model."""
        return self._model.answers(texts, len(texts))

    def _count(self, batch: Sequence[Tokens]) -> None:
        self._metrics.batches.observe(len(batch))
        self._metrics.tokens.labels("read").inc(sum(len(tokens.ids) for tokens in batch))


async def read_body(request: Request, settings: ServiceSettings) -> bytes:
    """A request's body, if it is small enough and arrives in time.

    Raises:
        Refused: 413 or 408.
        ClientDisconnect: the client disconnected.
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
    """The result of `work`, which is cancelled if its client disconnects or time runs out.

    Raises:
        Refused: 503, time ran out.
        ClientDisconnect: the client disconnected.
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
    """Wait until the client closes its connection, once the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def longest(bundle: Bundle, settings: ServiceSettings) -> int:
    """The most tokens of a text or a prompt."""
    return min(settings.max_tokens, bundle.max_length or settings.max_tokens)


def check_length(what: str, tokens: int, most: int) -> None:
    """Refuse a text of more tokens, or of none.

    Raises:
        Refused: 400.
    """
    if tokens > most:
        raise Refused(
            400,
            f"{what} has {tokens:,} tokens and may have {most:,}: shorten it.",
            code="context_length_exceeded",
        )
    if not tokens:
        raise Refused(400, f"{what} has no tokens: give the model some text.")
