"""Answers of an encoder that fills in masked tokens."""

import asyncio
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from edgeprune.runtime.fill import TOP_K, Filler
from edgeprune.service.answers import TextAnswers, read_body
from edgeprune.service.requests import Refused, Texts, parse
from edgeprune.service.responses import json_response

_MOST = 1000
_MOST_FILLS = 10_000
"""Of one request: each is a whole text."""


class Filled(Texts):
    """The body of /fill."""

    top_k: int = Field(TOP_K, ge=1, le=_MOST)
    """The number of fills of each masked token."""
    targets: Annotated[list[str], Field(min_length=1, max_length=_MOST)] | None = None
    """The words that may fill; all tokens where there are none."""


class FillAnswers(TextAnswers):
    """The fills of each text's masked tokens."""

    async def answer(self, request: Request) -> Response:
        asked = parse(Filled, await read_body(request, self._settings))
        self._check_count(asked.texts)
        assert isinstance(self._model, Filler)
        encoded = await asyncio.to_thread(
            self._model.encode, asked.texts, asked.top_k, asked.targets or (), cut=False
        )
        masked = sum(self._model.masks_in(tokens) for tokens in encoded)
        if masked * asked.top_k > _MOST_FILLS:
            raise Refused(
                400,
                f"{masked:,} masked tokens with {asked.top_k:,} fills each are more than the "
                f"{_MOST_FILLS:,} fills of one request: lower top_k, or send fewer texts.",
            )
        return json_response({self._name: await self._answered(request, encoded)})
