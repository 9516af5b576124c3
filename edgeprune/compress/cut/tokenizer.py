"""Take tokens out of a tokenizer.json: what the others alone wrote stays the same.

Whatever text the original writes with kept tokens only, the trimmed tokenizer writes with the same
ones; whatever else it writes with several kept tokens in place of each that went. Why that holds:

    WordPiece   takes the longest piece that fits; where the longest of all pieces is kept it is the
                longest of the kept ones. The single characters of every word are pieces.
    BPE         joins the pair of the lowest rank; a token's own joins are kept with it, so that a
                joined pair is still there, and no other pair can come before it. Whatever is left
                unjoined ends at characters or bytes.
    Unigram     takes the likeliest path; a path that is kept whole is still the likeliest. The
                least likely piece stays, for the cost of an unknown character is counted from it.

Ids are renumbered in the old order. Plain data in, plain data out: the file's own JSON.
"""

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from edgeprune.base.errors import UserError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

Tokenizer = dict[str, Any]


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Token -> id of every token that a tokenizer.json knows, added ones included.

    Raises:
        UserError: it is of a kind that cannot be trimmed.
    """
    model = tokenizer["model"]
    kind = _kind(model)
    if kind == "Unigram":
        known = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    else:
        known = dict(model["vocab"])
    return known | {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}


def tokens_to_keep(tokenizer: Tokenizer, used: Collection[int]) -> list[int]:
    """The ids that must stay so that every token in `used` is written as before, and any text can
    be written at all; in their order.

    Besides the used ones: added and special tokens, the unknown token, single bytes and characters,
    and what used tokens are joined from.

    Raises:
        UserError: the tokenizer is of a kind that cannot be trimmed.
    """
    model = tokenizer["model"]
    known = vocabulary(tokenizer)
    names = {number: token for token, number in known.items()}
    whole = {names[at[key]] for at, key in _places(tokenizer) if at[key] in names}
    whole |= {token for token in known if _BYTE.fullmatch(token)}
    kept = {names[number] for number in used if number in names} - whole
    needed = _NEEDED[_kind(model)](model, kept)
    return sorted(known[token] for token in kept | needed | whole)


def trim_tokenizer(tokenizer: Tokenizer, kept: Collection[int]) -> Tokenizer:
    """A tokenizer.json with the tokens `kept` alone (ids, as `tokens_to_keep` gives them, perhaps
    with others that no token has), whose new ids are their places in their order."""
    new = renumbered(kept)
    trimmed = copy.deepcopy(tokenizer)
    model = trimmed["model"]
    if _kind(model) == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        left = sorted((number, token) for token, number in model["vocab"].items() if number in new)
        model["vocab"] = {token: new[number] for number, token in left}
    if _kind(model) == "BPE":
        model["merges"] = [
            merge
            for merge in model["merges"]
            if all(part in model["vocab"] for part in (*_pair(merge), "".join(_pair(merge))))
        ]
    for at, key in _places(trimmed):
        at[key] = new.get(at[key], at[key])
    return trimmed


def renumbered(kept: Collection[int]) -> dict[int, int]:
    """Old id -> new id."""
    return {old: place for place, old in enumerate(sorted(kept))}


def _kind(model: Mapping[str, Any]) -> str:
    """WordPiece, BPE or Unigram; files of the oldest releases do not name it."""
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    affixed = [key for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    if kind not in _NEEDED or (kind == "BPE" and affixed):
        what = f"{kind} with {affixed[0]}" if affixed else kind
        raise UserError(
            f"The model's tokenizer is {what}, whose vocabulary cannot be trimmed; WordPiece, BPE "
            "without affixes and Unigram can: leave `vocabulary` out."
        )
    return str(kind)


def _places(tokenizer: Tokenizer) -> Iterator[tuple[Any, Any]]:
    """Everywhere outside its model that a tokenizer.json holds a token's id: (container, key)."""
    for entry in tokenizer["added_tokens"]:
        yield entry, "id"
    if tokenizer.get("padding"):
        yield tokenizer["padding"], "pad_id"
    if tokenizer.get("post_processor"):
        yield from _processor_places(tokenizer["post_processor"])


def _processor_places(processor: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for inner in processor.get("processors", ()):
        yield from _processor_places(inner)
    for key in ("sep", "cls"):  # [token, id], of BERT's and RoBERTa's
        if key in processor:
            yield processor[key], 1
    for special in processor.get("special_tokens", {}).values():  # a template's
        for place in range(len(special["ids"])):
            yield special["ids"], place


def _word_pieces(model: Mapping[str, Any], kept: set[str]) -> set[str]:
    prefix = model["continuing_subword_prefix"]
    single = {piece for piece in model["vocab"] if len(piece.removeprefix(prefix)) == 1}

    def spelled(piece: str) -> bool:
        """A word may be written letter by letter where it was written by this piece."""
        letters = piece.removeprefix(prefix)
        first = prefix + letters[:1] if letters != piece else letters[:1]
        return first in single and all(prefix + letter in single for letter in letters[1:])

    unspelled = {piece for piece in model["vocab"] if not spelled(piece)}
    # Pieces in brackets are not parts of words: specials, and unused places for some.
    bracketed = {piece for piece in unspelled if piece.startswith("[") and piece.endswith("]")}
    return single | (unspelled - bracketed) | {model["unk_token"]}


def _joined(model: Mapping[str, Any], kept: set[str]) -> set[str]:
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
    needed = {token for token in model["vocab"] if len(token) == 1}
    if model.get("unk_token"):
        needed.add(model["unk_token"])
    for token in kept:
        needed |= _joins(token, ranks)
    return needed & set(model["vocab"])


def _joins(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """Everything that BPE makes on its way to a token.

    What it does to a token alone is what it does to it inside a word: a join across its ends would
    have left another token.
    """
    symbols, made = list(token), set(token)
    while True:
        pairs = [pair for pair in pairwise(symbols) if pair in ranks]
        if not pairs:
            return made
        best = min(pairs, key=ranks.__getitem__)
        place = next(i for i in range(len(symbols)) if tuple(symbols[i : i + 2]) == best)
        symbols[place : place + 2] = ["".join(best)]
        made.add(symbols[place])


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """The two sides of a merge, which older files write as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _likely(model: Mapping[str, Any], kept: set[str]) -> set[str]:
    least = min(model["vocab"], key=lambda entry: entry[1])[0]
    needed = {piece for piece, _ in model["vocab"] if len(piece) == 1} | {least}
    if model.get("unk_id") is not None:
        needed.add(model["vocab"][model["unk_id"]][0])
    return needed


_NEEDED = {"WordPiece": _word_pieces, "BPE": _joined, "Unigram": _likely}
