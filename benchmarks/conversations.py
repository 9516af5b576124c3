"""Measure the service with several chats at once: `python benchmarks/conversations.py BUNDLE`.

    EDGEPRUNE_DATA=<folder> python benchmarks/conversations.py BUNDLE [--chats 8] [--rounds 6]

The real process over loopback, on one thread, with rows of a call for all chats and for one
(--max-batch 1), in turns. In each turn the chats of chat/mt_bench are asked at once and answered
greedily with 128 tokens each, without drafts; both must give the same texts. Then, beside all but
one that are being written, another begins: the time to its first token is taken.

The service's own processor time is what counts, so that another process's load does not; wall times
stand beside. A line of JSON goes to benchmarks/results/conversations.jsonl.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnxruntime
import psutil
from lookup import prompts_of
from results_file import add_result, ratio_text
from serving import Service, serving

from edgeprune.measure.bench.stats import paired_ratio

RESULTS = Path(__file__).parent / "results" / "conversations.jsonl"
TOKENS, LONG = 128, 400
PATIENT = ("--answer-seconds", "600", "--generate-seconds", "3600")


def main() -> None:
    """Run the turns, print and keep what they gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--add", action="store_true", help="keep the result")
    given = parser.parse_args()
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    prompts = prompts_of(Path(data) / "chat" / "mt_bench.jsonl")
    with (
        serving(given.bundle, "--max-batch", str(given.chats), *PATIENT) as together,
        serving(given.bundle, "--max-batch", "1", *PATIENT) as alone,
    ):
        sides = {"together": together, "one by one": alone}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        newcomers: list[dict[str, float]] = []
        for number in range(given.rounds + 1):
            first = number * given.chats
            asked = [prompts[(first + n) % len(prompts)] for n in range(given.chats)]
            texts = {}
            for side in list(sides) if number % 2 else list(sides)[::-1]:
                texts[side], seconds = asyncio.run(answered(sides[side], asked))
                if number:  # the first round warms up
                    rates[side].append(TOKENS * given.chats / seconds)
            if texts["together"] != texts["one by one"]:
                sys.exit(f"Texts differ: {texts}")
            if number:
                newcomers.append(asyncio.run(newcomer(together, asked)))
    ratio = paired_ratio(rates["together"], rates["one by one"])
    result = {
        "name": f"{given.chats} chats",
        "onnxruntime": onnxruntime.__version__,
        "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
        "tokens_a_second": {side: round(float(np.median(each)), 1) for side, each in rates.items()},
        "first_token": {
            key: {"median": round(float(np.median(found)), 3), "most": round(max(found), 3)}
            for key in newcomers[0]
            for found in [[each[key] for each in newcomers]]
        },
    }
    if given.add:
        add_result(RESULTS, result)
    print(table({result["name"]: result}))


async def answered(service: Service, asked: Sequence[str]) -> tuple[list[str], float]:
    """The texts of some chats that are asked at once, and the processor's seconds for them."""
    process = psutil.Process(service.process.pid)
    async with httpx2.AsyncClient(base_url=service.address, timeout=None) as session:
        before = _spent(process)
        texts = await asyncio.gather(*(_text(session, text, TOKENS) for text in asked))
        return texts, _spent(process) - before


async def newcomer(service: Service, asked: Sequence[str]) -> dict[str, float]:
    """Seconds to the first token of the last chat, while the others are being written."""
    process = psutil.Process(service.process.pid)
    *others, last = asked
    async with httpx2.AsyncClient(base_url=service.address, timeout=None) as session:
        begun = [asyncio.Event() for _ in others]
        running = [
            asyncio.ensure_future(_text(session, text, LONG, event))
            for text, event in zip(others, begun, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        first = asyncio.Event()
        start, before = time.monotonic(), _spent(process)
        asking = asyncio.ensure_future(_text(session, last, TOKENS, first))
        await first.wait()
        found = {"processor": _spent(process) - before, "wall": time.monotonic() - start}
        for each in (*running, asking):  # they leave: their places are free again
            each.cancel()
        await asyncio.gather(*running, asking, return_exceptions=True)
    return found


async def _text(
    session: httpx2.AsyncClient, text: str, tokens: int, begun: asyncio.Event | None = None
) -> str:
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0.0,
        "lookup": "off",
        "stream": True,
    }
    found = []
    async with session.stream("POST", "/generate", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            piece = json.loads(line[6:]) if line.startswith("data: ") else {}
            found.append(piece.get("text", ""))
            if found[-1] and begun is not None:
                begun.set()
    return "".join(found)


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def table(done: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| | tokens per second of the processor: together, one by one | faster "
        "| first token of another: the processor's ms, the most | by the clock |",
        "|---|---|---|---|---|",
    ]
    for name, result in done.items():
        both = result["tokens_a_second"]
        waits = [
            f"{1000 * each['median']:.0f}, {1000 * each['most']:.0f}"
            for each in result["first_token"].values()
        ]
        lines.append(
            f"| {name} | {both['together']}, {both['one by one']} | {ratio_text(result['ratio'])} "
            f"| {' | '.join(waits)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
