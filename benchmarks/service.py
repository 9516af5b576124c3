"""The HTTP service under load: `python benchmarks/service.py BUNDLE [--clients 50] [--seconds 60]`.

Against the real process over loopback, with a bundle that embeds:

1. a soak: clients send valid, oversized and malformed requests and drop connections, by chance but
   from a fixed seed. A valid request must get the runtime's answer, or 503; whatever else is not
   refused as it should be counts as a failure. The process' memory, files and threads are sampled,
   and at the end it must be idle, still right, and stop cleanly;
2. what batching brings: the same service with batches and one by one, in turns of a few seconds,
   on short, long and mixed texts, as a paired ratio of requests a second with its interval.

Writes benchmarks/results/service.json; the exit code is 1 where the soak found a failure.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from serving import Service, serving

from edgeprune import runtime
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import paired_ratio, percentile
from edgeprune.runtime.embed import Embedder
from edgeprune.service.settings import ServiceSettings

ROOT = Path(__file__).parents[1]

RESULTS = Path(__file__).parent / "results" / "service.json"
PROSE = ("README.md", "LICENSE")
POOL = 300
"""Different texts."""
SHARES = {"valid": 0.7, "oversized": 0.1, "malformed": 0.1, "dropped": 0.1}
CLOSE = 0.95
"""Cosine to the runtime's answer for the text alone: INT8 activations are rounded by a batch's
range. The answer must be nearer to its own text's than to any other's besides. One by one, it must
be the runtime's own, to EXACT."""
EXACT = 1e-5
SAMPLE_SECONDS = 0.25
SETTLE_SHARE = 0.3
"""Of the soak, while memory may still grow to what batches of every size need."""
FLAT = 0.02
"""The most that memory may grow after that, as a share."""
CHECKED = 0.1
"""Of the timed answers, the rest are thrown away: the clients' time is not what is measured."""
LENGTHS = {"short": (3, 12), "long": (50, 60), "mixed": (3, 60)}
"""Words of a text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="one that embeds")
    parser.add_argument("--original", type=Path, help="what it was made of, to compare with, too")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the soak")
    parser.add_argument("--rounds", type=int, default=10, help="of batches and one by one")
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of a round's half")
    parser.add_argument("--pin", action="store_true", help="the service on core 1, clients on 0")
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    model = runtime.load(given.bundle, threads=1)
    if not isinstance(model, Embedder):
        parser.error(f"{given.bundle} does not embed")
    if given.pin:
        psutil.Process().cpu_affinity([0])
    result: dict[str, Any] = {"machine": machine_facts().to_json(), "bundle": given.bundle.name}
    pool = Pool(model, LENGTHS["mixed"])
    if given.original:
        pool.compare_with(runtime.load(given.original, threads=1))
    result["soak"] = soak(given.bundle, pool, given.clients, given.seconds, given.pin)
    show(result["soak"])
    result["batching"] = {}
    for name, words in LENGTHS.items():
        found = batching(given.bundle, model, words, given)
        result["batching"][name] = found
        print(f"{name}: {json.dumps(found)}", flush=True)
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if result["soak"]["failures"] else 0)


# Texts and their right answers --------------------------------------------------------------------


class Pool:
    """Pieces of this repository's own prose, and the runtime's embedding of each alone."""

    def __init__(self, model: Embedder, words: tuple[int, int], seed: int = 0) -> None:
        rng = random.Random(seed)
        prose = [word for name in PROSE for word in (ROOT / name).read_text("utf-8").split()]
        starts = np.linspace(0, len(prose) - words[1], POOL).astype(int)  # apart from each other
        self.texts = [" ".join(prose[at : at + rng.randint(*words)]) for at in starts]
        vectors = model.embed(self.texts, batch_size=1)
        self.least = 1.0
        self._own = vectors
        self._original: np.ndarray | None = None
        self._served: list[float] = []
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def compare_with(self, original: Embedder) -> None:
        """Also note how far the answers are from the original model's."""
        vectors = original.embed(self.texts, batch_size=1)
        self._original = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def to_original(self) -> dict[str, float] | None:
        """Mean cosines to the original: of the bundle's answers to a text alone, and as served."""
        if self._original is None:
            return None
        alone = (self._vectors * self._original).sum(axis=1).mean()
        return {"alone": round(float(alone), 6), "served": round(float(np.mean(self._served)), 6)}

    def exact(self, number: int, answers: Any) -> bool:
        """Whether the answer is the runtime's own."""
        return bool(np.allclose(answers, self._own[[number]], atol=EXACT))

    def right(self, numbers: Sequence[int], answers: Any) -> bool:
        """Whether the answers are these texts', in their order."""
        found = np.asarray(answers, np.float32)
        if found.shape != (len(numbers), self._vectors.shape[1]):
            return False
        cosines = found @ self._vectors.T / np.linalg.norm(found, axis=1, keepdims=True)
        if self._original is not None:
            nearness = (found * self._original[numbers]).sum(axis=1) / np.linalg.norm(found, axis=1)
            self._served += nearness.tolist()
        own = cosines[np.arange(len(numbers)), numbers]
        self.least = min(self.least, float(own.min()))
        return bool(own.min() >= CLOSE and (cosines.argmax(axis=1) == numbers).all())


