"""What a build would do, in sentences, without touching anything; torch only looks at activations,
where it is installed."""

from dataclasses import dataclass, replace
from math import prod

from edgeprune.base.budget import apportion
from edgeprune.base.places import called
from edgeprune.base.words import listed, size
from edgeprune.compress.context import Build
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.vocabulary_settings import VocabularySettings
from edgeprune.compress.prune.methods import AnyPruneSettings
from edgeprune.compress.prune.oneshot_settings import OneShotSettings
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.compress.quantize.plan import Plan, plan_formats
from edgeprune.compress.quantize.settings import QuantizeSettings, preferred
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.kernels.formats import FORMATS
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.pipeline.builds import built
from edgeprune.pipeline.recipe import Recipe
from edgeprune.report.made import UNITS, Made, Removed, format_names, model_name, pruned_noun
from edgeprune.targets import Target, find
from edgeprune.text.text import Text

_SPARSE_BLOCKS = {
    f"{form.inputs}x{form.outputs}" for form in FORMATS.values() if form.dtype == "int8"
}
_PLAIN = QuantizeSettings(weights="none", embeddings=False)


@dataclass(frozen=True)
class Expected:
    """What would come of a build, as far as that is known before it."""

    made: Made
    facts: tuple[tuple[str, str], ...]
    """(what, a line): the size, and what such a build took and reached where it was measured."""


def expected(recipe: Recipe, checkpoint: Checkpoint) -> Expected:
    """What would come of a recipe and a model: shares and sizes by arithmetic. Times nobody knows
    before they are measured."""
    anatomy = checkpoint.anatomy
    left, target = after_cut(anatomy, recipe), find(recipe.target)
    plan = _plan(left, recipe.quantize or _PLAIN, target)
    result = Made(
        model_name(called(checkpoint.name)),
        _removed(anatomy, recipe),
        _steps(recipe),
        _formats(plan, recipe),
    )
    facts = [("size", _size_line(anatomy, left, plan, recipe))]
    if known := built(recipe):
        facts.append(("measured", f"with {known.where}: {known.reached}; {known.took}"))
    facts.append(
        ("unknown", "speed, memory and quality of this model, which the build measures last")
    )
    return Expected(result, tuple(facts))


_LOOKED_AT = 1_000_000_000
"""Weights of a model that a dry run reads, at four bytes each."""


def preview(recipe: Recipe, checkpoint: Checkpoint, text: Text) -> list[tuple[str, str]]:
    """(stage, what it would do) for a recipe, a model and a text, in the order of the stages."""
    anatomy = checkpoint.anatomy
    left = after_cut(anatomy, recipe)
    rows = [
        (
            "load",
            f"{checkpoint.name}: {anatomy.model_type}, {checkpoint.task}, "
            f"{len(anatomy.blocks)} layers of {_heads(anatomy)} heads and {_channels(anatomy)} "
            f"channels in all, {_parameters(anatomy):,} weights in linears and embeddings",
        ),
        ("load", text.line),
        ("original", "exported plainly to float32 ONNX, as the reference"),
    ]
    if recipe.vocabulary:
        rows.append(("vocabulary", vocabulary_line(anatomy, recipe.vocabulary)))
    if recipe.prune:
        rows += [("prune", line) for line in prune_lines(anatomy, recipe.prune)]
    if recipe.cut:
        rows += [("cut", line) for line in cut_lines(anatomy, recipe.cut, recipe.prune)]
    if recipe.sparsify:
        rows += [("sparsify", line) for line in sparsify_lines(left, recipe.sparsify)]
    if recipe.recover:
        rows += [("recover", line) for line in recover_lines(anatomy, recipe.recover)]
    target = find(recipe.target)
    if recipe.quantize:
        lines = quantize_lines(left, recipe.quantize, target)
        rows += [("quantize", line) for line in lines + sparse_lines(recipe, target)]
    rows.append(("rewrite", f"for {target.name}, every pass checked on real batches"))
    rows.append(
        (
            "measure",
            f"beside the original: {recipe.measure.tokens} tokens, batch {recipe.measure.batch}, "
            f"{recipe.measure.threads} thread(s)",
        )
    )
    return rows


