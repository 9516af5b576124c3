"""Whether a model's configuration fits its weights: transformers would leave out, make up or fail
on what does not, and the graph of a model that reads beyond a table fails at the first such text.
"""

from collections.abc import Callable, Iterator

from edgeprune.base.errors import UserError
from edgeprune.model.anatomy import Convolution
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.families import BY_LAYER, stated
from edgeprune.model.modules import TRANSFORMER, kinds_of
from edgeprune.model.pooling import Pooling, read_pooling
from edgeprune.model.projection import read_steps
from edgeprune.model.scores import stated_activation
from edgeprune.model.tasks import TASKS, Head
from edgeprune.text.labels import label_names
from edgeprune.text.prompts import read_library
from edgeprune.text.tokenizer_file import check_ends

_NEEDED = ("num_hidden_layers",)
"""Settings that must be stated: transformers would take a number of its own for a missing one, and
other layers' weights would be left out."""


def check_fits(checkpoint: Checkpoint) -> None:
    """Refuse a model as its files were saved that is not whole, or that would be read otherwise.

    Raises:
        UserError: naming the setting, what it says and what the weights hold.
    """
    for setting, found in _sizes(checkpoint):
        key, value = stated(checkpoint.config, setting)
        if value is None and setting == "num_key_value_heads":
            key, value = stated(checkpoint.config, "num_attention_heads")
        if value is None and setting in _NEEDED:
            raise UserError(f"{checkpoint.name}: config.json does not say {key}.")
        if value is not None and value != found:
            raise UserError(
                f"{checkpoint.name} is not whole: config.json says {key} {value:,}, and its "
                f"weights hold {found:,}."
            )
    _check_lists(checkpoint)
    _check_padding(checkpoint)
    _check_head(checkpoint)
    if TASKS[checkpoint.task].pools:
        pooling = read_pooling(checkpoint.folder) or Pooling()
        read_library(checkpoint.folder)
        check_ends(checkpoint.folder)
        width = checkpoint.anatomy.hidden_size * len(pooling.modes)
        read_steps(checkpoint.folder, width)


def _sizes(checkpoint: Checkpoint) -> Iterator[tuple[str, int]]:
    """Settings, and what the weights have of each."""
    anatomy = checkpoint.anatomy
    rounds = anatomy.family.rounds_channels
    rounded = rounds is not None and checkpoint.config.get(rounds, True)
    yield "num_hidden_layers", len(anatomy.blocks)
    yield "vocab_size", anatomy.shape(anatomy.embeddings["word"])[0]
    if table := anatomy.embeddings.get("position"):
        yield "max_position_embeddings", anatomy.shape(table)[0] - anatomy.family.position_rows
    for attention in anatomy.attentions:
        yield "hidden_size", anatomy.shape(attention.query)[1]
        yield "num_attention_heads", attention.num_heads
        yield "num_key_value_heads", attention.num_key_value_heads
    for block in anatomy.blocks:
        if isinstance(block.mixer, Convolution):
            yield "hidden_size", block.mixer.channels
            yield "conv_L_cache", block.mixer.taps
        if block.experts is not None:
            yield "num_experts", block.experts.count
        elif not rounded:
            yield "intermediate_size", block.feed_forward.channels


def _check_lists(checkpoint: Checkpoint) -> None:
    """Whether what is stated layer by layer is stated of every layer."""
    layers = len(checkpoint.anatomy.blocks)
    for setting in BY_LAYER:
        count = len(checkpoint.config.get(setting) or range(layers))
        if count < layers:
            raise UserError(
                f"{checkpoint.name} is not whole: config.json says {setting} of {count:,} layers, "
                f"and its weights hold {layers:,}."
            )


def _check_padding(checkpoint: Checkpoint) -> None:
    """Whether there is a row for padding, and an id where the graph looks for it."""
    anatomy, config = checkpoint.anatomy, checkpoint.config
    rows, pad = anatomy.shape(anatomy.embeddings["word"])[0], config.get("pad_token_id")
    if pad is not None and pad >= rows:
        raise UserError(
            f"{checkpoint.name}: config.json says pad_token_id {pad:,}, and the model has rows for "
            f"{rows:,} tokens: give it the id of the tokenizer's padding token, or null."
        )
    last_token = anatomy.causal and TASKS[checkpoint.task].head == "labels"
    if pad is None and (
        last_token or (anatomy.family.padded_positions and "pad_token_id" in config)
    ):
        what = "finds a text's last token" if last_token else "counts positions"
        raise UserError(
            f"{checkpoint.name} {what} by the padding token, and config.json has no pad_token_id: "
            "give it the id of the tokenizer's padding token."
        )


def _check_head(checkpoint: Checkpoint) -> None:
    """Whether the model has the head that its task needs."""
    head = TASKS[checkpoint.task].head
    if head is not None:
        _HEADS[head](checkpoint)


def _check_vocabulary_head(checkpoint: Checkpoint) -> None:
    if checkpoint.anatomy.head is None:
        raise UserError(
            f"{checkpoint.name} is not whole: it has no {checkpoint.anatomy.family.head}.weight, "
            "and config.json does not say that the embeddings are the head too "
            "(tie_word_embeddings)."
        )


def _check_labels(checkpoint: Checkpoint) -> None:
    anatomy, config = checkpoint.anatomy, checkpoint.config
    count = len(label_names(config))
    if TASKS[checkpoint.task].reads == "tagged" and count < 2:
        raise UserError(
            f"{checkpoint.name} has one label; edgeprune takes classifiers that give a token one "
            "of several."
        )
    stated_activation(config, checkpoint.folder)
    if unknown := [kind for kind in kinds_of(checkpoint.folder) if kind != TRANSFORMER]:
        raise UserError(
            f"{checkpoint.name} scores texts by the module {unknown[0]} (modules.json), which "
            "EdgePrune does not run: it takes cross-encoders of a Transformer alone."
        )
    names = config.get("id2label")
    if names and {int(number) for number in names} != set(range(count)):
        raise UserError(
            f"{checkpoint.name}: id2label in config.json must name the labels 0 to {count - 1}."
        )
    if count not in (anatomy.shape(name)[0] for name in anatomy.head_linears):
        raise UserError(
            f"{checkpoint.name} is not whole: config.json names {count} labels, and its weights "
            "hold no head with as many outputs."
        )


_HEADS: dict[Head, Callable[[Checkpoint], None]] = {
    "labels": _check_labels,
    "vocabulary": _check_vocabulary_head,
}
