"""Answers of a sentence encoder, in three forms: this service's, OpenAI's (/v1/embeddings) and that
of text-embeddings-inference (/embed with `inputs`)."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from edgeprune.model.projection import unit_length
from edgeprune.runtime.embed import Embedder
from edgeprune.service.answers import Handler, TextAnswers, read_body
from edgeprune.service.models import check_name
from edgeprune.service.requests import EMBEDDINGS, Refused, Texts, parse
from edgeprune.service.responses import json_response

_Some = Annotated[list[str], Field(min_length=1)]


class Embedded(Texts):
    """The body of /embed."""

    prompt: str | None = None
    """The name of one of the model's prompts."""


class Inputs(BaseModel):
    """The body of /embed as text-embeddings-inference's clients send it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: str | _Some
    normalize: bool = True
    prompt_name: str | None = None
    truncate: Literal[False] | None = None
    dimensions: int | None = Field(default=None, ge=1)


class OpenAI(BaseModel):
    """The body of /v1/embeddings."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str | _Some
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None
    prompt: str | None = None
    """As in /embed; no field of OpenAI's."""


class EmbeddingAnswers(TextAnswers):
    """An embedding for each text."""

    @property
    def paths(self) -> dict[str, Handler]:
        return {**super().paths, EMBEDDINGS: self.as_openai}

    async def answer(self, request: Request) -> Response:
        body = await read_body(request, self._settings)
        if _has_inputs(body):
            return await self._as_inputs(request, parse(Inputs, body))
        asked = parse(Embedded, body)
        vectors, _ = await self._embedded(request, asked.texts, asked.prompt)
        return json_response({self._name: vectors})

    async def as_openai(self, request: Request) -> Response:
        """The list of embeddings as OpenAI's clients read it."""
        asked = parse(OpenAI, await read_body(request, self._settings))
        check_name(self._model.bundle, self._settings, asked.model)
        found, tokens = await self._embedded(request, _texts(asked.input), asked.prompt)
        vectors: Any = _cut(found, asked.dimensions)
        if asked.encoding_format == "base64":
            rows = np.asarray(vectors, "<f4")
            vectors = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
        data = [
            {"object": "embedding", "index": number, "embedding": vector}
            for number, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": asked.model, "usage": usage})

    async def _as_inputs(self, request: Request, asked: Inputs) -> Response:
        vectors, _ = await self._embedded(request, _texts(asked.inputs), asked.prompt_name)
        vectors = _cut(vectors, asked.dimensions)
        if asked.normalize:
            vectors = unit_length(np.asarray(vectors, np.float32)).tolist()
        return json_response(vectors)

    async def _embedded(
        self, request: Request, texts: Sequence[str], prompt: str | None
    ) -> tuple[list[list[float]], int]:
        """A vector for each text, and their tokens."""
        self._check_count(texts)
        assert isinstance(self._model, Embedder)
        encoded = await asyncio.to_thread(self._model.tokenizer.whole, texts, prompt)
        vectors = await self._answered(request, encoded)
        return vectors, sum(len(tokens.ids) for tokens in encoded)


def _has_inputs(body: bytes) -> bool:
    try:
        content = from_json(body)
    except ValueError:  # `parse` says what is wrong with it
        return False
    return isinstance(content, dict) and "inputs" in content


def _texts(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _cut(vectors: list[list[float]], dimensions: int | None) -> list[list[float]]:
    """The first so many values, of length 1, as OpenAI cuts its own.

    Raises:
        Refused: 400, there are not so many.
    """
    if dimensions is None:
        return vectors
    width = len(vectors[0])
    if dimensions > width:
        raise Refused(400, f"dimensions is {dimensions}; the model's vectors have {width}.")
    rows = np.asarray(vectors, np.float32)[:, :dimensions]
    cut: list[list[float]] = unit_length(rows).tolist()
    return cut