def outlook(build: Build) -> list[tuple[str, str]]:
    """What INT8 activations would cost the model, from a look at it that takes some seconds.

    Raises:
        UserError: the model cannot be read, or INT8 would spoil its outputs.
    """
    settings = build.recipe.quantize
    if settings is None or settings.weights == "none":
        return []
    if _parameters(build.checkpoint.anatomy) > _LOOKED_AT:
        return [("quantize", "massive activations of a model as large are looked for in the build")]
    try:
        from edgeprune.compress.quantize.outlook import foresee
    except ModuleNotFoundError as error:
        return [("quantize", f"massive activations are looked for where {error.name} is installed")]
    return [("quantize", line) for line in foresee(build).lines()]


# What would be left, by arithmetic ----------------------------------------------------------------


def after_cut(anatomy: Anatomy, recipe: Recipe) -> Anatomy:
    """The anatomy with exactly as many layers, channels and heads as pruning and cutting leave.

    They are spread evenly and the first layers stay: which ones really leave, only the text can
    tell, and between layers of one width it makes no difference to sizes.
    """
    count, units = _left(anatomy, recipe)
    blocks, shapes = anatomy.blocks[:count], dict(anatomy.shapes)
    heads = apportion(units["heads"], [1] * len(blocks))
    for block, number in zip(blocks, heads, strict=True):
        attention = block.attention
        shared = anatomy.kind == "decoder"  # its key-value heads stay
        width = number * attention.head_dim * (attention.num_key_value_heads if shared else 1)
        for name in (attention.query, *(() if shared else (attention.key, attention.value))):
            _resize(shapes, name, 0, width)
        _resize(shapes, attention.output, 1, width)
    parts = [part for block in blocks for part in block.feed_forwards]
    for part, number in zip(parts, apportion(units["channels"], [1] * len(parts)), strict=True):
        for name in (part.up, part.gate):
            if name:
                _resize(shapes, name, 0, number)
        _resize(shapes, part.down, 1, number)
    gone = tuple(f"{block.name}." for block in anatomy.blocks[count:])
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(gone)}
    return replace(anatomy, blocks=blocks, shapes=kept if gone else shapes)


def _left(anatomy: Anatomy, recipe: Recipe) -> tuple[int, dict[str, int]]:
    """How many layers, and channels and heads in all of them, pruning and cutting leave."""
    units = {"channels": _channels(anatomy), "heads": _head_units(anatomy)}
    total = len(anatomy.blocks)
    if isinstance(recipe.prune, PruneStageSettings) and recipe.prune.gated:
        for pool in recipe.prune.pools():
            units[pool.pattern] -= round(pool.share * units[pool.pattern])
    if recipe.cut is None:
        return total, units
    left = total - recipe.cut.layers_to_drop(total)
    for kind, share in (("channels", recipe.cut.channels), ("heads", recipe.cut.heads)):
        whole = units[kind] * left // total
        units[kind] = whole - round(share * whole)
    return left, units


def _resize(shapes: dict[str, tuple[int, ...]], linear: str, side: int, count: int) -> None:
    """Give a linear another number of outputs (side 0), and biases, or of inputs (side 1)."""
    rows, columns = shapes[f"{linear}.weight"]
    shapes[f"{linear}.weight"] = (count, columns) if side == 0 else (rows, count)
    if side == 0 and f"{linear}.bias" in shapes:
        shapes[f"{linear}.bias"] = (count,)


def _plan(anatomy: Anatomy, settings: QuantizeSettings, target: Target) -> Plan:
    chosen = preferred(settings, anatomy.has_cache, target.decode_weights)
    return plan_formats(anatomy, chosen, target.weight_bits, {})


def _removed(anatomy: Anatomy, recipe: Recipe) -> list[Removed]:
    """What a build's record would tell of what was removed."""
    layers = len(anatomy.blocks)
    count, units = _left(anatomy, recipe)
    found = [Removed("layers", layers - count, layers)] if count < layers else []
    every = {"channels": _channels(anatomy), "heads": _head_units(anatomy)}
    for kind, noun in UNITS.items():
        whole = every[kind] * count // layers
        if units[kind] < whole:
            found.append(Removed(noun, whole - units[kind], whole))
    for stage, left in ((recipe.prune, False), (recipe.sparsify, True)):
        if stage and not stage.gated:
            weights = sum(rows * columns for rows, columns in _block_shapes(anatomy))
            gone = round(stage.sparsity * weights)
            found.append(Removed(pruned_noun(stage.pattern, left), gone, weights, "pruned"))
    return found


