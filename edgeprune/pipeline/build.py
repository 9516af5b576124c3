"""A build before its work: the recipe, and what every stage is given, all checked."""

from dataclasses import dataclass
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.compress.context import Context
from edgeprune.compress.stage import Stage
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.checks import check
from edgeprune.pipeline.keep import check_output
from edgeprune.pipeline.recipe import Recipe
from edgeprune.pipeline.streaming import is_streamed
from edgeprune.pipeline.variants import Variant, variants_of
from edgeprune.targets import find
from edgeprune.text.labels import label_names
from edgeprune.text.text import open_text
from edgeprune.text.truth import FORMS


@dataclass(frozen=True)
class Build:
    """A recipe and what its stages work on."""

    recipe: Recipe
    context: Context

    @property
    def stages(self) -> list[Stage]:
        """The stages that run for the first variant, in order: of a streamed model none that looks
        at the original as a whole."""
        streamed = self.context.streamed
        return [stage for stage in self.recipe.stages if not (streamed and stage.compares)]

    @property
    def shared(self) -> list[Stage]:
        """Those of them whose results all variants share."""
        return [stage for stage in self.stages if not stage.varies]

    @property
    def variants(self) -> list[Variant]:
        """The graphs that the bundle will hold, the recipe's own first."""
        return variants_of(self.recipe, self.context)


def prepare(recipe: Recipe, model: str | None, data: tuple[str, ...], output: Path | None) -> Build:
    """Check everything that can be checked before work begins.

    Raises:
        UserError: the model, the text or the output folder cannot be used.
    """
    for option, given in (("--model", model), *(("--data", source) for source in data)):
        if given is not None and not given.strip():
            raise UserError(
                f"{option} is empty (unset shell variable?): give a value, or omit the option to "
                "take the recipe's."
            )
    name = recipe.model if model is None else model
    if name is None:
        raise UserError(f"The recipe {recipe.name} names no model; give one with --model.")
    if data:
        recipe = recipe.model_copy(update={"text": recipe.text.model_copy(update={"data": data})})
    target = find(recipe.target)
    checkpoint = open_checkpoint(name)
    task = TASKS[checkpoint.task]
    labels = label_names(checkpoint.config) if task.reads in FORMS else None
    further = recipe.vocabulary.data if recipe.vocabulary else ()
    text = open_text(recipe.text, task.reads, recipe.seed, labels, further)
    folder = output or Path("build") / recipe.name
    streamed = is_streamed(recipe, checkpoint)
    context = Context(
        checkpoint, text, target, recipe.settings, folder, recipe.seed, streamed=streamed
    )
    check(recipe, context)
    check_output(folder)
    return Build(recipe, context)
