"""Checks that refuse a build before its work begins, without torch."""

from collections.abc import Iterable
from dataclasses import replace

from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.compress.context import Context
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.fits import check_fits
from edgeprune.model.settings import max_positions, short_length
from edgeprune.pipeline.measure.question import held_out_measures
from edgeprune.pipeline.measure.settings import OWN_TASKS
from edgeprune.pipeline.recipe import Recipe
from edgeprune.pipeline.variants import variants_of
from edgeprune.text.answers import check_questions
from edgeprune.text.balance import label_counts
from edgeprune.text.corpus import Corpus
from edgeprune.text.languages import OTHER
from edgeprune.text.masks import FEWEST_TOKENS, mask_token, too_short
from edgeprune.text.pair_template import read_pair_template
from edgeprune.text.samplers import share_out
from edgeprune.text.text import Text
from edgeprune.text.tokenizer_file import open_tokenizer
from edgeprune.text.truth import FORMS


def check(recipe: Recipe, context: Context) -> None:
    """Refuse a recipe that cannot be carried out on this model and text.

    Raises:
        UserError: naming the setting, or the text, that does not fit.
    """
    checkpoint, text = context.checkpoint, context.text
    check_fits(checkpoint)
    if checkpoint.strays:
        say(
            f"Warning: {', '.join(checkpoint.strays)} in {checkpoint.folder} is not read: the "
            f"model is what {' and '.join(file.name for file in checkpoint.files)} hold."
        )
    longest, config = max_positions(checkpoint.config), checkpoint.config
    if longest == short_length(config) != config.get("max_position_embeddings"):
        say(
            f"Warning: {checkpoint.name} turns positions by other angles once a text has more than "
            f"{longest:,} tokens (rope_scaling of longrope), and a graph holds one set of them: "
            "what is built takes no longer texts."
        )
    if recipe.text.max_tokens > longest:
        raise UserError(
            f"text.max_tokens is {recipe.text.max_tokens}, and {checkpoint.name} takes at most "
            f"{longest} tokens."
        )
    streamed = context.streamed
    if streamed:
        _refuse_required(recipe)
    else:
        _check_required(recipe, checkpoint)
    facts = Facts.of(checkpoint, text, context.target, context.settings)
    shared = (each for each in recipe.stages if not (each.varies or (streamed and each.compares)))
    facts = _refuse_each(shared, facts)
    first, *others = variants_of(recipe, context)
    _refuse_each(first.stages(streamed), facts)
    for variant in others:
        own = replace(facts, target=variant.target, settings=variant.settings)
        try:
            _refuse_each(variant.stages(streamed), own)
        except UserError as error:
            raise UserError(f"variants: {variant.name} cannot be made: {error}") from None
    _check_text(checkpoint, text)
    if any(stage.trains for stage in recipe.stages):
        _refuse_one_truth(text)


def _refuse_each(stages: Iterable[Stage], facts: Facts) -> Facts:
    """Refuse settings that cannot be carried out on what the stages before leave; the facts that
    these stages leave."""
    for stage in stages:
        settings = facts.settings.get(stage.name)
        if stage.attends:
            facts.refuse_convolutions(stage.name)
        stage.refuse(settings, facts)
        facts = stage.leaves(settings, facts)
    return facts


def _refuse_one_truth(text: Text) -> None:
    """Refuse to train on texts, or words, whose labels or scores are all the same: a model that
    learns from them can only forget what tells texts apart."""
    corpus, form = text.corpus, FORMS.get(text.reads)
    if form is None or form.told is None or corpus.labels is None:
        return
    if len({each for truth in corpus.labels for each in form.told(truth)}) < 2:
        raise UserError(
            f"{text.source}: all of its {len(corpus.labels):,} texts say the same by their "
            f"{form.field}, of which a model learns nothing: give texts of at least two kinds."
        )


def _refuse_required(recipe: Recipe) -> None:
    """Nothing can be required of what is not measured."""
    asked = [name for name, value in recipe.require.model_dump().items() if value is not None]
    if asked:
        raise UserError(
            f"require.{asked[0]} cannot be judged where the model is streamed, since the original "
            "is then not measured: leave it out, or set load.streamed to false."
        )


