"""Whether a build reads its model's weights from disk, layer by layer, or has them in memory."""

from edgeprune.base.errors import UserError
from edgeprune.base.words import size
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.units import parameters
from edgeprune.pipeline.recipe import Recipe

_LARGE = 2_000_000_000
"""Weights beyond which `auto` streams a model: it would take 8 GB, and several times that to be
traced and measured."""


def is_streamed(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Whether a recipe's build streams a model.

    Raises:
        UserError: the recipe asks for it, and the model or a stage's setting does not allow it.
    """
    asked = recipe.load.streamed
    weights = parameters(checkpoint.anatomy)
    if asked is False or (asked == "auto" and weights <= _LARGE):
        return False
    why = _why_not(recipe, checkpoint)
    if why and asked is True:
        raise UserError(
            f"load.streamed: {why}. Leave load.streamed out, or what needs the whole model: that "
            f"takes {size(4 * weights)} of memory, and the build several times as much."
        )
    return not why


def _why_not(recipe: Recipe, checkpoint: Checkpoint) -> str:
    """The reason why a build needs the whole model; empty where it does not."""
    if why := _held_otherwise(checkpoint, checkpoint.anatomy):
        return why
    if recipe.text.sampler == "clusters":
        return "text.sampler: clusters needs the whole model in memory"
    for stage in recipe.stages:
        if setting := stage.needs_whole(recipe.settings.get(stage.name)):
            return f"{setting} needs the whole model in memory"
    return ""


def _held_otherwise(checkpoint: Checkpoint, anatomy: Anatomy) -> str:
    """Why a model's tensors cannot be read one by one as its linears' weights."""
    family = anatomy.family
    if checkpoint.gguf:
        return "a GGUF file is read as a whole"
    if family.decoder is None or not anatomy.generates:
        return "only decoders whose graph is emitted from their tensors can be streamed"
    setting = family.depth_scaled
    if setting and checkpoint.config.get(setting):
        return f"{setting} changes weights when the model is read"
    return ""
