"""Answers to the rows of a file, as JSON lines: each row with what the model says of its text."""

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.text.files import Row, read_rows, read_texts
from edgeprune.text.pairs import FIELDS, document_of


def text_rows(path: Path, own: Mapping[str, str]) -> list[Row]:
    """The rows of a .jsonl or .csv with a field `text` (and `text_pair`), or of a .txt, each line
    one.

    Args:
        own: the file's own name of a field.

    Raises:
        UserError: no such file, no such field, or one that holds no text.
    """
    if path.suffix not in (".jsonl", ".csv"):
        return [{"text": text} for text in read_texts(path)]
    rows = read_rows(path, ["text"], own, FIELDS)
    for row in rows:
        document_of(row, path)
    return rows


PREFIX = "answer_"
"""Before the name of an answer's field where rows have one of that name."""


def answered_rows(rows: Sequence[Row], lines: Iterable[str]) -> Iterator[str]:
    """Rows as JSON lines, with the fields of their answers; those that rows have themselves, such
    as a true label, stay, and the answers' are named with PREFIX before them in all rows.

    Args:
        lines: the answers, a JSON object each, with the row's text.
    """
    taken = {name for row in rows for name in row if name not in FIELDS}
    for row, line in zip(rows, lines, strict=True):
        answer = json.loads(line)
        named = {_free(name, taken): value for name, value in answer.items()}
        whole: dict[str, Any] = row | named
        yield json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n"


def _free(name: str, taken: Container[str]) -> str:
    """A name of an answer's field that no row has."""
    while name in taken:
        name = PREFIX + name
    return name


@contextmanager
def whole_file(path: Path) -> Iterator[Any]:
    """A text file to write, which takes its name once it is whole, and is gone otherwise."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as opened:
            yield opened
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
