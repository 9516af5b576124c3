"""Text and labelled rows from the user's files: .txt, .jsonl, .csv, or a folder of .txt."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text.columns import own_names

Row = dict[str, Any]

csv.field_size_limit(2**31 - 1)  # a cell may hold a book, and not only 131,072 characters


def read_rows(
    path: str | Path,
    fields: Sequence[str],
    own: Mapping[str, str] | None = None,
    further: Sequence[str] = (),
) -> list[Row]:
    """Rows of a .jsonl or .csv file that have at least `fields`.

    Args:
        own: the file's own name of a field, by the name used here; names that datasets usually
            give it are known.
        further: fields that are read where they are there.

    Raises:
        UserError: no such file, not UTF-8, no rows, or a row without a value in one of the fields.
    """
    return checked_rows(path, parsed_rows(path, fields), fields, own, further)


def parsed_rows(path: str | Path, fields: Sequence[str] = ()) -> list[tuple[int, Row]]:
    """The line and the content of each row of a .jsonl or .csv file.

    Args:
        fields: that rows will have to have, for the refusal of another kind of file.

    Raises:
        UserError: no such file, not UTF-8, or no rows.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix == ".jsonl":
        rows = _jsonl(path, text)
    elif path.suffix == ".csv":
        rows = _csv(path, text)
    else:
        needed = f"with fields {', '.join(fields)}" if fields else "whose rows are read here"
        raise UserError(f"{path} is neither .jsonl nor .csv, {needed}.")
    if not rows:
        raise UserError(f"{path} is empty: it has no rows.")
    return rows


def checked_rows(
    path: str | Path,
    rows: Sequence[tuple[int, Row]],
    fields: Sequence[str],
    own: Mapping[str, str] | None = None,
    further: Sequence[str] = (),
) -> list[Row]:
    """Parsed rows under our names of their fields, as `read_rows` has them."""
    own = own_names(rows[0][1], [*fields, *further], own or {})
    for line, row in rows:
        for field in (own.get(field, field) for field in fields):
            if field not in row:
                raise UserError(f"{path}, line {line}: no field {field!r}; it has {_names(row)}.")
            if row[field] is None:
                raise UserError(
                    f"{path}, line {line}: the field {field!r} has no value; give it one, or leave "
                    "the row out."
                )
    return [renamed(row, own) for _, row in rows]


def renamed(row: Row, own: Mapping[str, str]) -> Row:
    """A row with its fields under our names too, which `own` maps to the row's own names."""
    return row | {name: row[field] for name, field in own.items() if field in row}


def text_of(row: Row, field: str, path: str | Path) -> str:
    """A row's field as text.

    Raises:
        UserError: the field holds something else.
    """
    if not isinstance(row[field], str):
        raise UserError(f"{path}: field {field!r} must be text, and is {row[field]!r} in one row.")
    return row[field]


def number_of(row: Row, field: str, path: str | Path) -> float:
    """A row's field as a finite number.

    Raises:
        UserError: the field holds something else.
    """
    try:
        number = float(row[field])
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:
        raise UserError(f"{path}: field {field!r} has a number beyond 1.8e308 in a row.") from None
    if isinstance(row[field], bool) or not math.isfinite(number):
        raise UserError(f"{path}: field {field!r} must be a number, and is {row[field]!r}.")
    return number


def read_texts(path: str | Path) -> list[str]:
    """Texts: the lines of a .txt that hold any, the field `text` of a .jsonl or .csv, or each
    .txt file of a folder.

    Raises:
        UserError: no such file, not UTF-8, no field `text`, or no text.
    """
    path = Path(path)
    if path.is_dir():
        texts = [read_text(file) for file in _text_files(path)]
    elif path.suffix == ".txt":
        texts = [line.strip() for line in read_text(path).splitlines()]
    else:
        texts = [text_of(row, "text", path) for row in read_rows(path, ["text"])]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError(f"{path} is empty: it has no text.")
    return texts


def read_document(path: str | Path) -> str:
    """One running text: a .txt as it stands; the texts of anything else, a blank line between.

    Raises:
        UserError: as `read_texts`.
    """
    path = Path(path)
    if not path.is_dir() and path.suffix == ".txt":
        text = read_text(path)
        if not text.strip():
            raise UserError(f"{path} is empty: it has no text.")
        return text
    return "\n\n".join(read_texts(path))


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        UserError: no such file, a folder, or not UTF-8.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name one file in it.")
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text, from byte {error.start:,} on.") from None
    if "\0" in text:
        raise UserError(f"{path} is not text: it holds zero bytes.")
    return text


def _text_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*.txt") if file.is_file())
    if not files:
        raise UserError(f"{folder} holds no .txt file.")
    return files


def _jsonl(path: Path, text: str) -> list[tuple[int, Row]]:
    rows: list[tuple[int, Row]] = []
    # Not splitlines: JSON text may hold the other characters that it splits at.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
            if "\\u" in content:
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path}, line {line}: the unpaired surrogate {error.object[error.start]!r} is not "
                "valid Unicode: fix or remove it."
            ) from None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {line}: not a JSON object.")
        rows.append((line, row))
    return rows


def _csv(path: Path, text: str) -> list[tuple[int, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, Row]] = []
    try:
        for row in reader:
            if None in row:
                raise UserError(f"{path}, line {reader.line_num}: more values than the header has.")
            rows.append((reader.line_num, dict(row)))
    except csv.Error as error:
        # The outer line_num is that of the last whole row.
        line = reader.reader.line_num
        raise UserError(f"{path}, line {line}: not CSV: {error}.") from None
    return rows


def _names(row: Row) -> str:
    return ", ".join(str(name) for name in row) or "none"
