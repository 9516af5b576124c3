"""Answers of a reranker, in three forms: this service's, that of text-embeddings-inference
(/rerank) and Cohere's (/v1/rerank).

Both others promise scores of 0 to 1, which are the sigmoid of the model's logit, whatever the model
itself answers with.
"""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from edgeprune.model.scores import sigmoid
from edgeprune.runtime.rank import order
from edgeprune.service.answers import Handler, read_body
from edgeprune.service.models import check_name
from edgeprune.service.predicting import PredictionAnswers
from edgeprune.service.requests import RERANK, RERANK_COHERE, parse
from edgeprune.service.responses import json_response


class Rerank(BaseModel):
    """The body of /rerank."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str
    texts: Annotated[list[str], Field(min_length=1)]
    raw_scores: bool = False
    """Answer with logits."""
    return_text: bool = False
    truncate: bool = False
    """Cut what is longer than the model reads, which is refused otherwise."""


class Document(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(strict=True)

    text: str


class CohereRerank(BaseModel):
    """The body of /v1/rerank, whose documents are cut where they are too long."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str
    documents: Annotated[list[str | Document], Field(min_length=1)]
    model: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False


class RankingAnswers(PredictionAnswers):
    """A score for each text or pair, and documents ranked by theirs."""

    @property
    def paths(self) -> dict[str, Handler]:
        return {**super().paths, RERANK: self.rerank, RERANK_COHERE: self.as_cohere}

    async def rerank(self, request: Request) -> Response:
        """The texts' places and scores, the best first."""
        asked = parse(Rerank, await read_body(request, self._settings))
        logits, _ = await self._beside(request, asked.query, asked.texts, asked.truncate)
        scores = logits if asked.raw_scores else sigmoid(np.array(logits)).tolist()
        return json_response(
            [
                {"index": index, "score": scores[index]}
                | ({"text": asked.texts[index]} if asked.return_text else {})
                for index in order(logits)
            ]
        )

    async def as_cohere(self, request: Request) -> Response:
        """The same as Cohere's clients read it."""
        asked = parse(CohereRerank, await read_body(request, self._settings))
        if asked.model is not None:
            check_name(self._model.bundle, self._settings, asked.model)
        texts = [each if isinstance(each, str) else each.text for each in asked.documents]
        logits, tokens = await self._beside(request, asked.query, texts, cut=True)
        scores = sigmoid(np.array(logits)).tolist()
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": texts[index]}} if asked.return_documents else {})
            for index in order(logits)[: asked.top_n]
        ]
        usage = {"total_tokens": tokens}
        return json_response({"id": str(uuid4()), "results": results, "usage": usage})

    async def _beside(
        self, request: Request, query: str, texts: Sequence[str], cut: bool
    ) -> tuple[list[float], int]:
        """The logit of each text beside the query, and their tokens."""
        logits, tokens = await self._logits(request, [(query, text) for text in texts], cut)
        return logits[:, 0].tolist(), tokens
