"""The vocabulary stage: tokens that the user's text does not use leave tokenizer and tables.

    text ─> tokens in use ─> tokenizer.json, rows of the embedding and of the head, ids in configs

Half of MiniLM's weights are rows of its vocabulary. A text whose tokens all stay gives the same
embeddings, and the same logits of the tokens that are left; so the trimmed model is what every
later stage learns from and is checked against. The original stays the reference of measurement.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_json
from edgeprune.compress.context import Context
from edgeprune.compress.cut.token_counts import compare_tokens, count_tokens
from edgeprune.compress.cut.tokenizer import renumbered, tokens_to_keep, trim_tokenizer, vocabulary
from edgeprune.compress.cut.vocabulary_record import Tokens, Trimmed
from edgeprune.compress.cut.vocabulary_settings import VocabularySettings
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.chat import apply_chat_template
from edgeprune.runtime.vocabulary import KEPT
from edgeprune.text.chat_template import chat_template
from edgeprune.text.corpus import Corpus
from edgeprune.text.pair_template import read_pair_template
from edgeprune.text.tokenizer_file import open_tokenizer

_TOKENIZER = "tokenizer.json"
# What tokenizers written in Python are read from; tokenizer.json holds all of it.
_OTHER_FORMS = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "*.model")
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
_CHATS = (
    [{"role": "user", "content": "a"}],
    [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "a"},
    ],
)


def run(context: Context, source: Path, target: Path, settings: VocabularySettings) -> Trimmed:
    """Trim the model in `source` to the text's tokens; write it into `target`.

    Raises:
        UserError: its tokenizer is of a kind that cannot be trimmed.
    """
    model = load_model(source)
    content = read_json(source / _TOKENIZER)
    tokenizer = open_tokenizer(source / _TOKENIZER)
    text = context.text
    counts: Counter[int] = Counter()
    for corpus in (text.train, *([text.vocabulary] if text.vocabulary else [])):
        counts += _counts(tokenizer, corpus, text.reads)
    used = {token for token, count in counts.items() if count >= settings.min_count}
    used |= set(count_tokens(tokenizer, _chats(source)))
    used |= set(count_tokens(tokenizer, list(model.library.prompts.values())))
    kept = kept_rows(model, content, used)
    before = sum(parameter.numel() for parameter in model.module.parameters())
    rows = model.anatomy.shape(model.anatomy.embeddings["word"])[0]
    trim_model(model, kept)
    save_model(model, target)
    _write_assets(target, content, kept)
    trimmed = open_tokenizer(target / _TOKENIZER)
    after = sum(parameter.numel() for parameter in model.module.parameters())

    def compared(part: Corpus) -> Tokens:
        return Tokens.from_values(
            compare_tokens(tokenizer, trimmed, kept, _texts(part, text.reads))
        )

    parts = text.measured.by_language if text.languages else {}
    languages = {name: compared(part) for name, part in parts.items()}
    return Trimmed(
        tokens_before=rows,
        tokens=len(kept),
        used=len(used),
        parameters_before=before,
        parameters=after,
        held_out=compared(text.measured),
        **({"languages": languages} if languages else {}),
    )


def kept_rows(model: Model, tokenizer: Mapping[str, Any], used: Iterable[int]) -> list[int]:
    """Which rows of the word embeddings stay, in order: the used tokens' and those that any text
    may need; those of ids that the configuration names; and, in families that count positions from
    above the padding id, all up to that, so that it keeps its number.

    Raises:
        UserError: the tokenizer knows tokens for which the model has no row.
    """
    rows = model.anatomy.shape(model.anatomy.embeddings["word"])[0]
    if (beyond := max(vocabulary(dict(tokenizer)).values())) >= rows:
        raise UserError(
            f"The model's tokenizer has a token {beyond:,} and its embeddings {rows:,} rows: they "
            "do not belong together, and the vocabulary cannot be trimmed."
        )
    kept = set(tokens_to_keep(dict(tokenizer), set(used)))
    kept |= {at[key] for at, key in _id_places(model.config) if 0 <= at[key] < rows}
    if model.anatomy.family.position_offset:
        kept |= set(range((model.config.get("pad_token_id") or 0) + 1))
    return sorted(kept)


def trim_model(model: Model, kept: Sequence[int]) -> None:
    """Keep only the rows `kept` (old ids, in order) of the word embeddings and a decoder's head;
    the configuration follows."""
    anatomy, new = model.anatomy, renumbered(kept)
    index = torch.tensor(kept)
    table: Any = model.module.get_submodule(anatomy.embeddings["word"])
    table.weight = nn.Parameter(table.weight.detach()[index].clone())
    table.num_embeddings = len(kept)
    if table.padding_idx is not None:
        table.padding_idx = new.get(table.padding_idx)
    if anatomy.head is not None:
        head = model.linear(anatomy.head)
        tied = anatomy.tied_embeddings
        head.weight = table.weight if tied else nn.Parameter(head.weight.detach()[index].clone())
        if head.bias is not None:
            head.bias = nn.Parameter(head.bias.detach()[index].clone())
        head.out_features = len(kept)
    _renumber(model.config, new)
    model.config["vocab_size"] = len(kept)
    for name, value in model.config.items():
        if name == "vocab_size" or name.endswith("_token_id"):
            setattr(model.module.config, name, value)


def _counts(tokenizer: Tokenizer, corpus: Corpus, kind: str) -> Counter[int]:
    """Count the uses of each token by a corpus, as a model of a kind reads it."""
    counts = count_tokens(tokenizer, _texts(corpus, kind))
    if kind == "sentences":
        # A sentence may begin with another token than in the midst of its text: the larger count.
        counts |= count_tokens(tokenizer, corpus.sentences.texts)
    return counts


def _texts(corpus: Corpus, kind: str) -> list[str]:
    """The texts of a corpus, as a model of a kind reads them."""
    end = "\n" if kind == "windows" else ""
    return [f"{text}{end}" for text in corpus.texts]


def _chats(folder: Path) -> list[str]:
    """Chats and pairs of hardly a word, for the tokens of the template's own text."""
    place = Bundle(folder, {})
    pair = read_pair_template(folder)
    texts = [pair.joined(("", "")), pair.after] if pair else []
    if chat_template(folder, place.tokenizer_config) is None:
        return texts
    for chat in _CHATS:
        try:
            texts.append(apply_chat_template(place, chat))
        except UserError:  # a template may refuse a system's message
            continue
    return texts


