"""A search before its work: what was asked, checked, and what all its trials have in common."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.words import listed
from edgeprune.compress.context import Context
from edgeprune.compress.cut.vocabulary_row import VOCABULARY, refuse_untrimmable
from edgeprune.measure.works import WORKS, Work
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.tasks import TASKS
from edgeprune.pipeline.build import prepare as prepare_build
from edgeprune.pipeline.keep import refuse_foreign
from edgeprune.pipeline.keys import assets_digest, digest, model_digest
from edgeprune.pipeline.recipe import Recipe, validate
from edgeprune.runtime.bundle import check_replaceable
from edgeprune.search.settings import SearchRunSettings, Wish
from edgeprune.search.times.measure import refuse_uneven
from edgeprune.search.times.settings import Form
from edgeprune.search.trial import Length, contents, recipe_of
from edgeprune.targets import detect
from edgeprune.text.files import read_rows
from edgeprune.text.pairs import texts_of

MARK = "search"
"""The folder of an output that only a search makes."""
BEST = "best"
_KEPT = re.compile(r"trials|answers|(losses-)?[0-9a-f]{12}\.json|\..*")
"""Names in that folder: trials, answers, losses, journals, and files that are being written."""
_WORK = ("tokens", "batch", "threads")
_TRAINED_ON = 0.01
"""Share of the judging data's texts that may stand in the training text: some are too short to
be anybody's."""


@dataclass(frozen=True)
class Prepared:
    """The model, the text and the limits of a search, checked.

    base: the recipe whose text, quantization and training the trials take, with the model's folder
        in it, and the work and the measure that were asked for.
    context: of a build that only quantizes: model, text, target.
    """

    base: Recipe
    context: Context
    wish: Wish
    settings: SearchRunSettings
    output: Path

    @property
    def checkpoint(self) -> Checkpoint:
        """The uncompressed model."""
        return self.context.checkpoint

    @property
    def common(self) -> str:
        """The key of what every search on this model and text has in common."""
        checkpoint = self.checkpoint
        text = self.context.text
        texts = [each.digest for each in (text, text.vocabulary) if each]
        inputs = (model_digest(checkpoint), assets_digest(checkpoint.folder), *texts)
        return digest(*inputs, self.base.model_dump_json(exclude={"measure"}))

    @property
    def may_trim(self) -> bool:
        """Whether tokens could leave that do not leave yet."""
        try:
            refuse_untrimmable(self.checkpoint.assets)
        except UserError:
            return False
        return self.base.vocabulary is None

    @property
    def group(self) -> int:
        """Query heads that leave together: one of each key-value head where these are shared."""
        anatomy = self.checkpoint.anatomy
        shared = anatomy.shared_key_value_heads
        return anatomy.attentions[0].num_key_value_heads if shared else 1

    @property
    def work(self) -> Work:
        """The kind of work whose time counts."""
        works = TASKS[self.checkpoint.task].works
        return next(work for work in WORKS if work == (self.settings.work or works[0]))

    @property
    def form(self) -> Form:
        """The format of the linears, as the table of times names it."""
        return form_of(self.base)


def form_of(recipe: Recipe) -> Form:
    """The one format of a recipe's linears.

    Raises:
        UserError: they have several, of which there is no table.
    """
    quantize = recipe.quantize
    if quantize is None or quantize.weights == "none":
        return "float32"
    if quantize.weights == "int8":
        return "int8-token" if quantize.activations == "token" else "int8"
    if quantize.weights == "int4" and quantize.group in (32, 64, 128):
        return f"int4-{quantize.group}"  # type: ignore[return-value]
    raise UserError(
        f"A search needs one format for all linears, and quantize.weights is {quantize.weights}: "
        "take int8, int4 or none."
    )


def prepare(
    recipe: Recipe,
    model: str | None,
    data: tuple[str, ...],
    wish: Wish,
    settings: SearchRunSettings,
    output: Path,
) -> Prepared:
    """Check everything that can be checked before work begins.

    Raises:
        UserError: model, text, limits or output cannot be used.
    """
    _refuse_output(output)
    content = contents(recipe)
    if model is not None:
        content["model"] = _absolute(model)
    if data:
        content["text"] = {
            **content.get("text", {}),
            "data": [_absolute(each) for each in data],
        }
    if VOCABULARY.name in content and (further := content[VOCABULARY.name].get("data")):
        content[VOCABULARY.name]["data"] = [_absolute(each) for each in further]
    settings = _with_work(settings, recipe)
    work = {name: getattr(settings, name) for name in _WORK}
    judged: dict[str, Any] = {}
    if settings.task is not None:
        judged = {"task": settings.task, "data": _absolute(str(settings.eval))}
    content["measure"] = {**content.get("measure", {}), **work, **judged}
    content.pop("require", None)
    base = validate(content, "the search's recipe")
    build = prepare_build(
        recipe_of(base, None, Length(), None, brief=False), None, (), output / "trials"
    )
    context = build.context
    if context.streamed:
        raise UserError(
            "A search trains every candidate, and this model's weights do not fit into memory."
        )
    if context.target.name != detect().name:
        raise UserError(
            f"A search times what it finds, and this machine is no {context.target.name}: run it "
            "there, or leave --on out."
        )
    refuse_uneven(context.checkpoint)
    form_of(base)
    works = TASKS[context.checkpoint.task].works
    if settings.work is not None and settings.work not in works:
        raise UserError(f"--work {settings.work}: this model's work is {listed(works)}.")
    prepared = Prepared(base, context, wish, settings, output)
    if wish.max_drop is not None and base.measure.task is None:
        raise UserError(
            "--max-drop is a loss of a quality measure: name one with --task, and its data with "
            "--eval."
        )
    _refuse_trained_on(prepared)
    return prepared


def _with_work(settings: SearchRunSettings, recipe: Recipe) -> SearchRunSettings:
    """The settings with the recipe's work where none was given."""
    own = {name: getattr(recipe.measure, name) for name in _WORK}
    given = settings.model_dump(include=settings.model_fields_set)
    return SearchRunSettings(**{**own, **given})


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _refuse_output(output: Path) -> None:
    """Refuse a folder that is not a search's: what is in one may be replaced."""
    kept = output / MARK
    ours = kept.is_dir() and all(_KEPT.fullmatch(found.name) for found in kept.iterdir())
    refuse_foreign(output, "a search", ours)
    check_replaceable(output / BEST)


def _refuse_trained_on(prepared: Prepared) -> None:
    """Refuse data to judge by that is trained on."""
    measure = prepared.base.measure
    if measure.data is None or not Path(measure.data).is_file():
        return
    judged = _texts(Path(measure.data))
    if not judged:
        return
    text = prepared.context.text
    trained = {part.strip() for each in text.train.documents for part in texts_of(each)}
    if text.reads == "sentences":
        trained |= {sentence.strip() for sentence in text.train.sentences.texts}
    seen = sum(each in trained for each in judged)
    if seen > _TRAINED_ON * len(judged):
        raise UserError(
            f"{seen:,} of the {len(judged):,} texts of {measure.data} are in the text that is "
            "trained on, so that they cannot judge: name other data with --eval, or other text "
            "with --data."
        )


_TEXT = 20
"""Characters from which on a field's value is a text, and no label or name."""


def _texts(file: Path) -> set[str]:
    """The different texts of a file of rows; of others none."""
    rows = read_rows(file, []) if file.suffix in (".jsonl", ".csv") else []
    values = (str(value).strip() for row in rows for value in row.values())
    return {value for value in values if len(value) >= _TEXT}
