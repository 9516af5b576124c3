"""The service as others meet it: requests that are mutated, and load of all kinds with faults.

Every request goes over a connection of its own, as bytes. A fault is an answer of 500, none from a
service that hangs (patience.py), one that is no HTTP, another vector for the same text, a process
that has ended, a traceback in its log, or memory that grows.
"""

import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from trust import mutate
from trust.patience import IDLE, Patience, ended

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

from onnx_models import WORDS, encoder_folder

LOOKS = 1.0
"""Seconds between two looks at a service that does not answer."""
CLIENTS = 8
_LIMITS = ("--head-seconds", "2", "--body-seconds", "2", "--threads", "1")
_ADDRESS = re.compile(r"http://([\d.]+):(\d+)/")
_GROWTH, _SETTLED = 1.1, 0.3
"""The most that memory may grow from the time when this share of the seconds has gone by."""
_WARM = 100
"""Requests before which memory has not settled."""
_BODIES: tuple[tuple[str, Any], ...] = (
    ("/embed", {"texts": ["the cat", "a dog ran"]}),
    ("/v1/embeddings", {"model": "encoder", "input": ["the cat"], "encoding_format": "float"}),
    ("/v1/embeddings", {"model": "encoder", "input": "the cat", "encoding_format": "base64"}),
    ("/predict", {"inputs": ["the cat"]}),
    ("/rerank", {"query": "the cat", "texts": ["a dog", "far away"]}),
    ("/zero-shot", {"texts": ["the cat"], "labels": ["a", "b"]}),
)


class Served:
    """A running service, and what it has written."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "edgeprune", "serve", str(folder), "--port", "0", *_LIMITS]
        self.process = psutil.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self._listening = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        patience = Patience(self.process)
        while not self._listening.wait(LOOKS):
            if self.process.poll() is not None or patience.lost():
                self.process.kill()
                raise RuntimeError(f"the service does not listen: {self.log}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := _ADDRESS.search(line):
                self.address = (found[1], int(found[2]))
                self._listening.set()

    def ask(self, request: bytes, leaves: bool = False) -> tuple[int, bytes]:
        """The status and body of an answer; 0 where the connection was closed without one.

        leaves: the client goes away before it has read the answer.

        Raises:
            TimeoutError: there is none, and the service does not work on one.
            ValueError: it is no HTTP.
        """
        patience = Patience(self.process, IDLE)
        with socket.create_connection(self.address, timeout=LOOKS) as connection:
            found = b""
            try:
                connection.sendall(request)
                if leaves:
                    return 0, b""
                while piece := _received(connection, patience):
                    found += piece
            except (ConnectionResetError, BrokenPipeError):  # closed on an endless request
                pass
        if not found:
            return 0, b""
        head, _, body = found.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if status is None:
            raise ValueError(f"no HTTP: {found[:80]!r}")
        return int(status[1]), body

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def faults(self) -> list[str]:
        """What the process itself has to tell."""
        ended = self.process.poll()
        found = [] if ended is None else [f"the service has ended with {ended}"]
        return found + [line.strip() for line in self.log if "Traceback" in line]


def _received(connection: socket.socket, patience: Patience) -> bytes:
    """The next piece of an answer; b"" at its end."""
    while True:
        lost = patience.lost()
        try:
            return connection.recv(1 << 16)
        except TimeoutError:
            if lost:
                raise TimeoutError(lost) from None


@contextmanager
def served() -> Iterator[Served]:
    """A service of a tiny encoder."""
    with TemporaryDirectory() as scratch:
        service = Served(encoder_folder(Path(scratch) / "encoder"))
        try:
            yield service
        finally:
            service.process.kill()
            service.process.wait()


def request(path: str, body: bytes, **headers: str) -> bytes:
    """A request that asks for the connection to be closed behind it."""
    given = {
        "Host": "localhost",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def mutated(draw: random.Random) -> bytes:
    """A request whose body, or whose every byte, has faults."""
    path, value = draw.choice(_BODIES)
    body = json.dumps(value).encode()
    if draw.random() < 0.3:
        return mutate.of_bytes(draw, request(path, body))
    return request(path, mutate.of_json(draw, body))


def run_requests(first: int, count: int, seconds: float | None) -> dict[str, Any]:
    """Mutated requests, one after another."""
    end = None if seconds is None else time.monotonic() + seconds
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    with served() as service:
        for number in range(first, first + count):
            if end is not None and time.monotonic() > end:
                break
            sent = mutated(random.Random(f"requests {number}"))
            try:
                status, _ = service.ask(sent)
            except (TimeoutError, ValueError, OSError) as error:
                status = -1
                wrong.append(f"{number}: {error!r}: {sent[:200]!r}")
            if status == 500:
                wrong.append(f"{number}: answered with 500: {sent[:300]!r}")
            codes[str(status)] += 1
        wrong += service.faults()
    return {"inputs": codes.total(), "codes": dict(codes), "wrong": wrong}


def run_load(number: int, seconds: float) -> dict[str, Any]:
    """Clients of all kinds at once; /health answers all the while, vectors are right, memory is
    flat, and the process ends at SIGTERM."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    end = time.monotonic() + seconds
    with served() as service:
        expected = {word: _vector(service, word) for word in WORDS}

        def client(index: int) -> None:
            draw = random.Random(f"load {number} {index}")
            while time.monotonic() < end:
                kind = draw.choice(tuple(_KINDS))
                try:
                    fault = _KINDS[kind](service, draw, expected)
                except (TimeoutError, ValueError, OSError) as error:
                    fault = repr(error)
                counts[kind] += 1
                if fault:
                    wrong.append(f"{kind}: {fault}")

        clients = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
        for each in clients:
            each.start()
        settled = 0
        while any(each.is_alive() for each in clients):
            asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            try:
                if (status := service.ask(asked)[0]) != 200:
                    wrong.append(f"/health answers with {status}")
            except (TimeoutError, ValueError, OSError) as error:
                wrong.append(f"/health: {error!r}")
            warm = time.monotonic() > end - (1 - _SETTLED) * seconds and counts.total() > _WARM
            if not settled and warm:
                settled = service.memory
            time.sleep(0.1)
        last = service.memory
        if settled and last > _GROWTH * settled:
            wrong.append(f"memory grows from {settled / 1e6:.0f} to {last / 1e6:.0f} MB")
        wrong += service.faults()
        service.process.send_signal(signal.SIGTERM)
        if lost := ended(service.process):
            wrong.append(f"SIGTERM: {lost}")
        elif service.process.returncode not in (0, -signal.SIGTERM):
            wrong.append(f"SIGTERM: ended with {service.process.returncode}")
    return {
        "requests": counts.total(),
        "seconds": seconds,
        "kinds": dict(counts),
        "megabytes": [round(settled / 1e6), round(last / 1e6)],
        "wrong": wrong[:50],
    }