def _write_assets(folder: Path, tokenizer: dict[str, Any], kept: Sequence[int]) -> None:
    """Write the trimmed tokenizer, and every id in the settings beside it again.

    Raises:
        UserError: the tokenizer, read again, gives a token another id than its row's.
    """
    new = renumbered(kept)
    file = folder / _TOKENIZER
    file.write_text(json.dumps(trim_tokenizer(tokenizer, kept), ensure_ascii=False), "utf-8")
    (folder / KEPT).write_text(json.dumps({"kept": list(kept)}))
    for pattern in _OTHER_FORMS:
        for other in folder.glob(pattern):
            other.unlink()
    for name in ("generation_config.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings = read_json(folder / name)
            _renumber(settings, new)
            if added := settings.get("added_tokens_decoder"):
                settings["added_tokens_decoder"] = {
                    str(new[int(old)]): entry for old, entry in added.items() if int(old) in new
                }
            (folder / name).write_text(json.dumps(settings, indent=2), "utf-8")
    written = open_tokenizer(file)
    for token, old in vocabulary(tokenizer).items():
        if old in new and written.token_to_id(token) != new[old]:
            raise UserError(
                f"The trimmed tokenizer numbers {token!r} otherwise than the model's rows; this "
                "tokenizer cannot be trimmed: leave `vocabulary` out."
            )


def _renumber(settings: dict[str, Any], new: Mapping[int, int]) -> None:
    for at, key in list(_id_places(settings)):
        at[key] = new.get(at[key], at[key])


def _id_places(settings: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Everywhere in a model's settings that the id of a token stands: (container, key)."""
    for name in settings:
        if name.endswith("_token_id") or name in _ID_LISTS:
            yield from _numbers(settings, name)
    for pair in settings.get("forced_decoder_ids") or ():  # [place, id]
        yield pair, 1


def _numbers(at: Any, key: Any) -> Iterator[tuple[Any, Any]]:
    """The whole numbers in a value, or in lists of them however deep."""
    if isinstance(at[key], list):
        for place in range(len(at[key])):
            yield from _numbers(at[key], place)
    elif isinstance(at[key], int) and not isinstance(at[key], bool):
        yield at, key
