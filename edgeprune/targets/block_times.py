"""Times of a model's blocks on one machine: attention by heads, feed-forward by channels.

    time of a model = rest + for each layer (layer + heads' + channels')

`rest` is what no layer holds: embedding, pooling, head. `layer` is a layer with the fewest heads
and channels that were measured, with its norms, sums, softmax and rounded activations; heads and
channels are what more of them add. How a layer's constant is shared between its attention and its
feed-forward cannot be told from whole models, and no choice between shapes asks for it.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgeprune.base.record import Many, Record
from edgeprune.targets import store

KIND = "blocks"
_REMEDY = "measure it again with `edgeprune calibrate`"


class Level(Record):
    """A width, and what it adds to a layer of the least."""

    count: int
    us: float


class Built(Record):
    """A whole model as it was measured, in the table's unit."""

    heads: Many[int]
    channels: Many[int]
    us: float


class Factors(Record):
    """By what measured models turned out slower, a kind of block each."""

    rest: float = 1.0
    layer: float = 1.0
    heads: float = 1.0
    channels: float = 1.0


class BlockTimes(Record):
    """Times of one model's blocks, in one format, at one kind of work."""

    writes_defaults = True

    model: str
    """The widths that decide them, as `model_name` in search/times writes them."""
    format: str
    """Of the linears: float32, int8, int8-token, int4-32."""
    work: Literal["encoder", "prompt", "decode"]
    tokens: int
    batch: int
    threads: int
    unit: Literal["microseconds", "instructions"] = "microseconds"
    """Counted instructions stand in where there is no device; they are no times."""
    rest: float
    layer: float
    heads: Many[Level]
    """By query heads of a layer, rising; the first adds 0."""
    channels: Many[Level]
    """By feed-forward channels of a layer, rising; the first adds 0."""
    layers: int
    """Of the whole model."""
    whole: float
    """The whole model as it is before anything is cut, measured beside the others: what another
    minute's times are scaled by."""
    error: float
    """The median relative error over the models that the table was fitted to."""
    factors: Factors = Factors()
    built: Many[Built] = ()
    """The models by which the factors were fitted."""
    machine: dict[str, Any]
    """The machine and its load while it was measured."""

    def attention(self, heads: int) -> float:
        """The time that this many heads add to a layer of the least."""
        return self.factors.heads * between(self.heads, heads)

    def feed_forward(self, channels: int) -> float:
        """The time that this many channels add to a layer of the least."""
        return self.factors.channels * between(self.channels, channels)

    @property
    def name(self) -> str:
        """Its name in the store."""
        return table_name(self.model, self.format, self.work, self.tokens, self.batch)

    def keep(self, machine: Mapping[str, Any] | None = None) -> Path:
        """Write it into the store; returns its file.

        Args:
            machine: the facts (store.py) of the machine that it was measured on; None: this one.

        Raises:
            UserError: nothing may be written there.
        """
        where = store.facts(self.threads) if machine is None else machine
        return store.keep(self.to_json(), KIND, self.name, where)


def between(levels: tuple[Level, ...], count: int) -> float:
    """The value at a count, on the straight line between its neighbours; beyond the ends on the
    line of the last two, and never below 0."""
    pairs = list(itertools.pairwise(levels))
    if not pairs:
        return levels[0].us
    low, high = next((pair for pair in pairs if count <= pair[1].count), pairs[-1])
    share = (count - low.count) / (high.count - low.count)
    return max(0.0, low.us + (high.us - low.us) * share)


def table_name(model: str, form: str, work: str, tokens: int, batch: int) -> str:
    """A table's name in the store: all that it is for, but the machine and its threads."""
    return f"{model}-{form}-{work}-{batch}x{tokens}"


def kept(
    model: str,
    form: str,
    work: str,
    tokens: int,
    batch: int,
    threads: int,
    machine: Mapping[str, Any] | None = None,
) -> BlockTimes | None:
    """The table that was measured on a machine; None where it was not.

    Args:
        machine: its facts (store.py); None: this one.

    Raises:
        UserError: its file is damaged.
    """
    where = store.facts(threads) if machine is None else machine
    file = store.place(KIND, table_name(model, form, work, tokens, batch), where)
    return BlockTimes.read(file, _REMEDY) if file.is_file() else None
