"""The row of the quantize stage, which gives every weight its format and its stored value."""

from collections import Counter
from dataclasses import replace

from edgeprune.base.errors import UserError
from edgeprune.base.words import many
from edgeprune.compress.facts import Facts
from edgeprune.compress.quantize.plan import Plan, plan_formats
from edgeprune.compress.quantize.record import Quantized
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import HALF_BITS, QuantizeSettings, preferred
from edgeprune.compress.stage import Stage, objective
from edgeprune.kernels.formats import FORMATS, MOST_MULTIPLIER, QUANT_FORMATS
from edgeprune.model.anatomy import FUSED_HEADS
from edgeprune.model.rope import turns_whole_heads
from edgeprune.targets.format_times import form_name

_SPARSE_BLOCKS = {
    f"{form.inputs}x{form.outputs}" for form in FORMATS.values() if form.dtype == "int8"
}
_MOST_INTEGER_BITS = 8
_LONG = 1 << 20
_OPERATOR_GROUPS = tuple(form.group for form in QUANT_FORMATS.values() if form.group)


def _refuse(settings: QuantizeSettings, facts: Facts) -> None:
    if settings.method == "gptq":
        facts.refuse_mixture("quantize", "method: gptq")
        facts.refuse_convolutions("quantize", "method: gptq")
        facts.refuse_repeats("quantize", "method: gptq")
    if settings.weights == "mixed":
        facts.refuse_mixture("quantize", "weights: mixed")
        facts.refuse_convolutions("quantize", "weights: mixed")
        facts.refuse_repeats("quantize", "weights: mixed")
    _refuse_operators(settings)
    _refuse_cache(settings)
    _refuse_idle(settings, facts)
    _refuse_budget(settings, facts)


def _refuse_operators(settings: QuantizeSettings) -> None:
    """Refuse settings of formats that the operators have not."""
    if not settings.operators:
        return
    has: dict[str, tuple[object, ...]] = {
        "weights": ("int8", "int4", "mixed"),
        "activations": ("dynamic", "token"),
        "unpacked_head": (False,),
    }
    if settings.weights != "int8":
        has |= {"group": _OPERATOR_GROUPS, "symmetric": (True,)}
    for name, values in has.items():
        given = getattr(settings, name)
        if given not in values:
            named = " or ".join(str(value).lower() for value in values)
            raise UserError(
                f"quantize.operators needs quantize.{name} of {named}, not {str(given).lower()}."
            )


def _refuse_cache(settings: QuantizeSettings) -> None:
    """Refuse a cache that is neither of integers nor in float16."""
    bits = settings.cache_bits
    if bits is None or bits <= _MOST_INTEGER_BITS:
        return
    if bits != HALF_BITS:
        raise UserError(
            f"quantize.cache_bits is from 4 to {_MOST_INTEGER_BITS}, or {HALF_BITS}, not {bits:g}."
        )
    if not settings.operators:
        raise UserError(
            f"quantize.cache_bits of {HALF_BITS} is for the operator library's attention: set "
            "quantize.operators to true."
        )


def _refuse_idle(settings: QuantizeSettings, facts: Facts) -> None:
    """A setting that would change nothing of this model is refused, not ignored."""
    checkpoint, anatomy = facts.checkpoint, facts.checkpoint.anatomy
    generates = anatomy.has_cache
    gates = generates and all(
        block.experts is None and block.feed_forward.gate for block in anatomy.blocks
    )
    plan = plan_formats(anatomy, settings)
    per_tensor = any(entry.format == "int8" for entry in plan)
    fused = (
        anatomy.attends
        and turns_whole_heads(checkpoint.config, anatomy.family)
        and not any(part.head_dim % FUSED_HEADS for part in anatomy.attentions)
    )
    rules = {
        "cache_bits": (
            generates and fused,
            "is for the key-value cache of a decoder whose attention is fused (heads of a multiple "
            f"of {FUSED_HEADS} values, turned by their position as a whole)",
        ),
        "prefer": (generates, "is for a decoder's prompts and steps"),
        "unpacked_head": (
            generates and anatomy.tied_embeddings,
            "is for a decoder whose head shares the embedding's table",
        ),
        "smooth": (
            settings.quantizes_linears or settings.prefer is not None,
            "is for linears that are quantized",
        ),
    }
    if settings.massive_activations in ("token-wise", "float"):
        rules["massive_activations"] = rules["smooth"]
    elif settings.massive_activations == "smooth":
        where = "is for weights of int8 or mixed and feed-forwards with gates"
        ranged = settings.weights in ("int8", "mixed") or settings.prefer is not None
        rules["massive_activations"] = (gates and ranged, where)
    if settings.activations != "dynamic":
        rules["activations"] = (per_tensor, "is for linears in INT8")
    given = settings.model_dump()
    for name, (applies, purpose) in rules.items():
        if not applies and given[name] not in (None, False):
            raise UserError(
                f"quantize.{name} of {given[name]} {purpose}, which {checkpoint.name} as it would "
                "be built has not: leave it out."
            )


