"""Words with a label each, and the tokens that carry these labels.

The words are joined by a space into the text that a model reads, as it will read running text. The
first token of a word carries its label; the word's other tokens, and special ones, carry none.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text.files import Row
from edgeprune.text.labels import label_numbers

IGNORED = -100
"""The label of a token that carries none, which torch's cross-entropy leaves out."""


def words_of(row: Row, place: object) -> list[str]:
    """A row's words, its field `tokens`.

    Raises:
        UserError: the field is no list of words, or a word is empty or holds a space.
    """
    words = row["tokens"]
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{place}: field 'tokens' must be a list of words, not {words!r:.60}.")
    for word in words:
        if not word or " " in word:
            raise UserError(
                f"{place}: the token {word!r:.60} is not one word: leave out empty tokens, and "
                "split those with a space, with a tag for each part."
            )
    return list(words)


def tagged(
    rows: Sequence[Row], names: Sequence[str], place: object
) -> tuple[list[str], list[list[int]]]:
    """The text of each row with words, and its words' numbers of labels.

    Args:
        rows: with `tokens` and as many `tags`, each a label's name or its number.
        names: of the labels that the model knows.

    Raises:
        UserError: a row has none or not as many tags as words, or a tag is unknown.
    """
    texts: list[str] = []
    counts: list[int] = []
    values: list[Any] = []
    for row in rows:
        words, tags = words_of(row, place), row["tags"]
        if not isinstance(tags, list | tuple) or len(tags) != len(words):
            raise UserError(
                f"{place}: field 'tags' must be a list with a tag for each of the {len(words)} "
                f"tokens {words!r:.60}, and is {tags!r:.60}."
            )
        if words:
            texts.append(" ".join(words))
            counts.append(len(words))
            values += tags
    if not texts:
        raise UserError(f"{place} is empty: it has no words.")
    numbers = iter(label_numbers(values, names, place))
    return texts, [[next(numbers) for _ in range(count)] for count in counts]


def tagged_row(text: str, numbers: Sequence[int]) -> Row:
    """The row of which `tagged` makes a text and its words' numbers of labels."""
    return {"tokens": text.split(" "), "tags": list(numbers)}


def first_tokens(text: str, offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(token, word) of the first token of every word that has any, words counted from 0.

    Args:
        text: words with a space between.
        offsets: the characters of each token, [start, end); special tokens have none.
    """
    starts = [0, *(place + 1 for place, character in enumerate(text) if character == " ")]
    last = -1
    for token, (start, end) in enumerate(offsets):
        piece = text[start:end]
        if not piece.strip(" "):
            continue
        word = bisect_right(starts, start + len(piece) - len(piece.lstrip(" "))) - 1
        if word > last:
            yield token, word
            last = word


def token_labels(text: str, offsets: Sequence[tuple[int, int]], labels: Sequence[int]) -> list[int]:
    """The label of each token, or IGNORED, by those of the words."""
    found = [IGNORED] * len(offsets)
    for token, word in first_tokens(text, offsets):
        found[token] = labels[word]
    return found
