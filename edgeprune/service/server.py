"""The process: load the bundle, listen, serve, and end cleanly at SIGTERM or Ctrl-C."""

import socket
from pathlib import Path

import click
import uvicorn

from edgeprune import runtime
from edgeprune.errors import UserError
from edgeprune.service.app import make_app
from edgeprune.service.requests import PATHS
from edgeprune.service.settings import ServiceSettings


def serve(folder: str | Path, settings: ServiceSettings) -> None:
    """Serve a bundle until told to stop; then take no more, and let running requests end.

    Raises:
        UserError: the bundle cannot be run, or the address cannot be listened on.
    """
    listener = _listen(settings.host, settings.port)
    model = runtime.load(folder, settings.threads)
    config = uvicorn.Config(
        make_app(model, settings),
        http="h11",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.stop_seconds,
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # One line whatever the terminal's width: other programs read the port in it.
    click.echo(f"{folder} answers at http://{shown}:{port}{PATHS[model.bundle.task]}", err=True)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"Port {port} of {host} cannot be listened on: {error.strerror}.") from None