def _steps(recipe: Recipe) -> int:
    """Steps of training in all."""
    stages = (recipe.prune, recipe.sparsify, recipe.recover)
    return sum(getattr(stage, "steps", 0) for stage in stages if stage)


def _formats(plan: Plan, recipe: Recipe) -> list[str]:
    """What the weights would be stored in; of mixed, which are in what is not known."""
    if recipe.quantize and recipe.quantize.weights == "mixed":
        return ["INT8", "INT4"]
    weights: dict[int, int] = {}
    for entry in plan:
        if entry.tied_to is None:
            weights[entry.bits] = weights.get(entry.bits, 0) + prod(entry.shape)
    return format_names(weights)


def _size_line(anatomy: Anatomy, left: Anatomy, plan: Plan, recipe: Recipe) -> str:
    """Bytes of the weights before and after."""
    settings = recipe.quantize
    sparse = settings and sparse_lines(recipe, find(recipe.target))
    before = _bytes(anatomy, plan_formats(anatomy, _PLAIN))
    known = f"about {size(_bytes(left, plan))}, from {size(before)}"
    less = [
        (recipe.vocabulary, "the vocabulary's rows that leave"),
        (recipe.cut and recipe.cut.experts, "the experts that leave"),
        (settings and settings.weights == "mixed", "what becomes int4"),
        (sparse, "the blocks that linears leave out where they become sparse"),
    ]
    without = [words for applies, words in less if applies]
    return f"{known} in float32{', less ' if without else ''}{listed(without)}"


def _bytes(anatomy: Anatomy, plan: Plan) -> int:
    """Of all weights: those that the plan names, packed, and biases and norms in float32."""
    rest = sum(shape[0] for shape in anatomy.shapes.values() if len(shape) == 1)
    return sum(entry.bytes for entry in plan) + 4 * rest


# What each stage would do -------------------------------------------------------------------------


def vocabulary_line(anatomy: Anatomy, settings: VocabularySettings) -> str:
    """Which tokens would stay; how many, only the text's tokens can tell."""
    rows, width = anatomy.shape(anatomy.embeddings["word"])
    times = f"{settings.min_count} times or more" if settings.min_count > 1 else "at all"
    texts = " and ".join(["the text", *settings.data])
    return f"of {rows:,} tokens of {width} weights those stay that {texts} use {times}"


def prune_lines(anatomy: Anatomy, settings: AnyPruneSettings) -> list[str]:
    """What pruning would remove."""
    if isinstance(settings, OneShotSettings):
        units = sum(rows * columns for rows, columns in _block_shapes(anatomy))
        share = f"{100 * settings.sparsity:g} % of {units:,} weights"
        return [
            f"{share} go, in the pattern {settings.pattern}",
            f"in one shot by {settings.method}, on {settings.samples:,} sequences of text",
        ]
    counts = {
        "channels": _channels(anatomy),
        "heads": _head_units(anatomy),
        "weights": sum(rows * columns for rows, columns in _block_shapes(anatomy)),
    }
    lines = []
    for pool in settings.pools():
        if pool.gated:
            units = counts[pool.pattern]
            lines.append(f"{round(pool.share * units):,} of {units:,} {pool.pattern} go")
        else:
            units = counts["weights"]
            share = f"{100 * pool.share:g} % of {units:,} weights"
            lines.append(f"{share} go, in the pattern {pool.pattern}")
    lines.append(f"{settings.steps:,} steps, budget {settings.budget}, by {settings.saliency}")
    return lines


def sparsify_lines(anatomy: Anatomy, settings: AnyPruneSettings) -> list[str]:
    """What would be pruned of what the cut leaves, the cut anatomy."""
    how = f"by {settings.method}"
    if isinstance(settings, PruneStageSettings):
        how = f"{settings.steps:,} steps, budget {settings.budget}, by {settings.saliency}"
    weights = sum(rows * columns for rows, columns in _block_shapes(anatomy))
    share = f"{100 * settings.sparsity:g} % of the {weights:,} weights that are left"
    return [f"{share} go, in the pattern {settings.pattern}", how]