def _check_required(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """A requirement needs a measure that judges it."""
    task, own = checkpoint.task, recipe.measure.task
    measures = [*held_out_measures(task, recipe.vocabulary is not None), *([own] if own else [])]
    if recipe.require.cosine is not None and "cosine" not in measures:
        raise UserError(
            f"require.cosine is for encoders' embeddings, and {checkpoint.name} does {task}: leave "
            "it out, or set require.drop instead."
        )
    if recipe.require.drop is not None and all(
        MEASURES[each].against_original for each in measures
    ):
        fitting = [
            name
            for name in OWN_TASKS
            if task in MEASURES[name].tasks and not (MEASURES[name].per_token and recipe.vocabulary)
        ]
        raise UserError(
            f"require.drop cannot be judged by {' and '.join(measures)}, all that this build "
            f"measures: set measure.task to {' or '.join(fitting)}, and measure.data."
        )


def _check_text(checkpoint: Checkpoint, text: Text) -> None:
    if text.reads == "sentences":
        held = ((text.held_out, "hold out"), (text.measured, "measure"))
        for part, use in ((text.train, "train on"), *held):
            if not part.sentences.texts:
                raise UserError(
                    f"{text.source} leaves no sentence of three words or more to {use}: "
                    "give more text."
                )
    if text.settings.balance and not label_counts(text.corpus.labels or ()):
        raise UserError(
            "text.balance evens out the labels that a classifier learns from, and this text has "
            "none: leave it out."
        )
    if text.settings.sampler == "stratified":
        groups = text.train.by_group()
        sizes = {name: len(group.documents) for name, group in groups.items()}
        share_out(0, sizes, text.settings.shares)
    file = checkpoint.assets / "tokenizer.json"
    if file.exists():
        tokenizer = open_tokenizer(file)
        _check_tokens(text.corpus, tokenizer, checkpoint)
        if template := read_pair_template(checkpoint.assets):
            template.room(tokenizer, text.settings.max_tokens)
        for part in (text.train, text.held_out, text.measured) if text.reads == "windows" else ():
            _check_window(part, tokenizer, text.settings.max_tokens)
        if text.reads == "asked":
            check_questions(tokenizer, text.corpus.documents, text.settings.max_tokens)
        if text.reads == "masked":
            mask_token(checkpoint.assets, tokenizer)
            for part in (text.train, text.held_out, text.measured):
                _check_long_enough(part, tokenizer)
        if text.settings.language_balance and text.reads == "windows":
            for name, part in text.train.by_language.items():
                if name != OTHER:
                    _check_window(part, tokenizer, text.settings.max_tokens, f" in {name}")


def _check_tokens(corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Whether the model has a row for each token of the text; it may do without for others."""
    rows = checkpoint.anatomy.shape(checkpoint.anatomy.embeddings["word"])[0]
    if max(tokenizer.get_vocab().values(), default=0) < rows:
        return
    for text in corpus.texts:
        last = max(tokenizer.encode(text).ids, default=0)
        if last >= rows:
            raise UserError(
                f"{corpus.source} has the token {tokenizer.id_to_token(last)!r}, which is number "
                f"{last:,} in {checkpoint.name}'s tokenizer.json, and the model has rows for "
                f"{rows:,}: give the model its own tokenizer, or leave that token out."
            )


def _check_long_enough(part: Corpus, tokenizer: Tokenizer) -> None:
    """Whether a text is long enough for a token of it to be masked."""
    for text in part.texts:
        if len(tokenizer.encode(text, add_special_tokens=False).ids) >= FEWEST_TOKENS:
            return
    raise UserError(too_short(part.source))


def _check_window(part: Corpus, tokenizer: Tokenizer, length: int, language: str = "") -> None:
    """Count the text's own tokens until there are enough for one window."""
    count = 0
    for text in part.texts:
        count += len(tokenizer.encode(text, add_special_tokens=False).ids)
        if count >= length:
            return
    raise UserError(
        f"{part.source} leaves {count} tokens of text{language} to train on or to hold out, less "
        "than one "
        f"window of {length}: give more text or a smaller text.max_tokens."
    )
