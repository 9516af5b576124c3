"""Build a tiny model of every kind that people download, and ask it what transformers answers.

    python benchmarks/usage.py [--quick] [--only WORD]... [--results FILE]

usage.tsv says which kinds these are and how often they are downloaded. A kind is held where, for
each way in which its models are saved,

- `edgeprune build` makes a bundle in float32, and what `edgeprune run` answers to 12 texts, one by
  one, is what transformers' pipeline of that task answers (sentence-transformers for
  sentence-similarity): the same words and labels, numbers within 1e-4;
- it makes one in INT8 whose outputs, as a whole, lie from torch's at most three times as far as the
  rounding that its pass states, or 0.15 of their size; and `edgeprune run` answers.

The models have random weights and sizes of a toy; their configurations, tokenizers and files are
as the most downloaded ones have them. A kind is claimed where every way of it is for a task of
EdgePrune's; others are counted as not held, and what is claimed of them is run.

One line of JSON a kind in benchmarks/results/usage.jsonl; what is held there is not run again.
`--quick` leaves out the build's own measuring and goes through everything anew, keeping nothing.
The exit code is 1 where something claimed fails.
"""

import argparse
import contextlib
import csv
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from results_file import add_result, read_results
from toys.bundles import TOLERANCE, answered, built, drift, far
from toys.models import make_model
from toys.ways import Way, claimed, ways

HERE = Path(__file__).parent
TABLE = HERE / "usage.tsv"
RESULTS = HERE / "results" / "usage.jsonl"
ROUNDINGS = 3.0
"""The most that INT8 may move outputs, in the roundings that its pass states: that of the weights,
which the pass does not count, is about as large, and the two add up from layer to layer."""
LEAST = 0.15
"""What it may move them in any case, since of a head with one logit the pass states what becomes of
a few values. A wrong graph moves outputs by their own size."""


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    model_type: str
    task: str
    downloads: float
    """In millions."""

    @property
    def name(self) -> str:
        return f"{self.model_type} {self.task}"


def read_table() -> list[Kind]:
    """The kinds, most downloaded first."""
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return [
        Kind(row["model_type"], row["task"], float(row["million_downloads"]))
        for row in csv.DictReader(lines, delimiter="\t")
    ]


def is_claimed(kind: Kind) -> bool:
    """Whether every way in which its models are saved is for a task here."""
    found = ways(kind.model_type, kind.task)
    return bool(found) and all(map(claimed, found))


def measure(kind: Kind, folder: Path, quick: bool) -> dict[str, Any]:
    """Build and ask a kind in each of its ways; the first that fails says why."""
    found: dict[str, Any] = {"held": True, "failed": False, "ways": {}}
    for way in ways(kind.model_type, kind.task):
        if not claimed(way):
            found |= {"held": False, "why": f"{way.name}: not claimed"}
            continue
        try:
            found["ways"][way.name] = _measure(kind, way, folder / way.name, quick)
        except Exception as error:  # of many kinds: the runtime's own have no base class
            why = f"{way.name}: {_first_line(error)}"
            return found | {"held": False, "failed": True, "why": why}
    return found


def _measure(kind: Kind, way: Way, place: Path, quick: bool) -> dict[str, float]:
    model = make_model(kind.model_type, way.head, way.saved, place / "model")
    rows = way.rows(model)
    expected = way.asked(model, rows)
    plain = built(model, way, place / "float32", None, quick)
    largest = far(expected, answered(plain, way, rows))
    if not largest < TOLERANCE:
        raise AssertionError(f"float32 answers differ by {largest:.3g}")
    small = built(model, way, place / "int8", "quantize: {calibration_samples: 16}", quick)
    moved, stated = drift(model, way, small, rows), small.rounding
    answered(small, way, rows)
    if not moved < max(ROUNDINGS * stated, LEAST):
        raise AssertionError(f"INT8 moves outputs by {moved:.3g}, its pass states {stated:.3g}")
    return {"float32": largest, "int8": round(moved, 4), "int8 stated": round(stated, 4)}


def _first_line(error: Exception) -> str:
    told = str(error).strip() or type(error).__name__
    return told.splitlines()[0][:300]


def told(kinds: Sequence[Kind], results: dict[str, Any]) -> Iterator[str]:
    """The share of downloads that is held, by task and in all."""
    whole = sum(kind.downloads for kind in kinds)
    by_task: dict[str, list[Kind]] = defaultdict(list)
    for kind in kinds:
        by_task[kind.task].append(kind)
    yield f"{'task':<32}{'of all':>8}{'claimed':>9}{'held':>8}"
    sums = {task: _sums(some, results) for task, some in by_task.items()}
    for task, (every, ours, held) in sums.items():
        if ours:
            yield _line(task, every / whole, ours / whole, held / whole)
    total = [sum(each) for each in zip(*sums.values(), strict=True)]
    yield _line("every task", *(each / whole for each in total))


def _sums(kinds: Sequence[Kind], results: dict[str, Any]) -> tuple[float, float, float]:
    ours = [kind for kind in kinds if is_claimed(kind)]
    held = [kind for kind in ours if results.get(kind.name, {}).get("held")]
    total, some, good = (sum(k.downloads for k in each) for each in (kinds, ours, held))
    return total, some, good


def _line(name: str, *shares: float) -> str:
    total, ours, held = (f"{100 * share:.1f} %" for share in shares)
    return f"{name:<32}{total:>8}{ours:>9}{held:>8}"


def main() -> None:
    """Run what has no result yet, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="kinds with this in their name")
    parser.add_argument("--quick", action="store_true", help="without measuring, keeping nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kinds = read_table()
    results = {} if given.quick else read_results(given.results)
    asked = [kind for kind in kinds if any(map(claimed, ways(kind.model_type, kind.task)))]
    for kind in asked:
        if given.only and not any(word in kind.name for word in given.only):
            continue
        if results.get(kind.name, {}).get("held"):
            continue
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            found = {"name": kind.name, **measure(kind, Path(scratch), given.quick)}
        print(json.dumps(found), flush=True)
        results[kind.name] = found
        if not given.quick:
            add_result(given.results, found)
    print("\n".join(told(kinds, results)))
    if failed := [kind.name for kind in asked if results.get(kind.name, {}).get("failed")]:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
