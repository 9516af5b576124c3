"""Generated text, streamed or whole, in this service's form (/generate) and in
OpenAI's (/v1/chat/completions, /v1/completions)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edgeprune.base.errors import ModelFault
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.generate import Generator, Piece
from edgeprune.runtime.sampling import Sampling
from edgeprune.service.answers import Handler, check_length, longest, read_body, within
from edgeprune.service.completions import ChatBody, ChatForm, CompletionBody, Form, TextForm
from edgeprune.service.metrics import Metrics
from edgeprune.service.models import check_name
from edgeprune.service.requests import CHAT, COMPLETIONS, Generation, Refused, parse
from edgeprune.service.responses import event, json_response, openai_error
from edgeprune.service.settings import ServiceSettings
from edgeprune.service.streamer import End, Streamer

_Pieces = AsyncGenerator[Piece | End, None]


class GeneratedAnswers:
    """Text that follows a prompt or a chat."""

    def __init__(self, model: Generator, settings: ServiceSettings, metrics: Metrics) -> None:
        self._model, self._settings, self._metrics = model, settings, metrics
        self._longest = longest(model.bundle, settings)
        task = TASKS[model.bundle.task]
        self._name, self._path = task.answers, task.path
        # Texts that would change each other's tokens are generated at once only on request.
        asked = "max_batch" in settings.model_fields_set
        most = settings.max_batch if asked else model.default_batch or settings.max_batch
        self._streamer = Streamer(model, settings.kept_conversations, most)
        self.close, self.stop = self._streamer.close, self._streamer.stop

    @property
    def waiting(self) -> int:
        return self._streamer.waiting

    @property
    def paths(self) -> dict[str, Handler]:
        return {self._path: self.answer, CHAT: self.chat, COMPLETIONS: self.complete}

    def warm_up(self) -> None:
        list(self._model.generate_ids([0], Sampling(max_tokens=1)))

    def start(self) -> None:
        """The thread starts with the first text."""

    async def answer(self, request: Request) -> Response:
        asked = parse(Generation, await read_body(request, self._settings))
        sampling = self._limited(asked.sampling, "max_tokens")
        if asked.messages is None:
            prompt = await asyncio.to_thread(self._model.tokenizer.ids, asked.prompt or "")
        else:
            messages = [message.model_dump() for message in asked.messages]
            sampling = self._model.chat_sampling(sampling)
            prompt = await asyncio.to_thread(self._model.chat_ids, messages)
        first, pieces = await self._begun(request, prompt, sampling)
        if asked.stream:
            return _stream(self._events(first, pieces))
        return await within(self._settings.generate_seconds, request, self._whole(first, pieces))

    async def chat(self, request: Request) -> Response:
        """The next turn of a chat, as OpenAI's clients ask for it."""
        asked = parse(ChatBody, await read_body(request, self._settings))
        check_name(self._model.bundle, self._settings, asked.model)
        tools = asked.called_tools
        prompt = await asyncio.to_thread(self._model.chat_ids, asked.chat, tools)
        given = self._limited(asked.sampling(self._settings.max_new_tokens), asked.limited)
        form = ChatForm(asked, self._model.tokenizer, len(prompt))
        return await self._in_form(request, prompt, self._model.chat_sampling(given), form)

    async def complete(self, request: Request) -> Response:
        """The continuation of a text, as OpenAI's clients ask for it."""
        asked = parse(CompletionBody, await read_body(request, self._settings))
        check_name(self._model.bundle, self._settings, asked.model)
        prompt = asked.ids
        if prompt is None:
            prompt = await asyncio.to_thread(self._model.tokenizer.ids, asked.text)
        elif max(prompt) >= self._model.bundle.config.get("vocab_size", max(prompt) + 1):
            raise Refused(400, "The prompt has ids beyond the model's vocabulary: correct them.")
        sampling = self._limited(asked.sampling(self._settings.max_new_tokens), asked.limited)
        form = TextForm(asked, self._model.tokenizer, len(prompt))
        return await self._in_form(request, prompt, sampling, form)

    async def _in_form(
        self, request: Request, prompt: list[int], sampling: Sampling, form: Form
    ) -> Response:
        first, pieces = await self._begun(request, prompt, sampling, form.top_logprobs)
        if form.asked.stream:
            return _stream(self._chunks(first, pieces, form))

        async def whole() -> Response:
            item = first
            async with aclosing(pieces):
                while not isinstance(item, End):
                    form.add(item)
                    item = await anext(pieces)
            self._count(item)
            return json_response(form.whole(item))

        return await within(self._settings.generate_seconds, request, whole())

    async def _begun(
        self, request: Request, prompt: list[int], sampling: Sampling, top: int | None = None
    ) -> tuple[Piece | End, _Pieces]:
        """The first piece of a text and the others: a failure before it has its own status."""
        check_length("The prompt", len(prompt), self._longest)
        self._metrics.tokens.labels("read").inc(len(prompt))
        pieces = self._streamer.pieces(prompt, sampling, self._settings.generate_seconds, top)
        return await within(self._settings.answer_seconds, request, anext(pieces)), pieces

    def _limited(self, sampling: Sampling, name: str) -> Sampling:
        """The settings within the service's limit; more is refused only if it was asked for."""
        most = self._settings.max_new_tokens
        if sampling.max_tokens <= most:
            return sampling
        if "max_tokens" in sampling.model_fields_set:
            raise Refused(400, f"{name} is {sampling.max_tokens}; one request may have {most}.")
        return sampling.model_copy(update={"max_tokens": most})

    async def _events(self, first: Piece | End, pieces: _Pieces) -> AsyncGenerator[bytes, None]:
        """`data: {"text": ...}` for each piece, then `event: end` with the count and the reason, or
        `event: error` with a sentence if the model fails midway."""
        item = first
        try:
            async with aclosing(pieces):
                while not isinstance(item, End):
                    yield event({self._name: item.text})
                    item = await anext(pieces)
        except ModelFault as error:
            self._metrics.faults.inc()
            yield event({"error": str(error)}, "error")
            return
        self._count(item)
        yield event(_told(item), "end")

    async def _whole(self, first: Piece | End, pieces: _Pieces) -> Response:
        text: list[str] = []
        item = first
        async with aclosing(pieces):
            while not isinstance(item, End):
                text.append(item.text)
                item = await anext(pieces)
        self._count(item)
        return json_response({self._name: "".join(text), **_told(item)})

    async def _chunks(
        self, first: Piece | End, pieces: _Pieces, form: Form
    ) -> AsyncGenerator[bytes, None]:
        """OpenAI's chunks, then [DONE]; or an error object if the model fails midway."""
        item = first
        try:
            async with aclosing(pieces):
                for chunk in form.opening():
                    yield event(chunk)
                while not isinstance(item, End):
                    for chunk in form.add(item):
                        yield event(chunk)
                    item = await anext(pieces)
        except ModelFault as error:
            self._metrics.faults.inc()
            yield event({"error": openai_error(500, str(error))})
            return
        self._count(item)
        for chunk in form.closing(item):
            yield event(chunk)
        yield b"data: [DONE]\n\n"

    def _count(self, end: End) -> None:
        self._metrics.tokens.labels("written").inc(end.tokens)


def _told(end: End) -> dict[str, object]:
    return {"tokens": end.tokens, "reason": end.reason}


def _stream(events: AsyncGenerator[bytes, None]) -> StreamingResponse:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