def _refuse_budget(settings: QuantizeSettings, facts: Facts) -> None:
    """Refuse a budget of mixed precision that cannot be met, as far as settings tell.

    Where weights leave in blocks, what their sparse formats take is not known yet.
    """
    target = facts.target
    chosen = preferred(settings, facts.checkpoint.anatomy.has_cache, target.decode_weights)
    if chosen.weights != "mixed":
        return
    if chosen.linears_ms is not None:
        forms = ("int8", form_name("int4", chosen.group))
        unknown = [
            form for form in forms if target.format_times.microseconds(form, 1, 1, 1) is None
        ]
        if unknown:
            raise UserError(
                f"quantize.linears_ms needs times of {unknown[0]} on {target.name}, and none were "
                "measured: run `edgeprune calibrate` there, or set average_bits instead."
            )
        return
    pruning = (facts.settings.get("prune"), facts.settings.get("sparsify"))
    emptied = any(stage and not stage.gated for stage in pruning)
    # The zero points of two groups fill a byte; a scale that a whole row shares counts for nothing.
    columns = 2 * chosen.group * _LONG
    multiples = MOST_MULTIPLIER if chosen.operators else None
    least = 8 * Scheme(4, chosen.group, chosen.symmetric, multiples).bytes(1, columns) / columns
    if chosen.average_bits < least and not (chosen.sparse and emptied):
        raise UserError(
            f"quantize.average_bits of {chosen.average_bits:g} cannot be met: INT4 in groups of "
            f"{chosen.group} takes {least:g} bits a weight with its scales: raise it, or "
            "quantize.group."
        )


def _plan(settings: QuantizeSettings, facts: Facts) -> Plan:
    target = facts.target
    chosen = preferred(settings, facts.anatomy.has_cache, target.decode_weights)
    return plan_formats(facts.anatomy, chosen, target.weight_bits, {})


def _would(settings: QuantizeSettings, facts: Facts) -> list[str]:
    """The number of tensors that would get each format, and their bytes."""
    own = [entry for entry in _plan(settings, facts).quantized if entry.tied_to is None]
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
        average = "" if settings.cache_bits == HALF_BITS else " on average"
        lines.append(f"cached keys and values take {settings.cache_bits:g} bits{average}")
    return lines + _sparse_lines(settings, facts)


def _sparse_lines(settings: QuantizeSettings, facts: Facts) -> list[str]:
    """Which linears may become sparse; which do, only their pruned weights can tell."""
    if not settings.sparse:
        return []
    pruning = (facts.settings.get("prune"), facts.settings.get("sparsify"))
    patterns = {stage.pattern for stage in pruning if stage}
    whole = settings.sparse == "whole"
    if not whole and patterns.isdisjoint(_SPARSE_BLOCKS):
        return []
    target = facts.target
    rule = f"{target.name}'s break-even table finds faster at {settings.tokens:,} tokens"
    if not target.break_even.points:
        rule = f"{target.name}, which was not measured, takes to be safely faster"
    which = "(whole ones, too)" if whole else "that lost enough blocks"
    return [f"of those in int8, linears become sparse {which}: what {rule}"]


def _leaves(settings: QuantizeSettings, facts: Facts) -> Facts:
    after = replace(facts, plan=_plan(settings, facts))
    if settings.weights == "mixed":
        after = after.and_smaller("what becomes int4")
    if _sparse_lines(settings, facts):
        after = after.and_smaller("the blocks that linears leave out where they become sparse")
    return after


_NEED_WHOLE = {
    "weights": ("mixed",),
    "activations": ("static",),
    "massive_activations": ("smooth",),
}
"""Settings by which outputs of the whole model are compared, or weights changed before they are
rounded."""


def _whole(settings: QuantizeSettings) -> str:
    """The setting that needs the whole model in memory."""
    given = settings.model_dump()
    for name, values in _NEED_WHOLE.items():
        if given[name] in values:
            return f"quantize.{name}: {given[name]}"
    named = (name for name in ("smooth", "cache_bits") if given[name] is not None)
    return next((f"quantize.{name}" for name in named), "")


def _told(did: Quantized) -> list[str]:
    formats = Counter(entry.format for entry in did.plan.entries)
    return [", ".join(f"{many(n, 'tensor')} in {kind}" for kind, n in formats.most_common())]


QUANTIZE = Stage(
    "quantize",
    "edgeprune.compress.quantize.stage:run",
    Quantized,
    settings=QuantizeSettings,
    default=QuantizeSettings,
    description="INT8 and INT4 weights.",
    varies=True,
    whole=_whole,
    refuse=_refuse,
    would=_would,
    leaves=_leaves,
    told=_told,
    look="edgeprune.compress.quantize.outlook:look_ahead",
    looks=lambda settings: settings.quantizes_linears,
    through="edgeprune.compress.quantize.through:trained_through",
    asks=objective,
)
