"""The bodies and answers of /v1/chat/completions and /v1/completions, as OpenAI's clients write and
read them."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeprune.runtime.generate import Piece, Written
from edgeprune.runtime.sampling import Sampling
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.service.streamer import End
from edgeprune.text.tool_calls import certain, find_calls

_TOP = 20
"""Most log-probabilities of likely tokens beside each, as OpenAI has it."""
_INCOMPLETE = "\ufffd"
_SEED_BITS = 63

_SAMPLED = (
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty"),
    *("presence_penalty", "logit_bias"),
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """Further wishes for a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Body(_Strict):
    """Fields of both forms. top_k, min_p and repetition_penalty are no fields of OpenAI's."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    # They change no answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    limited: ClassVar[str] = "max_tokens"
    """The field that an error about the length of an answer names."""

    def sampling(self, most: int) -> Sampling:
        """The sampling that was asked for; a seed is drawn where none is, as clients expect."""
        given = {name: getattr(self, name) for name in _SAMPLED}
        given["stop"] = (self.stop,) if isinstance(self.stop, str) else self.stop
        seed = secrets.randbits(_SEED_BITS) if self.seed is None else self.seed
        given["seed"] = seed % 2**_SEED_BITS
        given["max_tokens"] = self.asked_tokens or min(most, self.usual_tokens or most)
        return Sampling(**{name: value for name, value in given.items() if value is not None})

    @property
    def asked_tokens(self) -> int | None:
        """The most tokens of an answer, where that is stated."""
        return self.max_tokens

    @property
    def usual_tokens(self) -> int | None:
        """The same where it is not; None: as the service has it."""
        return None


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """A function with arguments, in a call."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of a tool, in an answer of before."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """A turn of a chat. Fields that only OpenAI's own answers have are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def message(self) -> dict[str, Any]:
        """The same as chat templates read it."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        role = "system" if self.role == "developer" else self.role
        found: dict[str, Any] = {"role": role, "content": text}
        for name in ("name", "tool_call_id"):
            if (value := getattr(self, name)) is not None:
                found[name] = value
        if self.tool_calls:
            found["tool_calls"] = [
                {**call.model_dump(), "function": _function(call.function)}
                for call in self.tool_calls
            ]
        return found


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class TextOnly(_Strict):
    """The form of an answer."""

    type: Literal["text"]


