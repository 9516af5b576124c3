"""Answers of models of whole texts, in this service's form and in that of text-embeddings-inference
(/predict); and labels at run time (/zero-shot)."""

import asyncio
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from edgeprune.runtime.classify import SequenceModel
from edgeprune.runtime.entailment import TEMPLATE, entailment_of, hypotheses, ranked
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.service.answers import Handler, TextAnswers, read_body
from edgeprune.service.metrics import Metrics
from edgeprune.service.requests import PREDICT, ZERO_SHOT, parse
from edgeprune.service.responses import json_response
from edgeprune.service.settings import ServiceSettings
from edgeprune.text.pairs import Document

_Sequence = Annotated[list[str], Field(min_length=1, max_length=2)]


class Predict(BaseModel):
    """The body of /predict: a text, a list of a text or of the two of a pair, or many of these."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: str | _Sequence | Annotated[list[_Sequence], Field(min_length=1)]
    raw_scores: bool = False
    """Answer with logits."""
    truncate: bool = False
    """Cut what is longer than the model reads, which is refused otherwise."""

    @property
    def documents(self) -> list[Document]:
        """Every text or pair."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        some = self.inputs if isinstance(self.inputs[0], list) else [self.inputs]
        return [_document(each) for each in some]

    @property
    def single(self) -> bool:
        """Whether one answer is wanted, and no list of them."""
        return isinstance(self.inputs, str) or not isinstance(self.inputs[0], list)


class Labelled(BaseModel):
    """The body of /zero-shot."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: Annotated[list[str], Field(min_length=1)]
    labels: Annotated[list[str], Field(min_length=1)]
    hypothesis_template: str = TEMPLATE
    multi_label: bool = False


class PredictionAnswers(TextAnswers):
    """Logits for each text, and what is made of them."""

    def __init__(self, model: SequenceModel, settings: ServiceSettings, metrics: Metrics) -> None:
        super().__init__(model, settings, metrics)
        self._sequences = model
        self._cutting = _cutting(model, self._longest)

    @property
    def paths(self) -> dict[str, Handler]:
        return {**super().paths, PREDICT: self.predict}

    async def predict(self, request: Request) -> Response:
        """Every label of each text with its score, the likeliest first."""
        asked = parse(Predict, await read_body(request, self._settings))
        logits, _ = await self._logits(request, asked.documents, asked.truncate)
        scores = logits if asked.raw_scores else self._sequences.scaled(logits)
        found = [
            [{"label": self._sequences.labels[n], "score": float(row[n])} for n in np.argsort(-row)]
            for row in scores.reshape(len(logits), -1)
        ]
        return json_response(found[0] if asked.single else found)

    async def _answered(self, request: Request, encoded: Any) -> list[Any]:
        return self._sequences.told(np.array(await super()._answered(request, encoded)))

    async def _logits(
        self, request: Request, documents: list[Document], cut: bool
    ) -> tuple[np.ndarray, int]:
        """Logits [texts, labels], and the tokens that were read."""
        return await self._logits_by(
            request, documents, self._cutting if cut else self._model.tokenizer
        )

    async def _logits_by(
        self, request: Request, documents: list[Document], tokenizer: Tokenizer
    ) -> tuple[np.ndarray, int]:
        self._check_count(documents)
        encoded = await asyncio.to_thread(tokenizer.whole, documents)
        rows = await super()._answered(request, encoded)
        return np.array(rows), sum(len(tokens.ids) for tokens in encoded)

    def _run(self, texts: Any) -> list[Any]:
        """Logits of each text: all answers are made of them."""
        return list(self._sequences.logits_of(texts, len(texts)))


class ClassifierAnswers(PredictionAnswers):
    """A label of each text, of the model's or of the request's own."""

    def __init__(self, model: SequenceModel, settings: ServiceSettings, metrics: Metrics) -> None:
        super().__init__(model, settings, metrics)
        self._premises = _cutting(model, self._longest, first_only=True)

    @property
    def paths(self) -> dict[str, Handler]:
        return {**super().paths, ZERO_SHOT: self.zero_shot}

    async def zero_shot(self, request: Request) -> Response:
        """The request's labels of each text with their scores; a long text is cut."""
        asked = parse(Labelled, await read_body(request, self._settings))
        names = self._sequences.labels
        entailment_of(names)
        # Before there are pairs: a small body can ask for billions.
        self._check_number(len(asked.texts) * len(asked.labels))
        pairs = list(hypotheses(asked.texts, asked.labels, asked.hypothesis_template))
        logits, _ = await self._logits_by(request, [*pairs], self._premises)
        found = ranked(logits, names, asked.labels, asked.multi_label)
        return json_response({self._name: found})


def _cutting(model: SequenceModel, longest: int, first_only: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(model.bundle)
    tokenizer.cut_at(longest, first_only)
    return tokenizer


def _document(texts: Any) -> Document:
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])
