"""Texts and pairs of texts, and the rows that hold them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text.files import Row, text_of

Document = str | tuple[str, str]
"""A text, or the two of a pair."""

FIELDS = ("text", "text_pair")
"""Fields of a row with one; the second may be missing."""


def document_of(row: Row, place: str | Path) -> Document:
    """A row's text, or its pair of texts where `text_pair` has a value.

    Raises:
        UserError: one of them holds no text.
    """
    text = text_of(row, "text", place)
    return text if row.get("text_pair") is None else (text, text_of(row, "text_pair", place))


def row_of(document: Document) -> dict[str, str]:
    """The row of which `document_of` makes a document."""
    return dict(zip(FIELDS, texts_of(document), strict=False))


def texts_of(document: Document) -> tuple[str, ...]:
    """The text, or both of a pair."""
    return (document,) if isinstance(document, str) else document


def listed(texts: Any, what: str = "Texts") -> list[Any]:
    """The members of a list, tuple or other iterable of texts.

    Args:
        what: they are called in a sentence.

    Raises:
        UserError: it is a single text, whose letters would be taken one by one, or no iterable.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"{what} are given as a list, and {texts!r:.60} is none: put it into one.")
    return list(texts)


def checked(texts: Any) -> list[Document]:
    """Texts and pairs of texts that a caller gives, each pair as a tuple.

    Raises:
        UserError: they are no list, or one is neither a text nor two, or no valid Unicode.
    """
    return [_checked(text, number) for number, text in enumerate(listed(texts), start=1)]


def _checked(text: Any, number: int) -> Document:
    parts = tuple(text) if isinstance(text, list | tuple) else (text,)
    if len(parts) != 1 + isinstance(text, list | tuple) or not all(
        isinstance(part, str) for part in parts
    ):
        raise UserError(
            f"Text {number} must be a text or a pair of texts (first, second), and is "
            f"{text!r:.60}: correct it or leave it out."
        )
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"Text {number} has the unpaired surrogate {part[error.start]!r}, which is no "
                "valid Unicode: fix or remove it."
            ) from None
    return text if isinstance(text, str) else (parts[0], parts[1])
