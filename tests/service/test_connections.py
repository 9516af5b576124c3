"""Connections without a request, on a clock and transports of the tests' own."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the service's extra is not installed")

from edgeprune.service.connections import Lobby
from edgeprune.service.settings import ServiceSettings


class Clock:
    """Runs what was put off when it is told to."""

    def __init__(self) -> None:
        self.due: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def call_later(self, seconds: float, run: Callable[..., None], *given: Any) -> "Clock":
        self.due.append((run, given))
        return self

    def cancel(self) -> None:
        pass

    def pass_once(self) -> None:
        due, self.due = self.due, []
        for run, given in due:
            run(*given)


class Fake:
    """A connection, its transport and its loop in one."""

    def __init__(self, clock: Clock, connections: set["Fake"], unread: int = 0) -> None:
        self.loop, self.connections, self.unread = clock, connections, unread
        self.transport, self.aborted = self, False
        connections.add(self)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True
        self.connections.discard(self)


@pytest.fixture
def lobby() -> Lobby:
    return Lobby(ServiceSettings(max_connections=3, max_concurrent=2))


def test_an_answer_has_as_long_as_its_client_reads(lobby: Any) -> None:
    clock, connections = Clock(), set()
    slow = Fake(clock, connections, unread=300)
    never = Fake(clock, connections, unread=300)
    lobby.enter(slow)
    lobby.enter(never)
    for unread in (200, 100, 0):
        slow.unread = unread
        clock.pass_once()
        assert (slow.aborted, never.aborted) == (False, True)
    clock.pass_once()
    assert slow.aborted


def test_whoever_comes_when_it_is_full_takes_the_place_of_the_oldest(lobby: Any) -> None:
    clock, connections = Clock(), set()
    all_of_them = []
    for _ in range(6):
        all_of_them.append(Fake(clock, connections))
        lobby.enter(all_of_them[-1])
    assert [each.aborted for each in all_of_them] == [True] * 3 + [False] * 3
    lobby.leave(all_of_them[3])  # its request is answered now
    lobby.enter(Fake(clock, connections))
    assert [each.aborted for each in all_of_them[3:]] == [False, True, False]