# The soak -----------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of each kind of request; `failures` hold what should not have."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str, outcome: str, expected: bool) -> None:
        self.outcomes[f"{kind}: {outcome}"] += 1
        if not expected:
            self.failures[f"{kind}: {outcome}"] += 1


def soak(bundle: Path, pool: Pool, clients: int, seconds: float, pin: bool) -> dict[str, Any]:
    """Clients of all kinds for so long; what came of it, and what the process took."""
    tally = Tally()
    with serving(bundle, "--max-batch", "16", pin=pin) as service:
        samples, idle = asyncio.run(_soak(service, pool, tally, clients, seconds))
        service.process.terminate()
        code = service.process.wait(60)
        assert service.process.stderr is not None
        log = service.process.stderr.read()
    memory = growth([sample["bytes"] for sample in samples])
    if code not in (0, -15):
        tally.failures[f"the process ended with {code}"] += 1
    if log.strip():
        tally.failures[f"the log has: {log.strip().splitlines()[-1]}"] += 1
    if memory["growth"] > FLAT:
        tally.failures["memory grew"] += 1
    if not idle:
        tally.failures["it was not idle at the end"] += 1
    return {
        "clients": clients,
        "seconds": seconds,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "failures": dict(tally.failures),
        "least_cosine": round(pool.least, 6),
        "cosine_to_original": pool.to_original(),
        "memory": memory,
        "files": [samples[0]["files"], max(s["files"] for s in samples), samples[-1]["files"]],
        "threads": [samples[0]["threads"], max(s["threads"] for s in samples)],
        "samples_mb": [round(sample["bytes"] / 1e6, 1) for sample in samples],
    }


async def _soak(
    service: Service, pool: Pool, tally: Tally, clients: int, seconds: float
) -> tuple[list[dict[str, int]], bool]:
    samples: list[dict[str, int]] = []
    async with _session(service, clients) as session:
        sampling = asyncio.create_task(_sample(service, samples))
        until = time.monotonic() + seconds
        await asyncio.gather(
            *(_client(service, session, pool, tally, seed, until) for seed in range(clients))
        )
        sampling.cancel()
    idle = await _idle(service)
    samples.append(_state(psutil.Process(service.process.pid)))
    async with _session(service, 1) as session:
        await _valid(session, pool, tally, random.Random(0))
    return samples, idle


async def _client(
    service: Service,
    session: aiohttp.ClientSession,
    pool: Pool,
    tally: Tally,
    seed: int,
    until: float,
) -> None:
    rng = random.Random(seed)
    kinds, weights = list(SHARES), list(SHARES.values())
    while time.monotonic() < until:
        kind = rng.choices(kinds, weights)[0]
        if kind == "valid":
            await _valid(session, pool, tally, rng)
        elif kind == "dropped":
            await _dropped(service, pool, tally, rng)
        else:
            cases = _OVERSIZED if kind == "oversized" else _MALFORMED
            await _refused(session, tally, kind, *rng.choice(cases))


