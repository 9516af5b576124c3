"""The preview of a build, in sentences, without touching anything; torch only looks at activations,
where it is installed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from edgeprune.base.places import called
from edgeprune.base.registry import load_function
from edgeprune.base.words import listed, size
from edgeprune.compress.facts import UNITS, Facts, Removed
from edgeprune.compress.quantize.plan import Plan, plan_formats
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.stage import Stage
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.units import parameters
from edgeprune.pipeline.build import Build
from edgeprune.pipeline.builds import built, kept
from edgeprune.pipeline.variants import Variant
from edgeprune.report.made import Made, format_names, model_name
from edgeprune.targets.format_times import form_name

_PLAIN = QuantizeSettings(weights="none", embeddings=False)
_LOOKED_AT = 1_000_000_000
"""Weights of a model that a dry run reads, at four bytes each."""


@dataclass(frozen=True)
class Expected:
    """The result of a build, as far as that is known before it."""

    made: Made
    facts: tuple[tuple[str, str], ...]
    """(what, a line): the size, and what such a build took and reached where it was measured."""
    stages: tuple[tuple[str, str], ...]
    """(stage, what it would do), in the order of the stages."""


def expected(build: Build, outlook: Mapping[str, Sequence[str]]) -> Expected:
    """The expected result of a recipe, a model and a text: shares and sizes by arithmetic. Times
    nobody knows before they are measured.

    Args:
        outlook: what a look at the model found, in sentences by the name of the stage.
    """
    context = build.context
    before = facts = Facts.of(context.checkpoint, context.text, context.target, context.settings)
    lines, shared = [], facts
    for stage in build.stages:
        settings = context.settings.get(stage.name)
        would = [*stage.would(settings, facts), *outlook.get(stage.name, [])]
        lines += [(stage.name, line) for line in would]
        facts = stage.leaves(settings, facts)
        shared = shared if stage.varies else facts
    lines += [("variants", _variant_line(each, shared)) for each in build.variants[1:]]
    trained = [each for each in context.settings.values() if hasattr(each, "steps")]
    timed = [each.minutes for each in trained if getattr(each, "minutes", None)]
    steps = sum(each.steps for each in trained if not getattr(each, "minutes", None))
    plan = facts.plan or plan_formats(facts.anatomy, _PLAIN)
    name, removed = model_name(called(context.checkpoint.name)), _removed(before, facts)
    made = Made(name, removed, steps, _formats(facts), sum(timed))
    known = [("size", _size_line(before.anatomy, facts, plan)), *_outcome(build, made)]
    if linears := _linears(build, facts, plan):
        known.append(("linears", linears))
    return Expected(made, tuple(known), tuple(lines))


def _outcome(build: Build, made: Made) -> list[tuple[str, str]]:
    """Time, memory, speed and quality of a build alike, where one was measured."""
    here = kept(build)
    found = here or built(build.recipe)
    if found is None:
        trained = f", but for {made.minutes:g} minutes of training" if made.minutes else ""
        why = "no build with these settings was measured; this one measures all of them"
        return [("not known", f"time, memory, speed and quality{trained}: {why}")]
    source = "the build that is kept in the output folder" if here else found.where
    return [
        ("time", f"about {found.minutes:.1f} minutes to build"),
        ("memory", f"up to {found.gigabytes:.1f} GB while building"),
        ("speed", found.faster),
        ("quality", found.changed),
        ("as with", f"{source}; another model or machine differs, and the build measures its own"),
    ]


def _linears(build: Build, facts: Facts, plan: Plan) -> str:
    """The time of the result's linears by the target's table; empty where it lacks one of them, or
    where only the build can tell what they become."""
    if facts.smaller:
        return ""
    table, settings = build.context.target.format_times, build.context.settings["measure"]
    inside, total = facts.anatomy.block_linears(), 0.0
    for entry in plan:
        if entry.name in inside:
            outputs, inputs = entry.shape
            form, rows = form_name(entry.format, entry.group), settings.tokens * settings.batch
            found = entry.predicted_us or table.microseconds(form, inputs, outputs, rows)
            if found is None:
                return ""
            total += found
    if not total:
        return ""
    return (
        f"about {facts.anatomy.repeats * total / 1000:.3g} ms of a call of {settings.tokens} "
        f"tokens, one thread, by times of {table.evidence}; the rest of a call is not in them"
    )


def outlook(build: Build) -> dict[str, list[str]]:
    """The findings of a look at the model, which takes some seconds: sentences by the stage's name.

    Raises:
        UserError: the model cannot be read, or its build would fail.
    """
    settings = build.context.settings
    return {
        stage.name: _looked(stage, build)
        for stage in build.stages
        if stage.look and stage.looks(settings.get(stage.name))
    }


def _looked(stage: Stage, build: Build) -> list[str]:
    context, anatomy = build.context, build.context.checkpoint.anatomy
    assert stage.look is not None
    if parameters(anatomy) > _LOOKED_AT:
        return ["massive activations of a model as large are looked for in the build"]
    try:
        look = load_function(stage.look)
    except ModuleNotFoundError as error:
        return [f"massive activations are looked for where {error.name} is installed"]
    lines: list[str] = look(context, context.settings[stage.name])
    return lines


def _variant_line(variant: Variant, shared: Facts) -> str:
    """A further graph, by the stages that it has of its own after those that all share."""
    facts = replace(shared, target=variant.target, settings=variant.settings, plan=None)
    for stage in variant.stages(streamed=False):
        facts = stage.leaves(variant.settings.get(stage.name), facts)
    plan = facts.plan or plan_formats(facts.anatomy, _PLAIN)
    return f"{variant.name}: {variant.file}, about {size(_bytes(facts.anatomy, plan))}"


def _removed(before: Facts, after: Facts) -> list[Removed]:
    """The units that a build would remove, as its record would tell."""
    layers, count = len(before.anatomy.blocks), len(after.anatomy.blocks)
    found = [Removed("layers", layers - count, layers)] if count < layers else []
    for kind, noun in UNITS.items():
        whole = sum(before.units[kind]) * count // layers
        left = sum(after.units[kind])
        if left < whole:
            found.append(Removed(noun, whole - left, whole))
    return [*found, *after.emptied]


def _formats(facts: Facts) -> list[str]:
    """The formats that the weights would be stored in; of mixed, which are in what is not known."""
    quantize = facts.settings.get("quantize")
    if quantize and quantize.weights == "mixed":
        return ["INT8", "INT4"]
    weights: dict[int, int] = {}
    for entry in facts.plan or ():
        if entry.tied_to is None:
            weights[entry.bits] = weights.get(entry.bits, 0) + prod(entry.shape)
    return format_names(weights)


def _size_line(anatomy: Anatomy, facts: Facts, plan: Plan) -> str:
    """Bytes of the weights before and after."""
    before = _bytes(anatomy, plan_formats(anatomy, _PLAIN))
    known = f"about {size(_bytes(facts.anatomy, plan))}, from {size(before)}"
    return f"{known} in float32{', less ' if facts.smaller else ''}{listed(facts.smaller)}"


def _bytes(anatomy: Anatomy, plan: Plan) -> int:
    """Of all weights: those that the plan names, packed, and biases and norms in float32."""
    rest = sum(shape[0] for shape in anatomy.shapes.values() if len(shape) == 1)
    return sum(entry.bytes for entry in plan) + 4 * rest
