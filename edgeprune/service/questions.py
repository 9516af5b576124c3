"""Answers to questions, each by a part of its context."""

import asyncio

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from edgeprune.runtime.answer import MOST_TOKENS, Answerer, Wanted
from edgeprune.service.answers import TextAnswers, read_body
from edgeprune.service.requests import parse
from edgeprune.service.responses import json_response

_MOST = 1000


class Asked(BaseModel):
    """A question with its context."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(min_length=1)
    context: str = Field(min_length=1)


class Questions(BaseModel):
    """The body of /answer, with settings named as transformers names them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    questions: list[Asked] = Field(min_length=1)
    top_k: int = Field(1, ge=1, le=_MOST)
    handle_impossible_answer: bool = False
    max_answer_len: int = Field(MOST_TOKENS, ge=1, le=_MOST)


class QuestionAnswers(TextAnswers):
    """The answers to each question."""

    async def answer(self, request: Request) -> Response:
        asked = parse(Questions, await read_body(request, self._settings))
        pairs = [(each.question, each.context) for each in asked.questions]
        self._check_count(pairs)
        wanted = Wanted(asked.top_k, asked.handle_impossible_answer, asked.max_answer_len)
        assert isinstance(self._model, Answerer)
        encoded = await asyncio.to_thread(self._model.encode, pairs, wanted)
        return json_response({self._name: await self._answered(request, encoded)})
