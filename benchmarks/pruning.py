"""Compare the one-shot methods on SmolLM2-135M and MiniLM: what they cost and how much they lose.

    EDGEPRUNE_DATA=<folder> python benchmarks/pruning.py [--model NAME] [--only NAME]... [--hours N]
    python benchmarks/pruning.py --list      # every cell, and how long it is likely to take
    python benchmarks/pruning.py --table

One factor is varied at a time from a uniform share, text drawn at random, and 50 % of single
weights: the method with its share and pattern, channels or layers in place of weights, the
allocator, the search, the sampler of the calibration text (three draws, from three sources
together). The cells that goals are about come first.
One line of JSON a cell in benchmarks/results/pruning.jsonl; a cell that is there is not run again,
so an interrupted run goes on, and an interrupted search, too. The goals and tables go to pruning.md
beside it, what `edgeprune recipes` says of each method to edgeprune/pipeline/advice.json. Each cell
is a process of its own; the models and what the originals say are kept in build/pruning.

SmolLM2 sees 64 windows of 512 tokens of WikiText-2 train; perplexity and KL to the original are
taken on the first 64 windows of 512 tokens of the validation text. MiniLM sees 512 sentences of the
same; Spearman's correlation and the cosine to the original's embeddings are of STS-B dev. Seconds
are of pruning alone, on as many threads as are beside them; peak memory is the process's when
pruning is done, with the model in it.
`--quick` tries every cell on little text, prints what it finds and records nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oneshot.design import SUBJECTS, Cell, cells, estimate
from oneshot.report import report
from results_file import add_result, read_results

from edgeprune.pipeline import advice

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "pruning.jsonl"


def main() -> None:
    """Run what is not there yet, then print the goals and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a cell's name")
    parser.add_argument("--model", choices=SUBJECTS, help="the cells of one model")
    parser.add_argument("--hours", type=float, help="begin no cell that is likely to end later")
    parser.add_argument("--quick", action="store_true", help="little text; records nothing")
    parser.add_argument("--list", action="store_true", help="print the cells, run nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = parser.parse_args()
    wanted = [
        cell
        for cell in cells()
        if given.model in (None, cell.subject) and (not given.only or cell.name in given.only)
    ]
    done = read_results(RESULTS)
    if given.list:
        print("\n".join(listed(wanted, done)))
        return
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data and not given.table:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    if given.cell:
        from oneshot import measure

        (cell,) = [cell for cell in cells() if cell.name == given.cell]
        print(json.dumps(measure.run(cell, Path(str(data)), given.quick)))
        return
    if not given.table:
        fill(wanted, done, given.quick, given.hours)
    text = report(done)
    if not given.quick and done:
        RESULTS.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
        advice.write(done)
    print(text)


def fill(wanted: Sequence[Cell], done: dict[str, Any], quick: bool, hours: float | None) -> None:
    """Run the cells that are not done, add them to `done`, and a line for each to the results."""
    end = None if hours is None else time.monotonic() + 3600 * hours
    for cell in wanted:
        if cell.name in done and not quick:
            continue
        if end is not None and time.monotonic() + estimate(cell) * slowness(done) > end:
            print(f"{cell.name} would take too long now", file=sys.stderr)
            continue
        command = [sys.executable, __file__, "--cell", cell.name]
        command += ["--quick"] if quick else []
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        done[cell.name] = json.loads(found.stdout.splitlines()[-1])
        if not quick:
            add_result(RESULTS, done[cell.name])


def slowness(done: dict[str, Any]) -> float:
    """How much longer cells took than was estimated; 1 where none is done."""
    known = [cell for cell in cells() if cell.name in done]
    took = sum(done[cell.name]["total_seconds"] for cell in known)
    return took / sum(map(estimate, known)) if known else 1.0


def listed(wanted: Sequence[Cell], done: dict[str, Any]) -> Iterator[str]:
    """A line a cell: what it took, or is likely to take, and when it would end."""
    factor, total = slowness(done), 0.0
    for cell in wanted:
        if cell.name in done:
            yield f"{_time(done[cell.name]['total_seconds'])}     done  {cell.name}"
            continue
        seconds = estimate(cell) * factor
        total += seconds
        yield f"{_time(seconds)}  {_time(total)}  {cell.name}"
    yield f"{_time(total)} are left, by {factor:.2f} times what two quiet cores should take"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h"


if __name__ == "__main__":
    main()