async def _valid(
    session: aiohttp.ClientSession, pool: Pool, tally: Tally, rng: random.Random
) -> None:
    numbers = rng.sample(range(POOL), rng.choice((1, 1, 1, 2, 4)))
    body = {"texts": [pool.texts[number] for number in numbers]}
    try:
        async with session.post("/embed", json=body) as response:
            content = await response.json()
            if response.status == 200:
                right = pool.right(numbers, content["embeddings"])
                tally.count("valid", "right" if right else "wrong", right)
            else:
                busy = response.status == 503 and "Retry-After" in response.headers
                tally.count("valid", str(response.status), busy)
                await asyncio.sleep(0.05)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        tally.count("valid", type(error).__name__, False)


_JSON = {"Content-Type": "application/json"}
_LIMITS = ServiceSettings()
_OVERSIZED = (
    (json.dumps({"texts": ["a" * (_LIMITS.max_body_bytes + 1)]}).encode(), (413,)),
    (json.dumps({"texts": ["a"] * (_LIMITS.max_texts + 1)}).encode(), (400,)),
    (json.dumps({"texts": ["far " * (_LIMITS.max_tokens + 1)]}).encode(), (400,)),
)
_MALFORMED = tuple(
    (body, (400,))
    for body in (
        b"",
        b"{",
        b'{"texts": "one"}',
        b'{"texts": []}',
        b'{"texts": [1, null]}',
        b'{"texts": [""], "more": 1}',
        b'{"texts": ["\xff\xfe"]}',
        b"[" * 10_000,
        b'{"texts": ["\\ud800"]}',
    )
)


async def _refused(
    session: aiohttp.ClientSession, tally: Tally, kind: str, body: bytes, statuses: tuple[int, ...]
) -> None:
    try:
        async with session.post("/embed", data=body, headers=_JSON) as response:
            content = await response.json()
            said = response.status in (*statuses, 503) and content["error"].endswith(".")
            tally.count(kind, str(response.status), said)
    except (aiohttp.ClientConnectionError, ConnectionError):
        # A body that is refused while it is sent may end in a closed connection.
        tally.count(kind, "closed", kind == "oversized")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        tally.count(kind, type(error).__name__, False)


async def _dropped(service: Service, pool: Pool, tally: Tally, rng: random.Random) -> None:
    """Leave in the head, in the body, or with the whole request sent and no answer read."""
    body = json.dumps({"texts": rng.sample(pool.texts, 4)}).encode()
    head = (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    whole = head + body
    end = rng.choice((rng.randrange(len(head)), rng.randrange(len(head), len(whole)), len(whole)))
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(whole[:end])
        await writer.drain()
        await asyncio.sleep(rng.choice((0, 0.005, 0.05)))
        if rng.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        tally.count("dropped", "left", True)
    except OSError as error:
        tally.count("dropped", type(error).__name__, False)


@asynccontextmanager
async def _session(service: Service, clients: int) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        service.address, connector=connector, timeout=timeout
    ) as session:
        yield session


async def _sample(service: Service, samples: list[dict[str, int]]) -> None:
    process = psutil.Process(service.process.pid)
    while True:
        samples.append(_state(process))
        await asyncio.sleep(SAMPLE_SECONDS)


def _state(process: psutil.Process) -> dict[str, int]:
    with process.oneshot():
        return {
            "bytes": process.memory_info().rss,
            "files": process.num_fds(),
            "threads": process.num_threads(),
        }


