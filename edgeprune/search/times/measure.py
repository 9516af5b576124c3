"""Measure the times of a model's blocks, on this machine or another."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.measure.bench.beside import Beside, time_beside
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.works import Work
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.search.shape import Shape
from edgeprune.search.times.build import write_graph
from edgeprune.search.times.design import channel_levels, design, head_levels, row
from edgeprune.search.times.fit import fit
from edgeprune.search.times.settings import BlockSettings
from edgeprune.targets import Target
from edgeprune.targets.block_times import BlockTimes, Level


def model_name(anatomy: Anatomy) -> str:
    """The widths that decide the times of a model's blocks, as a name: of two models of one name a
    table holds for both."""
    part, word = anatomy.attentions[0], anatomy.embeddings["word"]
    rows, _ = anatomy.shape(word)
    heads = f"{part.num_heads}.{part.num_key_value_heads}x{part.head_dim}"
    sizes = (len(anatomy.blocks), anatomy.hidden_size, heads, anatomy.feed_forwards[0].channels)
    return "-".join(map(str, (anatomy.model_type, *sizes, rows)))


def refuse_uneven(checkpoint: Checkpoint) -> None:
    """Refuse a model whose layers are not alike, or not of one attention and one feed-forward.

    Raises:
        UserError: the model is one.
    """
    anatomy = checkpoint.anatomy
    plain = anatomy.attends and anatomy.repeats == 1
    plain = plain and not any(block.experts for block in anatomy.blocks)
    widths = {(part.num_heads, part.num_key_value_heads) for part in anatomy.attentions}
    if not plain or len(widths | {each.channels for each in anatomy.feed_forwards}) != 2:
        raise UserError(
            f"{checkpoint.name} has layers that differ, mixtures of experts, short convolutions or "
            "layers that run again; times of blocks are of whole models of like layers."
        )


Timing = Callable[[Sequence[Path], BenchSettings, Work | None], Beside]
"""Times graphs beside each other: beside.time_beside, or a Timer's of another machine."""


def measure_blocks(
    checkpoint: Checkpoint,
    settings: BlockSettings,
    target: Target,
    timing: Timing = time_beside,
) -> BlockTimes:
    """Time small models of many widths beside each other, and the whole one, and fit the times of
    blocks to theirs.

    Args:
        target: the kind of processor of the machine that times them.

    Raises:
        UserError: the model's layers differ, or its graph cannot be written.
    """
    refuse_uneven(checkpoint)
    anatomy = checkpoint.anatomy
    shapes = design(anatomy, settings)
    with TemporaryDirectory(prefix="edgeprune-") as name:
        files = write_graphs(checkpoint, shapes, settings, target, Path(name))
        timed = timing(files, bench_settings(settings), settings.work)
    times = timed.seconds
    heads = head_levels(anatomy, settings.head_levels)
    part = anatomy.feed_forwards[0]
    channels = channel_levels(part.channels, settings.channel_levels, settings.step)
    found = fit(shapes, times, heads, channels)
    predicted = np.array([row(shape, heads, channels) @ found for shape in shapes])
    steps = found[2:]
    return BlockTimes(
        model=model_name(anatomy),
        format=settings.form,
        work=timed.work,
        tokens=settings.tokens,
        batch=settings.batch,
        threads=settings.threads,
        rest=float(found[0]) * 1e6,
        layer=float(found[1]) * 1e6,
        heads=_levels(heads, steps[: len(heads) - 1]),
        channels=_levels(channels, steps[len(heads) - 1 :]),
        layers=len(anatomy.blocks),
        whole=times[-1] * 1e6,
        error=float(np.median(np.abs(predicted / np.array(times) - 1))),
        machine=timed.machine.to_json(),
    )


def write_graphs(
    checkpoint: Checkpoint,
    shapes: Sequence[Shape],
    settings: BlockSettings,
    target: Target,
    folder: Path,
) -> list[Path]:
    """The graph of each shape, in folders of their own."""
    original = import_checkpoint(checkpoint)
    numbered = list(enumerate(shapes))
    return [
        write_graph(original, shape, settings.form, target, folder / str(place), settings.seed)
        for place, shape in track(numbered, "small models", len(numbered))
    ]


def bench_settings(settings: BlockSettings) -> BenchSettings:
    """The benchmark of the small models."""
    return BenchSettings(
        batch=settings.batch,
        tokens=settings.tokens,
        threads=settings.threads,
        launches=settings.launches,
        time_limit=settings.time_limit,
        turn_seconds=settings.turn_seconds,
        min_rounds=2 * settings.launches,
        seed=settings.seed,
    )


def _levels(counts: Sequence[int], steps: np.ndarray) -> tuple[Level, ...]:
    added = np.concatenate([[0.0], np.cumsum(steps)]) * 1e6
    return tuple(Level(count=count, us=float(us)) for count, us in zip(counts, added, strict=True))
