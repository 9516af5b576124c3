"""What a build can be refused for before its work begins, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgeprune.base.budget import most_removable
from edgeprune.base.errors import UserError
from edgeprune.base.files import read_json
from edgeprune.base.progress import say
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.tokenizer import vocabulary
from edgeprune.compress.cut.vocabulary_settings import VocabularySettings
from edgeprune.compress.prune.settings import PruneSettings
from edgeprune.compress.quantize.plan import plan_formats
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import QuantizeSettings, preferred
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.choice import read_items
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.model.anatomy import FUSED_HEADS, Anatomy
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.families import max_positions
from edgeprune.model.fits import check_fits
from edgeprune.model.rope import turns_whole_heads
from edgeprune.pipeline.measure.settings import OWN_TASKS
from edgeprune.pipeline.measure.stage import held_out_measures
from edgeprune.pipeline.recipe import Recipe
from edgeprune.runtime.bundle import Bundle
from edgeprune.targets import find
from edgeprune.targets.format_times import form_name
from edgeprune.text.corpus import Corpus, read_corpus
from edgeprune.text.files import Row, number_of, text_of
from edgeprune.text.labels import label_names, label_numbers
from edgeprune.text.samplers import share_out
from edgeprune.text.tokenizer_file import open_tokenizer


def _as_it_is(row: Row, field: str, place: str | Path) -> Any:
    return row[field]


# Fields of the rows that a measure reads, and how it reads each.
_FIELDS: dict[str, dict[str, Callable[[Row, str, str | Path], Any]]] = {
    "sts": {"text": text_of, "text_pair": text_of, "score": number_of},
    "classification": {"text": text_of, "label": _as_it_is},
    "choice": {"query": text_of, "choices": _as_it_is, "gold": _as_it_is},
    "cloze": {"context": text_of, "continuation": text_of},
    "generation": {"prompt": text_of, "answer": text_of},
}


def check(recipe: Recipe, checkpoint: Checkpoint, corpus: Corpus) -> None:
    """Refuse a recipe that cannot be carried out on this model and text.

    Raises:
        UserError: naming the setting, or the text, that does not fit.
    """
    anatomy = checkpoint.anatomy
    check_fits(checkpoint)
    if checkpoint.strays:
        say(
            f"Warning: {', '.join(checkpoint.strays)} in {checkpoint.folder} is not read: the "
            f"model is what {' and '.join(file.name for file in checkpoint.files)} hold."
        )
    if any(block.experts for block in anatomy.blocks):
        _check_mixture(recipe, checkpoint)
    if recipe.quantize:
        _check_applies(recipe.quantize, checkpoint)
    _check_lengths(recipe, checkpoint)
    _check_measure(recipe, checkpoint)
    _check_required(recipe, checkpoint)
    _check_mixed(recipe, anatomy)
    if recipe.vocabulary:
        _check_vocabulary(recipe.vocabulary, checkpoint)
    _check_text(recipe, checkpoint, corpus)
    units = {"channels": _channels(anatomy), "heads": _heads(anatomy)}
    if isinstance(recipe.prune, PruneSettings) and recipe.prune.gated:
        for pool in recipe.prune.pools():
            units[pool.pattern] = _left_by_pruning(anatomy, pool, units[pool.pattern])
    if recipe.cut:
        _check_experts(recipe.cut, checkpoint)
        left = _check_layers(anatomy, recipe.cut)
        for kind, layers in units.items():
            # Which layers go is not known yet: the largest that can be left.
            parts = anatomy.feed_forwards if kind == "channels" else anatomy.blocks
            places = len(parts) * left // len(anatomy.blocks)
            _check_cut(anatomy, recipe.cut, kind, sorted(layers)[-places:], places)


def _check_applies(settings: QuantizeSettings, checkpoint: Checkpoint) -> None:
    """A setting that would change nothing of this model is refused, not ignored."""
    anatomy = checkpoint.anatomy
    decoder = anatomy.kind == "decoder"
    gates = decoder and all(
        block.experts is None and block.feed_forward.gate for block in anatomy.blocks
    )
    plan = plan_formats(anatomy, settings)
    per_tensor = any(entry.format == "int8" for entry in plan)
    rounded = settings.weights != "none" or settings.prefer is not None
    fused = turns_whole_heads(checkpoint.config, anatomy.family) and not any(
        block.attention.head_dim % FUSED_HEADS for block in anatomy.blocks
    )
    rules = {
        "cache_bits": (
            decoder and fused,
            "is for the key-value cache of a decoder whose attention is fused (heads of a multiple "
            f"of {FUSED_HEADS} values, turned by their position as a whole)",
        ),
        "prefer": (decoder, "is for a decoder's prompts and steps"),
        "unpacked_head": (
            decoder and anatomy.tied_embeddings,
            "is for a decoder whose head shares the embedding's table",
        ),
        "smooth": (rounded, "is for linears that are quantized"),
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


def _check_mixture(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Some stages know one feed-forward a layer, which sees every token."""
    for stage in ("prune", "sparsify", "quantize"):
        if getattr(recipe, stage) is not None:
            raise UserError(
                f"{checkpoint.name} is made of mixtures of experts, which the {stage} stage does "
                "not take; leave it out and use cut.experts, cut.channels or cut.layers."
            )