async def _idle(service: Service, seconds: float = 20.0) -> bool:
    """Whether the service comes to rest: nothing runs, nothing waits, connections are closed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        async with _session(service, 1) as session, session.get("/metrics") as response:
            text = await response.text()
        busy = re.findall(r"^edgeprune_(?:requests_running|texts_waiting) (\S+)$", text, re.M)
        open_connections = psutil.Process(service.process.pid).net_connections("tcp")
        left = [c for c in open_connections if c.status != psutil.CONN_LISTEN]
        if busy == ["0.0", "0.0"] and len(left) <= 1:
            return True
        await asyncio.sleep(0.5)
    return False


def growth(values: Sequence[int]) -> dict[str, float]:
    """How memory went after it settled: medians of the first and the last fifth of the rest, and
    the slope of the least-squares line."""
    settled = np.asarray(values[int(len(values) * SETTLE_SHARE) :], float) / 1e6
    fifth = max(1, len(settled) // 5)
    before, after = np.median(settled[:fifth]), np.median(settled[-fifth:])
    minutes = np.arange(len(settled)) * SAMPLE_SECONDS / 60
    slope = np.polyfit(minutes, settled, 1)[0] if len(settled) > 2 else 0.0
    return {
        "first_mb": round(values[0] / 1e6, 1),
        "settled_mb": round(float(before), 1),
        "last_mb": round(float(after), 1),
        "growth": round(float(after / before - 1), 4),
        "mb_a_minute": round(float(slope), 2),
    }


# Batching -----------------------------------------------------------------------------------------


def batching(
    bundle: Path, model: Embedder, words: tuple[int, int], given: argparse.Namespace
) -> dict[str, Any]:
    """Requests a second of one text each, in batches and one by one, in turns."""
    pool = Pool(model, words)
    sides: dict[str, list[float]] = {"batches": [], "one_by_one": []}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with (
        serving(bundle, "--max-batch", "16", pin=given.pin) as together,
        serving(bundle, "--max-batch", "1", pin=given.pin) as alone,
    ):
        services = {"batches": together, "one_by_one": alone}
        for number in range(given.rounds + 1):
            order = list(services) if number % 2 else list(services)[::-1]
            for side in order:
                check = pool.exact if side == "one_by_one" else lambda n, a: pool.right([n], a)
                took = asyncio.run(_turn(services[side], pool, check, given.clients, given.turn))
                if number:  # the first round warms up
                    sides[side].append(len(took) / given.turn)
                    seconds[side] += took
    ratio = paired_ratio(sides["batches"], sides["one_by_one"])
    return {
        "words": list(words),
        "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
        **{
            side: {
                "requests_a_second": round(float(np.median(rates)), 1),
                "median_ms": round(1000 * percentile(seconds[side], 50), 1),
                "p95_ms": round(1000 * percentile(seconds[side], 95), 1),
            }
            for side, rates in sides.items()
        },
    }


async def _turn(
    service: Service,
    pool: Pool,
    check: Callable[[int, Any], bool],
    clients: int,
    seconds: float,
) -> list[float]:
    """Seconds of each request that ended within a turn; a wrong answer ends the benchmark."""
    took: list[float] = []
    async with _session(service, clients) as session:
        until = time.monotonic() + seconds

        async def ask(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < until:
                number = rng.randrange(POOL)
                began = time.monotonic()
                async with session.post("/embed", json={"texts": [pool.texts[number]]}) as response:
                    content = await response.read()
                if time.monotonic() < until:
                    took.append(time.monotonic() - began)
                if rng.random() < CHECKED and not check(number, json.loads(content)["embeddings"]):
                    raise SystemExit(f"a wrong answer to: {pool.texts[number]}")

        await asyncio.gather(*(ask(seed) for seed in range(clients)))
    return took


def show(found: dict[str, Any]) -> None:
    for outcome, count in found["outcomes"].items():
        print(f"  {count:7,} {outcome}")
    print(f"  memory {found['memory']}, files {found['files']}, threads {found['threads']}")
    print(f"  least cosine {found['least_cosine']}, to the original {found['cosine_to_original']}")
    print(f"  failures: {found['failures'] or 'none'}", flush=True)


if __name__ == "__main__":
    main()
