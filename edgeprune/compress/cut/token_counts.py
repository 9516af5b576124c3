"""Tokens of texts: counted, and compared before and after a vocabulary was trimmed."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track

_TEXTS_AT_A_TIME = 256


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[int]:
    """Count the uses of each token by texts, special tokens included."""
    counts: Counter[int] = Counter()
    for some in track(_parts(texts), "tokens in use", -(-len(texts) // _TEXTS_AT_A_TIME)):
        for encoding in tokenizer.encode_batch(some):
            counts.update(encoding.ids)
    return counts


def compare_tokens(
    tokenizer: Tokenizer, trimmed: Tokenizer, kept: Sequence[int], texts: Sequence[str]
) -> dict[str, float]:
    """Compare how texts that took no part in the choice are tokenized before and after.

    Returns:
        Shares between 0 and 1: `texts_same`, of texts that are the same tokens as before;
        `tokens_kept`, of the tokens before that are kept; and `length`, tokens now for one before.
        Numbers of unknown tokens: `unknown_before` and `unknown`.

    Raises:
        UserError: a text of kept tokens alone became others: this tokenizer does more than its kind
            promises.
    """
    same = known = before = after = 0
    old, stays = list(kept), set(kept)
    marks, unknown = [unknown_token(side) for side in (tokenizer, trimmed)], [0, 0]
    for some in track(_parts(texts), "held-out tokens", -(-len(texts) // _TEXTS_AT_A_TIME)):
        pairs = zip(tokenizer.encode_batch(some), trimmed.encode_batch(some), strict=True)
        for text, (full, reduced) in zip(some, pairs, strict=True):
            equal = full.ids == [old[token] for token in reduced.ids]
            if not equal and stays.issuperset(full.ids):
                raise UserError(
                    f"The trimmed tokenizer writes {text[:60]!r} with other tokens though all of "
                    "them are kept; this tokenizer cannot be trimmed: leave `vocabulary` out."
                )
            same += equal
            known += sum(token in stays for token in full.ids)
            before, after = before + len(full.ids), after + len(reduced.ids)
            for side, (ids, mark) in enumerate(zip((full.ids, reduced.ids), marks, strict=True)):
                unknown[side] += ids.count(mark) if mark is not None else 0
    return {
        "texts": len(texts),
        "texts_same": same / len(texts),
        "tokens_kept": known / max(before, 1),
        "length": after / max(before, 1),
        "unknown_before": unknown[0],
        "unknown": unknown[1],
    }


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """The number of the token that stands for what a tokenizer does not know; None without one."""
    model = json.loads(tokenizer.to_str())["model"]
    number: int | None = model.get("unk_id")  # Unigram's
    named = model.get("unk_token")
    return tokenizer.token_to_id(named) if number is None and named else number


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        yield list(texts[start : start + _TEXTS_AT_A_TIME])