class ChatBody(_Body):
    """The body of /v1/chat/completions."""

    limited: ClassVar[str] = "max_completion_tokens"

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=_TOP)
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextOnly | None = None

    @property
    def chat(self) -> list[dict[str, Any]]:
        """The messages as chat templates read them."""
        return [message.message for message in self.messages]

    @property
    def called_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        tools = [] if self.tool_choice == "none" else self.tools or []
        return [tool.model_dump(exclude_none=True) for tool in tools]

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="after")
    def _asks_for_both(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self


class CompletionBody(_Body):
    """The body of /v1/completions: one prompt, as text or as token ids."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=1)]
        | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=_TOP)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def text(self) -> str:
        """The prompt, where it is text."""
        return self.prompt if isinstance(self.prompt, str) else str(self.prompt[0])

    @property
    def ids(self) -> list[int] | None:
        """The prompt, where it is ids."""
        found = self.prompt if isinstance(self.prompt, list) else []
        return [each for each in found if isinstance(each, int)] or None

    @property
    def usual_tokens(self) -> int | None:
        return 16


class Form:
    """An answer in OpenAI's words, from its pieces: chunk by chunk, or whole at its end."""

    kind, prefix = "", ""

    def __init__(self, asked: Any, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self.asked, self._tokenizer, self._prompt_tokens = asked, tokenizer, prompt_tokens
        self._text = ""
        self._tokens: list[Written] = []
        self._head = {
            "id": f"{self.prefix}{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.model,
        }

    @property
    def top_logprobs(self) -> int | None:
        """The number of likely tokens to be told beside each; None: no log-probabilities."""
        raise NotImplementedError

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first piece."""
        yield from ()

    def add(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Take a piece in; its chunks."""
        self._text += piece.text
        self._tokens += piece.tokens
        return self._chunks_of(piece)

    def _chunks_of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def closing(self, end: End) -> Iterator[dict[str, Any]]:
        """The last chunks."""
        raise NotImplementedError

    def whole(self, end: End) -> dict[str, Any]:
        """The answer at its end."""
        raise NotImplementedError

    def _usage(self, end: End) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": end.tokens,
            "total_tokens": self._prompt_tokens + end.tokens,
            "prompt_tokens_details": {"cached_tokens": end.kept},
        }

    def _with_usage(self) -> bool:
        options = self.asked.stream_options
        return options is not None and options.include_usage

    def _chunk(self, choice: dict[str, Any] | None, usage: Any = None) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": 0, "finish_reason": None, **choice}]
        chunk = {**self._head, "object": self.kind, "choices": choices}
        return {**chunk, "usage": usage} if self._with_usage() else chunk

    def _token_text(self, token: int) -> str:
        """The text of a token amid others: at the start of a text some lose their space."""
        before = self._tokenizer.text([token])
        return self._tokenizer.text([token, token])[len(before) :]


def _reason(end: End) -> str:
    """OpenAI has no word for the end of the time or of the service."""
    return "stop" if end.reason == "stop" else "length"


class ChatForm(Form):
    """The answer of a chat."""

    kind, prefix = "chat.completion.chunk", "chatcmpl-"

    def __init__(self, asked: ChatBody, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        super().__init__(asked, tokenizer, prompt_tokens)
        self._tools = {tool["function"]["name"] for tool in asked.called_tools}
        self._shown, self._untold = 0, 0

    @property
    def top_logprobs(self) -> int | None:
        return (self.asked.top_logprobs or 0) if self.asked.logprobs else None

    def opening(self) -> Iterator[dict[str, Any]]:
        yield self._chunk({"delta": {"role": "assistant", "content": ""}})

    def _chunks_of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        # What may be a call of a tool is held back until it is known.
        sure = certain(self._text) if self._tools else len(self._text)
        if sure > self._shown:
            yield self._delta({"content": self._text[self._shown : sure]})
            self._shown = sure

    def closing(self, end: End) -> Iterator[dict[str, Any]]:
        """The last chunks."""
        content, calls = self._parted()
        if calls:
            numbered = [{"index": n, **call} for n, call in enumerate(calls)]
            yield self._delta({"tool_calls": numbered})
        elif len(content) > self._shown or self._untold < len(self._tokens):
            yield self._delta({"content": content[self._shown :]})
        yield self._chunk({"delta": {}, "finish_reason": "tool_calls" if calls else _reason(end)})
        if self._with_usage():
            yield self._chunk(None, self._usage(end))

    def whole(self, end: End) -> dict[str, Any]:
        """The answer at its end."""
        content, calls = self._parted()
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(self._tokens),
            "finish_reason": "tool_calls" if calls else _reason(end),
        }
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": self._usage(end)}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        tokens, self._untold = self._tokens[self._untold :], len(self._tokens)
        return self._chunk({"delta": delta, "logprobs": self._logprobs(tokens)})

    def _parted(self) -> tuple[str, list[dict[str, Any]]]:
        """The text, and the calls that it had."""
        content, calls = find_calls(self._text, self._tools) if self._tools else (self._text, [])
        if self.asked.parallel_tool_calls is False:
            calls = calls[:1]
        # Nine letters and digits are an id for every template.
        return content, [
            {
                "id": secrets.token_hex(5)[:9],
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]

    def _logprobs(self, tokens: list[Written]) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        content = [
            {
                **self._entry(token.id, token.log_probability),
                "top_logprobs": [self._entry(*each) for each in token.likeliest],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, log_probability: float | None) -> dict[str, Any]:
        text = self._token_text(token)
        known = None if _INCOMPLETE in text else list(text.encode())
        return {"token": text, "logprob": log_probability, "bytes": known}


class TextForm(Form):
    """The continuation of a text."""

    kind, prefix = "text_completion", "cmpl-"

    @property
    def top_logprobs(self) -> int | None:
        found: int | None = self.asked.logprobs
        return found

    def _chunks_of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        before = len(self._text) - len(piece.text)
        yield self._chunk({"text": piece.text, "logprobs": self._logprobs(piece.tokens, before)})

    def closing(self, end: End) -> Iterator[dict[str, Any]]:
        """The last chunks."""
        yield self._chunk({"text": "", "logprobs": None, "finish_reason": _reason(end)})
        if self._with_usage():
            yield self._chunk(None, self._usage(end))

    def whole(self, end: End) -> dict[str, Any]:
        """The answer at its end."""
        choice = {
            "index": 0,
            "text": self._text,
            "logprobs": self._logprobs(tuple(self._tokens), 0),
            "finish_reason": _reason(end),
        }
        head = {**self._head, "object": self.kind}
        return {**head, "choices": [choice], "usage": self._usage(end)}

    def _logprobs(self, tokens: tuple[Written, ...], offset: int) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        texts = [self._token_text(token.id) for token in tokens]
        offsets = [offset + sum(map(len, texts[:n])) for n in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [token.log_probability for token in tokens],
            "top_logprobs": [
                {self._token_text(each): value for each, value in token.likeliest}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _function(called: CalledFunction) -> dict[str, Any]:
    """A call's arguments as an object, which templates write as JSON themselves."""
    try:
        arguments = json.loads(called.arguments)
    except ValueError:
        arguments = called.arguments
    return {"name": called.name, "arguments": arguments}
