"""Texts and pairs of texts, and the rows that hold them."""

from pathlib import Path

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
