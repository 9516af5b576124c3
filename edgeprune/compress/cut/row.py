"""The row of the cut stage, by which channels, heads, layers and experts leave the shapes."""

from collections.abc import Sequence
from dataclasses import replace

from edgeprune.base.budget import apportion
from edgeprune.base.errors import UserError
from edgeprune.base.words import many
from edgeprune.compress.cut.record import Cut
from edgeprune.compress.cut.settings import COMPARABLE, CutSettings
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage, objective
from edgeprune.model.anatomy import Anatomy


def _refuse(settings: CutSettings, facts: Facts) -> None:
    _refuse_experts(settings, facts)
    for name in ("layers", "compensate"):
        if getattr(settings, name):
            facts.refuse_repeats("cut", name)
    anatomy = facts.checkpoint.anatomy
    total, (first, last) = len(anatomy.blocks), settings.kept_ends(anatomy.family.unnormed_first)
    count = settings.layers_to_drop(total)
    if count > min(total - 1, max(0, total - first - last)):
        raise UserError(
            f"cut.layers would drop {count} of {total} layers, of which {first} at the start and "
            f"{last} at the end are kept: lower it, cut.keep_first or cut.keep_last."
        )
    for kind, layers in facts.units.items():
        # Which layers go is not known yet: the largest that can be left.
        parts = anatomy.feed_forwards if kind == "channels" else anatomy.blocks
        places = len(parts) * (total - count) // total
        _refuse_units(settings, facts, kind, sorted(layers)[-places:], places)


def _refuse_experts(settings: CutSettings, facts: Facts) -> None:
    """Every token still has to find as many experts as it is given to."""
    checkpoint = facts.checkpoint
    mixtures = [block.experts for block in checkpoint.anatomy.blocks if block.experts]
    if settings.experts and not mixtures:
        raise UserError(
            f"cut.experts is for mixtures of experts, and {checkpoint.name} has none: leave it out."
        )
    for mixture in mixtures:
        left = mixture.count - round(settings.experts * mixture.count)
        if left < mixture.active:
            raise UserError(
                f"cut.experts is {settings.experts:g}, which would keep {left} of {mixture.count} "
                f"experts, and every token is given to {mixture.active}: lower it."
            )


def _refuse_units(
    settings: CutSettings, facts: Facts, kind: str, layers: Sequence[int], left: int
) -> None:
    share = settings.channels if kind == "channels" else settings.heads
    minimum = settings.minimum_channels if kind == "channels" else settings.minimum_heads
    if not share:
        return
    if kind == "heads":
        facts.refuse_whole_groups()
    total = sum(layers)
    keep = total - round(share * total)
    if keep < minimum * left:
        raise UserError(
            f"cut.{kind} is {share:g}, which would keep {keep} of {total} in "
            f"{left} layers, and every layer keeps at least {minimum}: ask for less."
        )


def _whole(settings: CutSettings) -> str:
    """The setting that needs the whole model: layers that leave, and scores that take gradients."""
    for name in ("layers", "experts"):
        if getattr(settings, name):
            return f"cut.{name}"
    scored = settings.channels or settings.heads
    return f"cut.score: {settings.score}" if scored and settings.score in COMPARABLE else ""


def _would(settings: CutSettings, facts: Facts) -> list[str]:
    counts = {noun: sum(units) for noun, units in facts.units.items()}
    lines = ["what pruning emptied leaves the shapes"] if facts.gated else []
    total = len(facts.anatomy.blocks)
    if drop := settings.layers_to_drop(total):
        search, how = settings.layer_search, str(settings.layer_score)
        if how == "search":
            how = f"an {search.strategy} search of {search.evaluations:,} evaluations"
        text = f"{settings.sequences_for_layers:,} sequences of text"
        lines.append(f"{drop} of {total} layers leave by {how}, on {text}")
        counts = {noun: units * (total - drop) // total for noun, units in counts.items()}
    if settings.experts:
        lines.append(
            f"{100 * settings.experts:g} % of every layer's experts leave, by TENP's score"
        )
    for noun, share in (("channels", settings.channels), ("heads", settings.heads)):
        units = counts[noun]
        if share:
            lines.append(
                f"{round(share * units):,} of {units:,} {noun} leave in one shot by "
                f"{settings.score}, {settings.resolved_policy}"
            )
    if settings.score == "flap" and (settings.channels or settings.heads):
        lines.append("biases take over the means of what leaves; where there is none, zero does")
    if settings.compensate:
        lines.append("the channels that stay make up for those that go, by least squares")
    return lines


def _leaves(settings: CutSettings, facts: Facts) -> Facts:
    total = len(facts.anatomy.blocks)
    count = total - settings.layers_to_drop(total)
    left = {}
    for kind, share in (("channels", settings.channels), ("heads", settings.heads)):
        whole = sum(facts.units[kind]) * count // total
        left[kind] = [whole - round(share * whole)]
    anatomy = evened(facts.anatomy, count, sum(left["channels"]), sum(left["heads"]))
    after = replace(facts, anatomy=anatomy, units=left)
    return after.and_smaller("the experts that leave") if settings.experts else after


def evened(anatomy: Anatomy, layers: int, channels: int, heads: int) -> Anatomy:
    """The anatomy with exactly as many layers, channels and heads, spread evenly over its first
    layers. Between layers of one width, where they really leave makes no difference to sizes.

    Args:
        channels, heads: in all layers; heads are counted as Anatomy.head_units counts them.
    """
    blocks, shapes = anatomy.blocks[:layers], dict(anatomy.shapes)
    numbers = apportion(heads, [1] * len(blocks))
    shared = anatomy.shared_key_value_heads  # its key-value heads stay
    for block, number in zip(blocks, numbers, strict=True):
        attention = block.attention
        width = number * attention.head_dim * (attention.num_key_value_heads if shared else 1)
        for name in (attention.query, *(() if shared else (attention.key, attention.value))):
            _resize(shapes, name, 0, width)
        _resize(shapes, attention.output, 1, width)
    parts = [part for block in blocks for part in block.feed_forwards]
    for part, number in zip(parts, apportion(channels, [1] * len(parts)), strict=True):
        for name in (part.up, part.gate):
            if name:
                _resize(shapes, name, 0, number)
        _resize(shapes, part.down, 1, number)
    gone = tuple(f"{block.name}." for block in anatomy.blocks[layers:])
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(gone)}
    return replace(anatomy, blocks=blocks, shapes=kept if gone else shapes)


def _resize(shapes: dict[str, tuple[int, ...]], linear: str, side: int, count: int) -> None:
    """Give a linear another number of outputs (side 0), and biases, or of inputs (side 1)."""
    rows, columns = shapes[f"{linear}.weight"]
    shapes[f"{linear}.weight"] = (count, columns) if side == 0 else (rows, count)
    if side == 0 and f"{linear}.bias" in shapes:
        shapes[f"{linear}.bias"] = (count,)


def told_cut(did: Cut) -> list[str]:
    """The units and parameters that are left, in a sentence."""
    return [
        f"{sum(did.heads):,} heads and {sum(did.channels):,} channels in "
        f"{many(len(did.heads), 'layer')} are left, {did.parameters:,} parameters"
    ]


CUT = Stage(
    "cut",
    "edgeprune.compress.cut.stage:run",
    Cut,
    attends=True,
    settings=CutSettings,
    default=CutSettings,
    description="Removal from the shapes.",
    whole=_whole,
    trains=True,
    refuse=_refuse,
    would=_would,
    leaves=_leaves,
    told=told_cut,
    asks=objective,
)
