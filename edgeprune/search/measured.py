"""Times, losses and sizes, which a search measures before it chooses, kept for the next."""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.base.files import read_json, replace_file
from edgeprune.base.progress import say
from edgeprune.compress.load.row import LOAD
from edgeprune.pipeline.keys import code_digest, digest
from edgeprune.search.choice import Costs
from edgeprune.search.losses import Losses, measure_losses
from edgeprune.search.prepare import MARK, Prepared
from edgeprune.search.times.measure import measure_blocks, model_name
from edgeprune.search.times.predict import fixed
from edgeprune.search.times.settings import BlockSettings
from edgeprune.targets.block_times import BlockTimes, kept
from edgeprune.text.batches import Batch

if TYPE_CHECKING:
    from edgeprune.model.model import Model

_MICROSECONDS = 1e-6

_TOGETHER = 32
"""Sequences of a batch, at most: the text is divided by batches."""


def measured_times(prepared: Prepared) -> BlockTimes:
    """The times of the model's blocks on this machine: those that are kept, or measured now."""
    settings, checkpoint = prepared.settings, prepared.checkpoint
    name = model_name(checkpoint.anatomy)
    work = prepared.work
    found = kept(name, prepared.form, work, settings.tokens, settings.batch, settings.threads)
    if found is not None:
        say("[search] times of blocks: kept from an earlier measurement")
        return found
    say("[search] times of blocks")
    blocks = BlockSettings(
        form=prepared.form,
        work=work,
        tokens=settings.tokens,
        batch=settings.batch,
        threads=settings.threads,
    )
    table = measure_blocks(checkpoint, blocks, prepared.context.target)
    table.keep()
    return table


def measured_losses(prepared: Prepared) -> Losses:
    """The losses of the model's levels and layers on the text: those that are kept, or measured
    now."""
    settings = prepared.settings
    key = digest(
        prepared.common,
        settings.samples,
        settings.judged,
        code_digest(["edgeprune.search.losses:measure_losses"]),
    )
    file = prepared.output / MARK / f"losses-{key[:12]}.json"
    if file.is_file():
        return Losses.from_json(read_json(file))
    found = _measure(prepared)
    replace_file(file, json.dumps(found.to_json()) + "\n")
    return found


def _measure(prepared: Prepared) -> Losses:
    with whole_model(prepared) as (model, texts):
        first = model.anatomy.family.unnormed_first
        return measure_losses(model, texts.statistics, texts.judged, first)


@dataclass(frozen=True)
class Texts:
    """Batches of different texts: from which order and compensation are taken, by which shapes are
    chosen, and by which a choice is proved."""

    statistics: Sequence[Batch]
    judged: Sequence[Batch]
    proof: Sequence[Batch]


@contextmanager
def whole_model(prepared: Prepared) -> Iterator[tuple["Model", Texts]]:
    """The uncompressed model, read, and text to measure it on."""
    from edgeprune.model.store import TRAINING_ATTENTION, load_model

    settings = prepared.settings
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as name:
        folder = Path(name)
        context = replace(prepared.context)  # what it learns of the model goes with it
        LOAD.load()(context, context.checkpoint.folder, folder, context.settings.get(LOAD.name))
        context.given = {"reference": folder, "model": folder}
        count = settings.samples + 2 * settings.judged
        drawn = context.calibration(count, _TOGETHER)
        part = max(1, round(len(drawn) * settings.judged / count))
        texts = Texts(drawn[2 * part :], drawn[:part], drawn[part : 2 * part])
        yield load_model(folder, TRAINING_ATTENTION), texts


def times_of(table: BlockTimes) -> Costs:
    """Seconds of a shape by a table of times."""
    constant = table.factors.layer * table.layer
    return Costs(
        fixed(table) * _MICROSECONDS,
        constant * _MICROSECONDS,
        lambda heads: table.attention(heads) * _MICROSECONDS,
        lambda channels: table.feed_forward(channels) * _MICROSECONDS,
    )


def sizes_of(prepared: Prepared, whole: float) -> Costs:
    """Bytes of a shape, from those of the whole model's bundle.

    Args:
        whole: the bytes of the graph and its data with nothing cut.
    """
    anatomy = prepared.checkpoint.anatomy
    bits = {"float32": 32.0, "int8": 8.0, "int8-token": 8.0}.get(prepared.form)
    if bits is None:
        group = int(prepared.form.removeprefix("int4-"))
        bits = 4.0 + 32.0 / group
    block = anatomy.blocks[0]
    part, forward = block.attention, block.feed_forward
    weights = {name: math.prod(anatomy.shape(name)) for name in block.linears()}
    own = weights[part.query] + weights[part.output]
    if not anatomy.shared_key_value_heads:
        own += weights[part.key] + weights[part.value]
    head = own * bits / 8 / part.num_heads
    wide = sum(weights[name] for name in forward.linears())
    channel = wide * bits / 8 / forward.channels
    layer = (sum(weights.values()) - own - wide) * bits / 8
    layers = len(anatomy.blocks)
    rest = whole - layers * (layer + head * part.num_heads + channel * forward.channels)
    return Costs(rest, layer, lambda n: head * n, lambda n: channel * n)
