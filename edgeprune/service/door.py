"""What stands before the app: who may come in, how many, how long one may stay, the counts."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeprune.service.callers import Callers
from edgeprune.service.metrics import Metrics
from edgeprune.service.requests import PATHS
from edgeprune.service.responses import refusal
from edgeprune.service.settings import ServiceSettings

LEFT = 499
"""The status, in the counts alone, of a request whose client left before the answer."""


class Door:
    """ASGI middleware. /health and /metrics are not counted, so that a full service can be told
    from a dead one."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._callers, self._running = Callers(settings), 0
        # Within it the app keeps its own times; this one also ends a client that reads nothing.
        self._longest = settings.body_seconds + settings.answer_seconds + settings.generate_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._callers.refused(scope) if scope["type"] == "http" else None
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await (refused or self._app)(scope, receive, send)
            return
        status = LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.monotonic()
        try:
            if refused is None and self._running >= self._settings.max_concurrent:
                refused = refusal(503, "The service is busy: try again later.")
            await (refused or self._let_in)(scope, receive, noting)
        finally:
            self._metrics.requests.labels(scope["path"], status).inc()
            self._metrics.seconds.labels(scope["path"]).observe(time.monotonic() - started)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._running += 1
        self._metrics.running.set(self._running)
        try:
            async with asyncio.timeout(self._longest) as limit:
                await self._app(scope, receive, send)
        except TimeoutError:
            # The server closes the connection of an answer that is not whole.
            if not limit.expired():
                raise
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)
