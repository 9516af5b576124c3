"""The variants of a build: graphs of one model in other formats or for other processors.

A recipe's own target and quantization give the first; `variants` names others, under the names
that files have on the hub. They share all stages up to the first that varies. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.compress.context import Context
from edgeprune.compress.quantize.row import QUANTIZE
from edgeprune.compress.quantize.settings import QuantizeSettings, preferred
from edgeprune.compress.stage import Stage
from edgeprune.pipeline.measure.row import MEASURE
from edgeprune.pipeline.recipe import Recipe, stages_of
from edgeprune.targets import NAMES, Target, find

FLOAT = "float32"
_ANYWHERE = "x86-avx2"
"""The target whose INT8 weights saturate on no processor."""
_PORTABLE = {"prefer": None, "sparse": False, "cache_bits": None, "linears_ms": None}
"""Settings without what clients other than ONNX Runtime on a processor lack."""


@dataclass(frozen=True)
class Format:
    """A variant for clients that choose by format."""

    file: str
    quantize: Mapping[str, Any] | None
    """Changes of the recipe's quantization; None: it has none."""


FORMATS: Mapping[str, Format] = {
    FLOAT: Format("model.onnx", None),
    "quantized": Format("model_quantized.onnx", {**_PORTABLE, "weights": "int8"}),
    "int4": Format(
        "model_q4.onnx",
        {
            **_PORTABLE,
            "weights": "int4",
            "activations": "dynamic",
            "massive_activations": "auto",
            "smooth": None,
        },
    ),
}
"""By the name in a recipe; any other name is a target's."""


@dataclass(frozen=True)
class Variant:
    """One graph that a build makes."""

    name: str
    file: str
    """Its place in the bundle."""
    target: Target
    settings: Mapping[str, Any]
    """Of the stages that run for it, by the stage's name."""
    shares: bool
    """Whether its data may lie in a file that other graphs read, too: clients that fetch a graph by
    its format fetch one file."""

    def stages(self, streamed: bool) -> list[Stage]:
        """The stages that run for it alone, in order.

        Args:
            streamed: whether what looks at the original as a whole is left out.
        """
        return [
            stage
            for stage in stages_of(self.settings)
            if stage.varies and not (streamed and stage.compares)
        ]

    def context(self, build: Context) -> Context:
        """The context of its stages, with the results of those that all share."""
        return build.branch(self.settings, self.target)


def variants_of(recipe: Recipe, context: Context) -> list[Variant]:
    """Every variant of a build, the recipe's own first.

    Raises:
        UserError: a name is unknown, or such a variant cannot be made of this recipe.
    """
    generates = context.checkpoint.anatomy.has_cache if recipe.variants else False
    own = _own_name(recipe, context.target, generates)
    others = dict.fromkeys(_name(each, recipe) for each in recipe.variants)
    others.pop(own, None)
    if others and context.streamed:
        raise UserError(
            f"variants: {next(iter(others))} cannot be made where the model is streamed: leave "
            "variants out, or set load.streamed to false."
        )
    taken = FLOAT in others  # the hub's plain name is for float32, where there is one
    file = _file(own, context.target) if taken else FORMATS[FLOAT].file
    first = Variant(own, f"onnx/{file}", context.target, recipe.settings, shares=True)
    return [first, *(_variant(name, recipe, context.target) for name in others)]


def _variant(name: str, recipe: Recipe, own: Target) -> Variant:
    form = FORMATS.get(name)
    target = find(name) if form is None else own if form.quantize is None else find(_ANYWHERE)
    settings = {**recipe.settings, MEASURE.name: _briefly(recipe.measure)}
    if form is not None and form.quantize is None:
        del settings[QUANTIZE.name]
    elif form is not None:
        asked = settings.get(QUANTIZE.name, QuantizeSettings()).model_dump()
        settings[QUANTIZE.name] = QuantizeSettings(**{**asked, **(form.quantize or {})})
    return Variant(name, f"onnx/{_file(name, target)}", target, settings, shares=form is None)


def _briefly(measure: Any) -> Any:
    """Speed and quality alone: the rest is told of the first variant."""
    return measure.model_copy(update={"profile": False, "curve": (), "stages": False})


def _name(asked: str, recipe: Recipe) -> str:
    """A variant's name: a format's, or its target's, where all of ARM share one file.

    Raises:
        UserError: there is no such variant, or nothing for it to change.
    """
    if asked in FORMATS:
        return asked
    if asked not in NAMES:
        raise UserError(
            f"variants: there is no {asked!r}; known are {', '.join((*FORMATS, *NAMES))}."
        )
    if recipe.quantize is None:
        raise UserError(
            f"variants: without quantize a graph is the same for {asked} as for any processor: "
            "leave it out, or add quantize: {}."
        )
    return _of_target(find(asked))


def _of_target(target: Target) -> str:
    return target.hub if target.architecture == "arm" else target.name


def _own_name(recipe: Recipe, target: Target, generates: bool) -> str:
    """The name of what the recipe itself makes."""
    if recipe.quantize is None:
        return FLOAT
    chosen = preferred(recipe.quantize, generates, target.decode_weights)
    return "int4" if chosen.weights == "int4" else _of_target(target)


def _file(name: str, target: Target) -> str:
    return FORMATS[name].file if name in FORMATS else f"model_qint8_{target.hub}.onnx"
