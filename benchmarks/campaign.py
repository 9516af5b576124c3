"""A campaign against builds, commands and the service: kills, mutated inputs, load with faults.

    python benchmarks/campaign.py [kills|inputs|service]... [--pieces N] [--quick] [--folder FOLDER]

The parts and what counts as a fault are told in trust/kills.py, trust/inputs.py and trust/load.py:
a half or another bundle, a traceback, an exit code that is not listed, an end by a signal, or a
hang: of a process that does nothing for 10 seconds though it is owed nothing, or works on and on
(trust/patience.py), however long the machine makes it wait. It needs Linux.

Work goes on in pieces, of which each is one line of JSON in results/campaign.jsonl; a piece that is
there is not done again, so `--pieces N` asks for N in all of each row. `--quick` does what is new
in two minutes on two cores, and keeps nothing. The exit code is 1 where a fault was found.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from results_file import add_result, read_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "campaign.jsonl"
FOLDER = HERE.parent / "build" / "campaign"
PARTS = ("kills", "inputs", "service")
INPUTS = 250
"""Mutated inputs of a piece."""
SECONDS = 60.0
"""Of load in a piece."""
QUICK_SECONDS = {"kills": 45.0, "inputs": 40.0, "service": 10.0}
"""After which nothing more is begun by `--quick`, beside the time to prepare."""
_SEED = 1_000_000
"""Of a quick run: its inputs are others than the campaign's, and the same each time."""

Piece = Callable[[], dict[str, Any]]


def pieces(part: str, folder: Path, number: int) -> Iterator[tuple[str, Piece]]:
    """The n-th piece of every row of a part, by name."""
    if part == "kills":
        from trust.kills import SITES

        yield from (
            (f"kills {site} {number}", partial(kill, folder, site, number)) for site in SITES
        )
    elif part == "inputs":
        from trust.inputs import NAMES

        first = number * INPUTS
        for kind in NAMES:
            yield f"inputs {kind} {number}", partial(mutate, folder, kind, first, INPUTS)
    else:
        yield f"service load {number}", partial(load, number, SECONDS)


def kill(folder: Path, site: str, number: int) -> dict[str, Any]:
    """One chain of kills."""
    from trust.kills import SITES, Place, run_chain, told

    return told(run_chain(Place(folder / "kills" / site, SITES[site]), number))


def mutate(
    folder: Path, kind: str, first: int, count: int, seconds: float | None = None
) -> dict[str, Any]:
    """Some inputs of a kind, or those that are done within some seconds."""
    from trust.inputs import REQUESTS, Workshop, prepare
    from trust.load import run_requests

    if kind == REQUESTS:
        return run_requests(first, count, seconds)
    whole = prepare(folder)
    end = None if seconds is None else time.monotonic() + seconds
    codes: Counter[str] = Counter()
    wrong = []
    with TemporaryDirectory(dir=folder) as scratch:
        workshop = Workshop(Path(scratch) / "shop", whole)
        for number in range(first, first + count):
            if end is not None and time.monotonic() > end:
                break
            ended, arguments, _ = workshop.run(kind, number)
            codes[str(ended.code)] += 1
            if ended.fault:
                last = ended.said.strip().splitlines()[-1:] or [""]
                wrong.append(f"{number}: {ended.fault}: {' '.join(arguments)}: {last[0][-200:]}")
    return {"inputs": codes.total(), "codes": dict(codes), "wrong": wrong}


def load(number: int, seconds: float) -> dict[str, Any]:
    """A service under mixed load."""
    from trust.load import run_load

    return run_load(number, seconds)


def quick(folder: Path, parts: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A little of each part."""
    for part in parts:
        if part == "inputs":
            from trust.inputs import NAMES

            for kind in NAMES:
                share = QUICK_SECONDS[part] / len(NAMES)
                found = mutate(folder, kind, _SEED, INPUTS, share)
                yield {"name": f"inputs {kind}", **found}
        elif part == "kills":
            yield {"name": "kills channels", **kill_some(folder, QUICK_SECONDS[part])}
        else:
            yield {"name": "service load", **load(_SEED, QUICK_SECONDS[part])}


def kill_some(folder: Path, seconds: float) -> dict[str, Any]:
    """The kills of one chain that are done within some seconds, and what they come to: in the
    stages that change the model."""
    from trust.kills import MIDDLE, SITES, Place, run_chain, told

    place = Place(folder / "kills" / "channels", SITES["channels"])
    return told(run_chain(place, 0, seconds, MIDDLE))


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """The page's table."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, line in results.items():
        rows.setdefault(name.rpartition(" ")[0], []).append(line)
    lines = ["| what | done | faults found |", "|---|---|---|"]
    for name, found in rows.items():
        wrong = sum(len(each["wrong"]) for each in found)
        lines.append(f"| {name} | {_done(found)} | {wrong} |")
    return "\n".join(lines)


def _done(found: list[dict[str, Any]]) -> str:
    if "kills" in found[0]:
        kills: Counter[str] = Counter()
        for each in found:
            kills.update(each["kills"])
        stages: Counter[str] = Counter()
        for name, count in kills.items():
            stages[name.partition(" ")[0]] += count
        met = ", ".join(f"{name} {count}" for name, count in stages.items())
        return f"{kills.total()} kills: {met}"
    if "inputs" in found[0]:
        return f"{sum(each['inputs'] for each in found):,} inputs"
    minutes = sum(each["seconds"] for each in found) / 60
    requests = sum(each["requests"] for each in found)
    return f"{requests:,} requests in {minutes:.0f} minutes"


def main() -> None:
    """Do the pieces that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--pieces", type=int, default=1, help="of each row")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for models and builds")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder, parts = given.folder.resolve(), tuple(given.parts) or PARTS
    folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    if given.quick:
        for found in quick(folder, parts):
            wrong += _tell(found)
        sys.exit(bool(wrong))
    for number in range(given.pieces):
        for part in parts:
            for name, piece in pieces(part, folder, number):
                done = read_results(given.results).get(name)
                if done is None:
                    done = {"name": name, **piece()}
                    add_result(given.results, done)
                wrong += _tell(done)
    sys.exit(bool(wrong))


def _tell(found: dict[str, Any]) -> int:
    print(f"{found['name']}: {_done([found])}, {len(found['wrong'])} faults", flush=True)
    for each in found["wrong"]:
        print(f"  {json.dumps(each)}", flush=True)
    return len(found["wrong"])


if __name__ == "__main__":
    main()