def cut_lines(
    anatomy: Anatomy, settings: CutSettings, pruning: AnyPruneSettings | None
) -> list[str]:
    """What would leave the shapes."""
    counts = {"channels": _channels(anatomy), "heads": _head_units(anatomy)}
    lines = []
    if isinstance(pruning, PruneStageSettings) and pruning.gated:
        lines.append("what pruning emptied leaves the shapes")
        for pool in pruning.pools():
            counts[pool.pattern] -= round(pool.share * counts[pool.pattern])
    total = len(anatomy.blocks)
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


def recover_lines(anatomy: Anatomy, settings: RecoverSettings) -> list[str]:
    """How long and how the cut model would be trained."""
    tables = sum(rows * width for rows, width in map(anatomy.shape, anatomy.embeddings.values()))
    frozen = "" if settings.train_embeddings else f"; {tables:,} embedding weights stay frozen"
    rate = settings.learning_rate
    return [f"{settings.steps:,} steps of distillation, learning rate {rate:g}{frozen}"]


def quantize_lines(anatomy: Anatomy, settings: QuantizeSettings, target: Target) -> list[str]:
    """How many tensors would get which format, and their bytes; the anatomy is the cut one."""
    plan = _plan(anatomy, settings, target)
    own = [entry for entry in plan.quantized if entry.tied_to is None]
    lines = []
    for kind in dict.fromkeys(entry.format for entry in own):
        some = [entry for entry in own if entry.format == kind]
        weights = sum(entry.shape[0] * entry.shape[1] for entry in some)
        size = sum(entry.bytes for entry in some) / 1e6
        groups = f", a scale for each {some[0].group}" if some[0].group else ""
        lines.append(
            f"{len(some)} tensors of {weights:,} weights become {some[0].bits}-bit integers"
            f"{groups} ({kind}, {size:,.1f} MB)"
        )
    if settings.weights == "mixed":
        budget = f"a weight takes {settings.average_bits:g} bits on average"
        if settings.linears_ms is not None:
            budget = f"the linears take {settings.linears_ms:g} ms a call"
        lines.append(
            f"of those in int8, the least sensitive become int4 in groups of {settings.group}, "
            f"until {budget}"
        )
    if settings.cache_bits:
        lines.append(f"cached keys and values take {settings.cache_bits:g} bits on average")
    return lines


def sparse_lines(recipe: Recipe, target: Target) -> list[str]:
    """Which linears may become sparse; which do, only their pruned weights can tell."""
    settings = recipe.quantize
    patterns = {stage.pattern for stage in (recipe.prune, recipe.sparsify) if stage}
    if not (settings and settings.sparse):
        return []
    whole = settings.sparse == "whole"
    if not whole and patterns.isdisjoint(_SPARSE_BLOCKS):
        return []
    table = target.break_even
    rule = f"{target.name}'s break-even table finds faster at {settings.tokens:,} tokens"
    if not table.points:
        rule = f"{target.name}, which was not measured, takes to be safely faster"
    which = "(whole ones, too)" if whole else "that lost enough blocks"
    return [f"of those in int8, linears become sparse {which}: what {rule}"]


def _block_shapes(anatomy: Anatomy) -> list[tuple[int, int]]:
    return [anatomy.shape(name) for name in anatomy.block_linears()]


def _parameters(anatomy: Anatomy) -> int:
    tables = [anatomy.shape(name) for name in anatomy.embeddings.values()]
    return sum(rows * columns for rows, columns in [*_block_shapes(anatomy), *tables])


def _channels(anatomy: Anatomy) -> int:
    return sum(part.channels for part in anatomy.feed_forwards)


def _heads(anatomy: Anatomy) -> int:
    return sum(block.attention.num_heads for block in anatomy.blocks)


def _head_units(anatomy: Anatomy) -> int:
    """Heads that can leave one by one; a decoder's leave one per key-value group at a time."""
    if anatomy.kind == "encoder":
        return _heads(anatomy)
    return sum(block.attention.heads_per_group for block in anatomy.blocks)
