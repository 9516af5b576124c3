"""Choices before training: the damage of shapes as they stand, predicted and measured.

    python benchmarks/levels.py [--speedups 4,7,10,20] [--tries 60] [--random 30] [--seed 0]

MiniLM on its default text. For each speed the shapes that the knapsack chooses (three depths), each
before and after level switching: damage on the text that chose and on text that did not. And random
shapes, whose measured damage is held against the sums that the knapsack adds up. A line a shape is
kept in results/levels.jsonl, so that an interrupted run goes on.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from results_file import add_result, read_results
from scipy.stats import spearmanr

from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.pipeline.recipe import read_recipe
from edgeprune.search.choice import candidates, levels_of
from edgeprune.search.costs import Budget, sizes_of, times_of
from edgeprune.search.levels import measure_losses
from edgeprune.search.losses import Losses
from edgeprune.search.measured import measured_times
from edgeprune.search.prepare import prepare
from edgeprune.search.record import plain
from edgeprune.search.settings import SearchRunSettings, Wish
from edgeprune.search.shape import Shape
from edgeprune.search.switching import switched
from edgeprune.search.whole import Whole

RESULTS = Path(__file__).parent / "results" / "levels.jsonl"
_INT8, _MEGABYTES = 2.8, 23.0
"""About what MiniLM in INT8 is over float32, and its size: here only the time is limited."""


def main() -> None:
    """Measure what is not there yet, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speedups", default="4,7,10,20")
    parser.add_argument("--tries", type=int, default=60)
    parser.add_argument("--random", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    if not given.table:
        with TemporaryDirectory() as folder:
            measure(given, Path(folder))
    print(table(read_results(RESULTS)))


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Losses of levels once, then a line a shape."""
    settings = SearchRunSettings()
    prepared = prepare(read_recipe("encoder", []), None, (), Wish(), settings, folder / "found")
    blocks = measured_times(prepared)
    times, sizes = times_of(blocks), sizes_of(prepared, _MEGABYTES * 1e6)
    whole = Whole(prepared)
    stitched, texts = whole.stitched, whole.texts
    losses = measure_losses(whole.model, whole.blocks, texts.judged)
    for speed in map(float, given.speedups.split(",")):
        budget = Budget(blocks.whole * 1e-6 * _INT8 / speed)
        for found in candidates(losses, times, sizes, budget)[:3]:
            depth = len(found.shape.layers)
            name = f"{speed:g}x, {depth} layers, {given.tries} tries, seed {given.seed}"
            if name in read_results(RESULTS):
                continue
            references = stitched.references(texts.judged)
            started = time.monotonic()
            better = switched(
                found.shape,
                partial(_levels, losses),
                times,
                sizes,
                budget,
                partial(stitched.loss, batches=texts.judged, whole=references),
                given.tries,
                np.random.default_rng(given.seed),
            )
            add_result(
                RESULTS,
                {
                    "name": name,
                    "speed": speed,
                    "tries": given.tries,
                    "seconds": time.monotonic() - started,
                    "predicted": found.loss,
                    "before": _judged(whole, found.shape),
                    "after": _judged(whole, better),
                },
            )
    _random(given, losses, whole)


def _random(given: argparse.Namespace, losses: Losses, whole: Whole) -> None:
    """Random widths of all layers."""
    rng = np.random.default_rng(given.seed)
    layers = tuple(range(len(losses.heads)))
    for number in range(given.random):
        # From slightly to deeply cut, each block near the same share of its units.
        share = rng.uniform(0.1, 1.0)
        widths = {
            kind: tuple(
                int(_near(_levels(losses, kind, layer), share * rng.uniform(0.6, 1.4)))
                for layer in layers
            )
            for kind in (HEADS, CHANNELS)
        }
        shape = Shape(layers, widths[HEADS], widths[CHANNELS])
        name = f"random {number}, seed {given.seed}"
        if name in read_results(RESULTS):
            continue
        predicted = sum(
            losses.curve(kind, layer).loss(kept)
            for kind, own in widths.items()
            for layer, kept in zip(layers, own, strict=True)
        )
        row = {"name": name, "predicted": predicted, "random": _judged(whole, shape)}
        add_result(RESULTS, row)


def _levels(losses: Losses, kind: str, layer: int) -> list[int]:
    return list(levels_of(losses.curve(kind, layer)))


def _near(levels: list[int], share: float) -> int:
    return min(levels, key=lambda kept: abs(kept - share * levels[-1]))


def _judged(whole: Whole, shape: Shape) -> dict[str, Any]:
    stitched, texts = whole.stitched, whole.texts
    found = {
        part: stitched.loss(shape, batches, stitched.references(batches))
        for part, batches in (("chose", texts.judged), ("proof", texts.proof))
    }
    return {"shape": plain(shape), **found}


def table(results: dict[str, Any]) -> str:
    """Damage before and after switching, and how well sums foretell random shapes."""
    rows = list(results.values())
    lines = ["| speed, depth | predicted | knapsack: chose, proof | switched: chose, proof | s |"]
    lines.append("|" + "---|" * 5)
    for row in rows:
        if "random" in row:
            continue
        pairs = [f"{row[when]['chose']:.4f}, {row[when]['proof']:.4f}" for when in _WHEN]
        cells = [row["name"], f"{row['predicted']:.4f}", *pairs, f"{row['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    drawn = [row for row in rows if "random" in row]
    if len(drawn) > 2:
        predicted = np.array([row["predicted"] for row in drawn])
        measured = np.array([row["random"]["proof"] for row in drawn])
        off = np.median(np.abs(predicted / measured - 1))
        rank = spearmanr(predicted, measured).statistic
        lines.append("")
        lines.append(
            f"{len(drawn)} random shapes: rank correlation of sum and measured damage {rank:.3f}, "
            f"off by {off:.0%} at the median."
        )
    return "\n".join(lines)


_WHEN = ("before", "after")


if __name__ == "__main__":
    main()
