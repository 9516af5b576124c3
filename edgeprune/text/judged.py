"""Queries with documents that were judged: rows of lists, and the folders of the BEIR benchmark.

A row has a `query`, a list of `positive` documents and one of `negative` ones. A BEIR folder
(Thakur et al., 2021) has

    corpus.jsonl      {"_id", "title", "text"}
    queries.jsonl     {"_id", "text"}
    qrels.tsv         query-id, corpus-id, score, under a header; also as qrels/test.tsv
    candidates.tsv    query-id, corpus-id: documents to be ranked, where not all are; an addition
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text.files import Row, read_rows, read_text, text_of

LISTS = ("query", "positive", "negative")
"""The fields of a row with judged documents."""
_QRELS = ("qrels.tsv", "qrels/test.tsv")
_CANDIDATES = "candidates.tsv"


@dataclass(frozen=True)
class Judged:
    """A query, the documents to be ranked, and how relevant each is, 0 or more."""

    query: str
    documents: Sequence[str]
    relevance: Sequence[int]
    missing: Sequence[int] = ()
    """The relevance of documents that are judged relevant, and are not among them."""


def pairs_of(rows: Iterable[Row], place: object) -> Iterator[Row]:
    """A row of a query and one of its documents for each, with the score 1 if it is positive, 0 if
    negative; other fields stay.

    Raises:
        UserError: a field holds no text, or no list of texts.
    """
    for row in rows:
        others = {name: value for name, value in row.items() if name not in LISTS}
        query = _query(row, place)
        for field, score in (("positive", 1), ("negative", 0)):
            for document in _documents(row, field, place):
                yield others | {"text": query, "text_pair": document, "score": score}


def judged_rows(rows: Iterable[Row], place: object) -> list[Judged]:
    """The query of each row with its documents.

    Raises:
        UserError: as above.
    """
    found = []
    for row in rows:
        good, bad = (_documents(row, field, place) for field in LISTS[1:])
        query = _query(row, place)
        found.append(Judged(query, [*good, *bad], [1] * len(good) + [0] * len(bad)))
    return found


def read_beir(folder: Path) -> list[Judged]:
    """The queries of a BEIR folder that have a relevant document, each with its candidates, or with
    all documents where there are none.

    Raises:
        UserError: a file is missing or not what it should be, or no query has a relevant document.
    """
    corpus = {
        str(row["_id"]): f"{row.get('title') or ''} {text_of(row, 'text', folder)}".strip()
        for row in read_rows(folder / "corpus.jsonl", ["_id", "text"])
    }
    queries = {
        str(row["_id"]): text_of(row, "text", folder)
        for row in read_rows(folder / "queries.jsonl", ["_id", "text"])
    }
    file = next((folder / name for name in _QRELS if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no {' nor '.join(_QRELS)}, the judgements of a BEIR folder.")
    judgements: dict[str, dict[str, int]] = {}
    for query, document, *score in _table(file):
        judgements.setdefault(query, {})[document] = _grade(score, file)
    candidates: dict[str, list[str]] | None = None
    if (folder / _CANDIDATES).is_file():
        candidates = {}
        for query, document, *_ in _table(folder / _CANDIDATES):
            candidates.setdefault(query, []).append(document)
    found = [
        _judged(text, corpus, judgements.get(name, {}), _of(name, corpus, candidates))
        for name, text in queries.items()
        if any(grade > 0 for grade in judgements.get(name, {}).values())
    ]
    if not found:
        raise UserError(f"{folder}: no query of queries.jsonl has a relevant document in {file}.")
    if not any(any(each.relevance) for each in found):
        raise UserError(
            f"{folder}: no relevant document of {file} is among those to be ranked: take the "
            "corpus, and candidates, that it was made for."
        )
    return found


def _of(
    query: str, corpus: Mapping[str, str], candidates: Mapping[str, Sequence[str]] | None
) -> Sequence[str]:
    if candidates is None:
        return list(corpus)
    return [name for name in candidates.get(query, ()) if name in corpus]


def _judged(
    query: str, corpus: Mapping[str, str], grades: Mapping[str, int], names: Sequence[str]
) -> Judged:
    shown = set(names)
    missing = [grade for name, grade in grades.items() if grade > 0 and name not in shown]
    relevance = [max(0, grades.get(name, 0)) for name in names]
    return Judged(query, [corpus[name] for name in names], relevance, missing)


def _table(file: Path) -> Iterator[list[str]]:
    """The rows of a .tsv below its header, of at least two cells."""
    lines = io.StringIO(read_text(file), newline="")
    for number, cells in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)):
        if not number and len(cells) > 2 and cells[2].strip().lstrip("-").isdigit():
            raise UserError(
                f"{file} begins with a judgement, which would be lost: put the header "
                "query-id, corpus-id, score above it, with tabs between."
            )
        if number and cells:
            if len(cells) < 2:
                raise UserError(f"{file}, line {number + 1}: not a query and a document.")
            yield cells


def _grade(cells: Sequence[str], file: Path) -> int:
    try:
        return int(cells[0]) if cells else 1
    except ValueError:
        raise UserError(f"{file}: the judgement {cells[0]!r} is no whole number.") from None


def _documents(row: Mapping[str, Any], field: str, place: object) -> list[str]:
    """The documents of a field, which may hold a single one."""
    value = _value(row, field, place)
    documents = [value] if isinstance(value, str) else value
    if not isinstance(documents, list) or not all(isinstance(each, str) for each in documents):
        raise UserError(f"{place}: field {field!r} must be a list of texts, not {value!r:.60}.")
    return documents


def _query(row: Row, place: object) -> str:
    _value(row, "query", place)
    return text_of(row, "query", str(place))


def _value(row: Mapping[str, Any], field: str, place: object) -> Any:
    if row.get(field) is None:
        raise UserError(
            f"{place}: a row has no {field!r}. Each needs {', '.join(LISTS[:-1])} and {LISTS[-1]}; "
            "a list may be empty."
        )
    return row[field]
