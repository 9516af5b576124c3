"""The cost of a shape, block by block: seconds by a table of times, bytes by its weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgeprune.search.prepare import Prepared
from edgeprune.search.shape import Shape
from edgeprune.search.times.predict import fixed
from edgeprune.targets.block_times import BlockTimes

_MICROSECONDS = 1e-6


@dataclass(frozen=True)
class Costs:
    """The costs of a shape, block by block, in seconds or bytes.

    rest: everything outside the layers. layer: of each layer whatever its widths. heads, channels:
    of a layer beyond that, by the units that it keeps.
    """

    rest: float
    layer: float
    heads: Callable[[int], float]
    channels: Callable[[int], float]

    def of(self, shape: Shape) -> float:
        """The sum over a shape."""
        widths = zip(shape.heads, shape.channels, strict=True)
        return self.rest + sum(self.layer + self.heads(h) + self.channels(c) for h, c in widths)


@dataclass(frozen=True)
class Budget:
    """The most that a shape may cost; None is no limit."""

    seconds: float | None = None
    bytes: float | None = None


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