def _check_lengths(recipe: Recipe, checkpoint: Checkpoint) -> None:
    longest = max_positions(checkpoint.config)
    if recipe.text.max_tokens > longest:
        raise UserError(
            f"text.max_tokens is {recipe.text.max_tokens}, and {checkpoint.name} takes at most "
            f"{longest} tokens."
        )
    if checkpoint.gguf is None:  # what the tokenizer allows may be less
        longest = Bundle(checkpoint.folder, {"max_length": longest}).max_length or longest
    decoder = checkpoint.task == "text-generation"
    generated = BenchSettings().decode_steps + 1 if decoder else 0
    if recipe.measure.tokens + generated > longest:
        beside = f" and {generated} more are generated" if generated else ""
        raise UserError(
            f"measure.tokens is {recipe.measure.tokens}{beside}, and {checkpoint.name} takes at "
            f"most {longest} tokens."
        )


def _check_measure(recipe: Recipe, checkpoint: Checkpoint) -> None:
    task, data = recipe.measure.task, recipe.measure.data
    if task is None:
        return
    if data is None:
        raise UserError("measure.task needs measure.data, the file that it reads.")
    if MEASURES[task].per_token and recipe.vocabulary:
        raise UserError(
            f"measure.task is {task}, which does not compare models of other tokens, and "
            "`vocabulary` takes tokens out: leave one of them out (kl is measured anyway)."
        )
    if not Path(data).exists():
        raise UserError(f"measure.data: there is no file {data}.")
    if checkpoint.task not in MEASURES[task].tasks:
        fitting = [name for name in OWN_TASKS if checkpoint.task in MEASURES[name].tasks]
        raise UserError(
            f"measure.task is {task}, which does not fit {checkpoint.task}: "
            f"take {' or '.join(fitting)}."
        )
    rows = _read(task, Data(data, recipe.measure.limit, fields=recipe.measure.fields))
    if task == "classification":
        names = label_names(checkpoint.config)
        label_numbers([row["label"] for row in rows], names, data)


def _read(task: str, data: Data) -> list[Row]:
    """Read what a measure would read; its rows, where it reads rows."""
    if task == "perplexity":
        data.documents()
        return []
    if task == "generation" and "choices" in data.rows([])[0]:
        task = "choice"
    rows = data.rows(list(_FIELDS[task]))
    for row in rows:
        for field, read in _FIELDS[task].items():
            read(row, field, data.place)
    if task == "choice":
        read_items(rows, data.place)
    return rows


