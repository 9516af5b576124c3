"""Middleware before the app: admission, concurrency and time limits, and counts."""

import asyncio
import time

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

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._callers, self._running = Callers(settings), 0
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
            if refused is None and self._running >= self._settings.max_concurrent:
                refused = refusal(503, "The service is busy: try again later.", scope["path"])
            await (refused or self._admit)(scope, receive, noting)
        finally:
            self._metrics.requests.labels(scope["path"], status).inc()
            self._metrics.seconds.labels(scope["path"]).observe(time.monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._running += 1
        self._metrics.running.set(self._running)
        try:
            async with asyncio.timeout(self._longest) as limit:
                await self._app(scope, receive, send)
        except TimeoutError:
            # The server closes the connection of an incomplete answer.
            if not limit.expired():
                raise
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)
