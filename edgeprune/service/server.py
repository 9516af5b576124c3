"""The process: load the bundle, listen, serve, and end cleanly at SIGTERM or Ctrl-C."""

import logging
import os
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import uvicorn

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.service.answers import Answers
from edgeprune.service.app import make_app
from edgeprune.service.connections import Connection, Lobby
from edgeprune.service.logs import LOGGERS, Seldom
from edgeprune.service.settings import ServiceSettings

_TOLD_SECONDS = 60
"""Seconds between counts of suppressed log lines."""
_TO_ANSWER = 0.8
"""Share of the stop time for answers; the rest is for their last words to arrive."""
_LAST_SECONDS = 1
"""Grace after the stop time, before the process is ended: a call of the model may still run."""


class _Server(uvicorn.Server):
    """Closes the answers at a stop, before waiting for running requests."""

    def __init__(self, config: uvicorn.Config, answers: Answers, seldom: Seldom) -> None:
        super().__init__(config)
        self._answers, self._seldom = answers, seldom

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        seconds = self.config.timeout_graceful_shutdown or 0
        end = threading.Timer(seconds + _LAST_SECONDS, os._exit, (128 + signal.SIGTERM,))
        end.daemon = True
        end.start()
        self._answers.close(_TO_ANSWER * seconds)
        await super().shutdown(sockets)
        await self._seldom.tell()


def serve(bundle: str | Path | Bundle, settings: ServiceSettings) -> None:
    """Serve a bundle until told to stop; then accept no more, and let running requests finish.

    Raises:
        UserError: the bundle cannot be run, or the address is not available.
    """
    listener = _listen(settings.host, settings.port)
    model = runtime.load(bundle, settings.threads)
    app, seldom = make_app(model, settings), Seldom()
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(Connection, Lobby(settings))),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.stop_seconds,
        timeout_notify=_TOLD_SECONDS,
        callback_notify=seldom.tell,
    )
    for name in LOGGERS:
        logging.getLogger(name).addFilter(seldom)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # One line at any terminal width: other programs read the port from it.
    path = TASKS[model.bundle.task].path
    variant = f" ({model.bundle.variant})" if model.bundle.variant else ""
    click.echo(f"{model.bundle.folder}{variant} answers at http://{shown}:{port}{path}", err=True)
    _Server(config, app.state.answers, seldom).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"Port {port} of {host} cannot be listened on: {error.strerror}.") from None
