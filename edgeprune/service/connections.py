"""Close idle connections after a time, or when others need their place.

So heads that never end, silent connections and unread answers cannot block the service.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeprune.service.settings import ServiceSettings


class Lobby:
    """Holds connections between two requests and before the first, in order of arrival.

    A response may still be on its way to its client; the time restarts as long as the client reads.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._seconds, self._places = settings.head_seconds, settings.max_connections
        self._inside: dict[Connection, asyncio.TimerHandle] = {}

    def enter(self, connection: "Connection") -> None:
        if connection in self._inside:
            return
        unread = connection.transport.get_write_buffer_size()
        self._inside[connection] = connection.loop.call_later(
            self._seconds, self._look, connection, unread
        )
        if len(connection.connections) > self._places:
            self._close(next(iter(self._inside)))

    def leave(self, connection: "Connection") -> None:
        if timer := self._inside.pop(connection, None):
            timer.cancel()

    def _look(self, connection: "Connection", unread: int) -> None:
        if connection.transport.get_write_buffer_size() < unread:
            self.leave(connection)
            self.enter(connection)
        else:
            self._close(connection)

    def _close(self, connection: "Connection") -> None:
        self.leave(connection)
        connection.transport.abort()


class Connection(H11Protocol):
    """A uvicorn connection that enters the lobby whenever it has no request."""

    def __init__(self, lobby: Lobby, **given: Any) -> None:
        super().__init__(**given)
        self._lobby = lobby

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._settle()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lobby.leave(self)
        super().connection_lost(exc)

    def _settle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._lobby.enter(self)
        else:
            self._lobby.leave(self)
