"""Tokens that are masked, for a model to find them again: which token stands for one, and which
are drawn.

Of a text's own tokens 15 % are masked, the share of Devlin et al. (*BERT*, 2019). All of them
become the token that stands for a mask; BERT's exchange of a fifth of them for others or for
themselves gains nothing (Wettig et al., *Should You Mask 15% in Masked Language Modeling?*, 2023).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_object
from edgeprune.text.tags import IGNORED
from edgeprune.text.tokenizer_file import TOKENIZER_SETTINGS, open_tokenizer

FEWEST_TOKENS = 4
"""Of a text's own, that say enough of one that is masked among them."""
SHARE = 0.15
"""Of a text's own tokens, how many are masked."""
_STATING = (TOKENIZER_SETTINGS, "special_tokens_map.json")
_USUAL = ("[MASK]", "<mask>")
"""Those that transformers takes where no file states one, by the class of the tokenizer."""


def mask_token(folder: Path, tokenizer: Tokenizer | None = None) -> tuple[str, int]:
    """The token that stands for a masked one, and its id.

    Args:
        folder: a model's, with its tokenizer.
        tokenizer: that of its tokenizer.json, where it was opened.

    Raises:
        UserError: the tokenizer has none.
    """
    known = tokenizer or open_tokenizer(folder / "tokenizer.json")
    stated = [read_object(folder / name).get("mask_token") for name in _STATING]
    named = [each.get("content") if isinstance(each, dict) else each for each in stated]
    special = {token.content for token in known.get_added_tokens_decoder().values()}
    for token in (*named, *(usual for usual in _USUAL if usual in special)):
        number = known.token_to_id(token) if isinstance(token, str) else None
        if number is not None:
            return str(token), number
    raise UserError(
        f"{folder} has no token that stands for a masked one: name it in {TOKENIZER_SETTINGS} "
        "(mask_token), as the model was trained with."
    )


def masked(
    ids: Sequence[int], own: Sequence[bool], mask_id: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """A text's tokens of which some are masked, and the labels: what the masked ones were, and
    IGNORED for all others; both [tokens]."""
    hidden, truth = list(ids), [IGNORED] * len(ids)
    for place in drawn(own, rng):
        hidden[place], truth[place] = mask_id, ids[place]
    return hidden, truth


def too_short(source: str) -> str:
    """The sentence that refuses a source without a text that is long enough."""
    return f"{source} holds no text of {FEWEST_TOKENS} tokens or more: give longer texts."


def drawn(own: Sequence[bool] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The places of the tokens that are masked, rising: round(0.15 n) of a text's n own tokens, at
    least one where it has any.

    Args:
        own: whether a token is the text's, not a special one, [tokens].
    """
    places = np.flatnonzero(own)
    count = min(len(places), max(1, round(SHARE * len(places))))
    return np.sort(rng.choice(places, count, replace=False))
