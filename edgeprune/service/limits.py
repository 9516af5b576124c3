"""Middleware before the app: admission, concurrency and time limits, and counts."""

import asyncio
import time
from collections import Counter

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeprune.service.callers import Callers
from edgeprune.service.metrics import Metrics
from edgeprune.service.requests import PATHS
from edgeprune.service.responses import refusal
from edgeprune.service.settings import ServiceSettings

LEFT = 499
"""The status, only in the counts, of a request whose client disconnected before the answer."""


class LimitsMiddleware:
    """Admission and time limits. /health and /metrics are exempt, so that a busy service can be
    told from a dead one."""

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics, callers: Callers
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._callers, self._running = callers, 0
        self._by_client: Counter[str] = Counter()
        # The app has its own, shorter limits; this one also ends a client that reads nothing.
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
            refused = refused or self._crowded(scope)
            await (refused or self._admit)(scope, receive, noting)
        finally:
            self._metrics.requests.labels(scope["path"], status).inc()
            self._metrics.seconds.labels(scope["path"]).observe(time.monotonic() - started)

    def _crowded(self, scope: Scope) -> Response | None:
        """The refusal of a request for which there is no place; None if there is."""
        most = self._settings.max_per_client
        if most is not None and self._by_client.get(_client(scope), 0) >= most:
            sentence = f"{most} of your requests are being answered: send the next one after them."
            return refusal(429, sentence, scope["path"])
        if self._running >= self._settings.max_concurrent:
            return refusal(503, "The service is busy: try again later.", scope["path"])
        return None

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _client(scope)
        self._running += 1
        self._by_client[client] += 1
        self._metrics.running.set(self._running)
        try:
            async with asyncio.timeout(self._longest) as limit:
                await self._app(scope, receive, send)
        except TimeoutError:
            # The server closes the connection of an incomplete answer.
            if not limit.expired():
                raise
        finally:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]
            self._running -= 1
            self._metrics.running.set(self._running)


def _client(scope: Scope) -> str:
    """A client's address; "" where the server is told none, as over a socket file."""
    return (scope.get("client") or ("",))[0]