def _check_required(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """A requirement needs a measure that judges it."""
    task, own = checkpoint.task, recipe.measure.task
    measures = [*held_out_measures(task, recipe), *([own] if own else [])]
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


def _check_mixed(recipe: Recipe, anatomy: Anatomy) -> None:
    """Whether mixed precision can meet its budget, as far as settings tell.

    Where weights leave in blocks, what their sparse formats take is not known yet.
    """
    if recipe.quantize is None:
        return
    target = find(recipe.target)
    settings = preferred(recipe.quantize, anatomy.kind, target.decode_weights)
    if settings.weights != "mixed":
        return
    if settings.linears_ms is not None:
        forms = ("int8", form_name("int4", settings.group))
        unknown = [
            form for form in forms if target.format_times.microseconds(form, 1, 1, 1) is None
        ]
        if unknown:
            raise UserError(
                f"quantize.linears_ms needs times of {unknown[0]} on {target.name}, and none were "
                "measured: run benchmarks/format_times.py there, or set average_bits instead."
            )
        return
    emptied = any(stage and not stage.gated for stage in (recipe.prune, recipe.sparsify))
    columns = 2 * settings.group  # the zero points of two groups fill a byte
    least = 8 * Scheme(4, settings.group, settings.symmetric).bytes(1, columns) / columns
    if settings.average_bits < least and not (settings.sparse and emptied):
        raise UserError(
            f"quantize.average_bits of {settings.average_bits:g} cannot be met: INT4 in groups of "
            f"{settings.group} takes {least:g} bits a weight with its scales: raise it, or "
            "quantize.group."
        )


def _check_vocabulary(settings: VocabularySettings, checkpoint: Checkpoint) -> None:
    """Whether the further text can be read, and the tokenizer be trimmed."""
    if settings.data:
        read_corpus(settings.data)
    file = checkpoint.assets / "tokenizer.json"
    if file.exists():
        open_tokenizer(file)
        vocabulary(read_json(file))


def _check_text(recipe: Recipe, checkpoint: Checkpoint, corpus: Corpus) -> None:
    parts = corpus.split(recipe.text.held_out, recipe.seed)
    if checkpoint.task == "feature-extraction":
        for part, use in zip(parts, ("train on", "hold out"), strict=True):
            if not part.sentences.texts:
                raise UserError(
                    f"{corpus.source} leaves no sentence of three words or more to {use}: "
                    "give more text."
                )
    if recipe.text.sampler == "stratified":
        sizes = {name: len(group.documents) for name, group in parts[0].by_group().items()}
        share_out(0, sizes, recipe.text.shares)
    file = checkpoint.assets / "tokenizer.json"
    if file.exists():
        tokenizer = open_tokenizer(file)
        _check_tokens(corpus, tokenizer, checkpoint)
        for part in parts if checkpoint.task == "text-generation" else ():
            _check_window(part, tokenizer, recipe.text.max_tokens)


def _check_tokens(corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Whether the model has a row for each token of the text; it may do without for others."""
    rows = checkpoint.anatomy.shape(checkpoint.anatomy.embeddings["word"])[0]
    if max(tokenizer.get_vocab().values(), default=0) < rows:
        return
    for document in corpus.documents:
        last = max(tokenizer.encode(document).ids, default=0)
        if last >= rows:
            raise UserError(
                f"{corpus.source} has the token {tokenizer.id_to_token(last)!r}, which is number "
                f"{last:,} in {checkpoint.name}'s tokenizer.json, and the model has rows for "
                f"{rows:,}: give the model its own tokenizer, or leave that token out."
            )


def _check_window(part: Corpus, tokenizer: Tokenizer, length: int) -> None:
    """Count the text's own tokens until there are enough for one window."""
    count = 0
    for document in part.documents:
        count += len(tokenizer.encode(document, add_special_tokens=False).ids)
        if count >= length:
            return
    raise UserError(
        f"{part.source} leaves {count} tokens of text to train on or to hold out, less than one "
        f"window of {length}: give more text or a smaller text.max_tokens."
    )


def _left_by_pruning(anatomy: Anatomy, pool: PruneSettings, layers: list[int]) -> list[int]:
    """Units that the prune stage leaves at most in every layer, where it can reach its share."""
    kind, total = pool.pattern, sum(layers)
    if kind == "heads" and pool.share:
        _check_groups(anatomy)
    most = [min(most_removable(n, pool.max_layer_sparsity, pool.share), n - 1) for n in layers]
    goal = round(pool.share * total)
    if goal > sum(most):
        raise UserError(
            f"prune: {goal} of {total} {kind} should go, and {sum(most)} can while every layer "
            f"keeps one and at most {pool.max_layer_sparsity:g} of it leaves: ask for less."
        )
    # Where they leave from is not known yet; the sum is all that a later budget needs.
    return [total - goal]


def _check_experts(settings: CutSettings, checkpoint: Checkpoint) -> None:
    """Whether every token still finds as many experts as it is given to."""
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


def _check_layers(anatomy: Anatomy, settings: CutSettings) -> int:
    """How many layers are left."""
    total, (first, last) = len(anatomy.blocks), settings.kept_ends
    count = settings.layers_to_drop(total)
    if count > min(total - 1, max(0, total - first - last)):
        raise UserError(
            f"cut.layers would drop {count} of {total} layers, of which {first} at the start and "
            f"{last} at the end are kept: lower it, cut.keep_first or cut.keep_last."
        )
    return total - count


def _check_cut(
    anatomy: Anatomy, settings: CutSettings, kind: str, layers: list[int], left: int
) -> None:
    share = settings.channels if kind == "channels" else settings.heads
    minimum = settings.minimum_channels if kind == "channels" else settings.minimum_heads
    if not share:
        return
    if kind == "heads":
        _check_groups(anatomy)
    total = sum(layers)
    keep = total - round(share * total)
    if keep < minimum * left:
        raise UserError(
            f"cut.{kind} is {share:g}, which would keep {keep} of {total} in "
            f"{left} layers, and every layer keeps at least {minimum}: ask for less."
        )


def _check_groups(anatomy: Anatomy) -> None:
    if anatomy.kind == "decoder" and all(n == 1 for n in _heads(anatomy)):
        raise UserError(
            "This model gives every query head a key-value head of its own, so none of its heads "
            "can leave while clients size the cache from the configuration; take channels instead."
        )


def _channels(anatomy: Anatomy) -> list[int]:
    return [part.channels for part in anatomy.feed_forwards]


def _heads(anatomy: Anatomy) -> list[int]:
    """Heads that can leave one by one; a decoder's leave one per key-value group at a time."""
    if anatomy.kind == "encoder":
        return [block.attention.num_heads for block in anatomy.blocks]
    return [block.attention.heads_per_group for block in anatomy.blocks]
