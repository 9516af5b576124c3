"""Does the momentum-variance budget help? The trial that decides, by a rule set down before it.

    python benchmarks/momentum_variance.py --tier 0 [--seconds N] [--jobs N]
    EDGEPRUNE_DATA=<folder> python benchmarks/momentum_variance.py --tier 1 [--seconds N]
    python benchmarks/momentum_variance.py --list     # what is left, and how long it may take
    python benchmarks/momentum_variance.py --table

Tier 0 is a small network on a synthetic task: four budgets by five saliencies by five conditions
(clean, small noisy batches, gradient bursts, learning-rate spikes, a switch of domain) by ten
paired seeds, and further settings in which the budget might matter more. Tier 1 prunes MiniLM while
it is distilled, and reads STS-B dev: three budgets by two saliencies by two conditions by five
seeds.

One line of JSON a run in benchmarks/results/momentum_variance.jsonl; a run that is there is not run
again. The tables and the verdict go to momentum_variance.md beside it and the figure to
momentum_variance.svg. Needs `pip install '.[build,benchmarks]'`.
"""

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trial.design import Cell, cells
from trial.report import draw, report

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "momentum_variance.jsonl"
SECONDS = {0: 1.2, 1: 55.0}
"""Of a run, on two quiet cores, until runs that are there say better."""
_SET = 20
"""Runs that several processes share out at a time: pairs end together."""


def main() -> None:
    """Run what is not there yet, then print and draw what is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", type=int, choices=(0, 1), help="run the missing cells of a tier")
    parser.add_argument("--seconds", type=float, help="begin no run after this time")
    parser.add_argument("--runs", type=int, help="the most runs to make this time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="processes for tier 0's small runs")
    parser.add_argument("--list", action="store_true", help="print what is left, run nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    if given.list:
        print("\n".join(left(read(given.results))))
        return
    if given.tier is None and not given.table:
        parser.error("give --tier 0, --tier 1, --list or --table")
    if given.tier == 1 and given.jobs > 1:
        parser.error("tier 1's runs take both cores: --jobs is for tier 0")
    if given.tier == 1 and not os.environ.get("EDGEPRUNE_DATA"):
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    if given.tier is not None and not given.table:
        fill(given.results, given.tier, given.seconds, given.runs, given.jobs)
    rows = read(given.results)
    if not rows:
        sys.exit(f"{given.results} holds no run yet.")
    text = report(rows)
    given.results.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    draw(rows, given.results.with_suffix(".svg"))
    print(text)


def fill(file: Path, tier: int, seconds: float | None, runs: int | None, jobs: int = 1) -> None:
    """Run the cells of a tier that the file does not hold, and add a line for each."""
    missing = absent(tier, read(file))[:runs]
    file.parent.mkdir(parents=True, exist_ok=True)
    started, done = time.monotonic(), 0
    size = _SET if jobs > 1 else 1
    for start in range(0, len(missing), size):
        some = missing[start : start + size]
        if seconds is not None and time.monotonic() - started > seconds:
            print(f"{len(missing) - done} runs are left", file=sys.stderr)
            return
        for row in _rows(some, jobs):
            done += 1
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            if tier == 1:
                print(f"[{done}/{len(missing)}] {row}", file=sys.stderr)


def _rows(some: Sequence[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    found = map(run, some) if jobs == 1 else iter(_pool(jobs).map(run, some, chunksize=1))
    for cell, row in zip(some, found, strict=True):
        yield {**asdict(cell), **row}


@functools.cache
def _pool(jobs: int) -> Any:
    return multiprocessing.get_context("spawn").Pool(jobs, _one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def absent(tier: int, rows: Sequence[dict[str, Any]]) -> list[Cell]:
    """The cells of a tier that no row is of."""
    done = {Cell(**{name: row[name] for name in _FIELDS}).key for row in rows}
    return [cell for cell in cells(tier) if cell.key not in done]


def left(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a tier and variant: how many runs are left, and how long they are likely to take."""
    for tier, usual in SECONDS.items():
        took = [row["seconds"] for row in rows if row["tier"] == tier][-_SET:]
        each = statistics.median(took) if took else usual
        missing = absent(tier, rows)
        for variant in dict.fromkeys(cell.variant for cell in cells(tier)):
            count = sum(cell.variant == variant for cell in missing)
            of = sum(cell.variant == variant for cell in cells(tier))
            minutes = count * each / 60
            yield f"tier {tier}, {variant}: {count} of {of} runs are left, {minutes:.0f} minutes"


def run(cell: Cell) -> dict[str, Any]:
    """One run of either tier."""
    if cell.tier == 0:
        from trial import synthetic

        return synthetic.run(cell)
    from trial import minilm

    return minilm.run(cell, Path(os.environ["EDGEPRUNE_DATA"]))


def read(file: Path) -> list[dict[str, Any]]:
    """Every run that is recorded."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


_FIELDS = ("tier", "budget", "saliency", "condition", "seed", "variant")

if __name__ == "__main__":
    main()