def _vector(service: Served, text: str) -> np.ndarray:
    status, body = service.ask(request("/embed", json.dumps({"texts": [text]}).encode()))
    if status != 200:
        raise ValueError(f"{text} is answered with {status}")
    return np.array(json.loads(body)["embeddings"][0])


def _asked(service: Served, draw: random.Random, expected: dict[str, np.ndarray]) -> str | None:
    texts = draw.choices(list(expected), k=draw.randint(1, 16))
    status, body = service.ask(request("/embed", json.dumps({"texts": texts}).encode()))
    if status == 503:
        return None
    if status != 200:
        return f"answered with {status}"
    found = np.array(json.loads(body)["embeddings"])
    right = np.allclose(found, [expected[text] for text in texts], rtol=1e-3, atol=1e-5)
    return None if right else f"other vectors for {texts}"


def _long(service: Served, draw: random.Random, expected: dict[str, np.ndarray]) -> str | None:
    body = {"texts": [" ".join(draw.choices(WORDS, k=draw.randint(1, 60))) for _ in range(16)]}
    status, _ = service.ask(request("/embed", json.dumps(body).encode()))
    return None if status in (200, 503) else f"answered with {status}"


def _faulty(service: Served, draw: random.Random, expected: dict[str, np.ndarray]) -> str | None:
    status, _ = service.ask(mutated(draw))
    return "answered with 500" if status == 500 else None


def _leaving(service: Served, draw: random.Random, expected: dict[str, np.ndarray]) -> str | None:
    body = json.dumps({"texts": ["the cat"] * 32}).encode()
    sent = request("/embed", body)
    service.ask(sent[: draw.randint(1, len(sent))], leaves=True)
    return None


def _slow(service: Served, draw: random.Random, expected: dict[str, np.ndarray]) -> str | None:
    """Half a request, and silence: the service ends it."""
    sent = request("/embed", json.dumps({"texts": ["the cat"]}).encode())
    service.ask(sent[: draw.randint(1, len(sent) - 1)])
    return None


_KINDS = {"asked": _asked, "long": _long, "mutated": _faulty, "leaving": _leaving, "slow": _slow}
