"""Sources of text: the files, folders, packages and datasets that a user names."""

import importlib.util
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.text import wordnet
from edgeprune.text.columns import own_names
from edgeprune.text.corpus import Corpus
from edgeprune.text.files import Row, checked_rows, parsed_rows, read_texts, renamed, text_of
from edgeprune.text.hub import load_hub
from edgeprune.text.judged import LISTS, pairs_of
from edgeprune.text.languages import FIELD
from edgeprune.text.pairs import FIELDS, Document, document_of
from edgeprune.text.truth import FORMS, Form


def read_corpus(
    sources: Sequence[str],
    labels: Sequence[str] | None = None,
    group_field: str | None = None,
    fields: Mapping[str, str] | None = None,
    language: str | None = None,
    form: str = "labelled",
) -> Corpus:
    """Read the text that a user names, one source after another.

    Args:
        labels: the names of the labels that a model knows, whose data have a truth for each text;
            None reads texts alone.
        form: the form of that truth, one of FORMS; rows of texts may have a second, `text_pair`.
        group_field: the field that names a row's group; without it each source is a group, named
            1, 2, ...
        fields: the rows' own names of fields, and of `lang`, which names a row's language.
        language: the ISO 639 code of the text's language, where it is known.

    Raises:
        UserError: a source is missing, empty or not text, has pairs without labels, or lacks a
            field or a known label.
    """
    truth = None if labels is None else FORMS[form]
    parts = [
        _read_source(source, labels or (), truth, group_field, fields or {}) for source in sources
    ]
    groups = [
        group
        for number, part in enumerate(parts, start=1)
        for group in part.groups or [str(number)] * len(part.documents)
    ]
    named = [name for part in parts for name in part.named or [None] * len(part.documents)]
    together = [
        f"{number}.{row}" if part.together is None else part.together[row]
        for number, part in enumerate(parts, start=1)
        for row in range(len(part.documents))
    ]
    return Corpus(
        " and ".join(sources),
        [document for part in parts for document in part.documents],
        [label for part in parts for label in part.labels or ()] if labels is not None else None,
        groups if len(parts) > 1 or group_field else None,
        language,
        named if any(named) else None,
        together if any(part.together for part in parts) else None,
    )


def _read_source(
    source: str,
    labels: Sequence[str],
    truth: Form | None,
    group_field: str | None,
    fields: Mapping[str, str],
) -> Corpus:
    if not source.strip():
        raise UserError(
            "A source of text is empty (unset shell variable?): name a file, a folder, "
            "package:NAME or a hub id."
        )
    text = truth.text if truth else "text"
    needed = [*([truth.field] if truth else []), *([group_field] if group_field else [])]
    if source.startswith("package:"):
        texts = _from_package(source.removeprefix("package:"))
        for wanted in needed:
            raise UserError(
                f"{source} has no {wanted.removesuffix('s')}s; give a .jsonl file with {text} and "
                f"{wanted}."
            )
        return Corpus(source, texts)
    path = Path(source).expanduser()
    further = truth.further if truth else FIELDS[1:]
    if path.exists() and not needed and (path.is_dir() or path.suffix == ".txt"):
        return Corpus(source, read_texts(path))
    judges, together = truth is not None and truth.judged, None
    rows = (_from_file if path.exists() else _from_hub)(
        source, [text, *needed], fields, further, judges
    )
    if judges and _has_lists(rows[0] if rows else {}):
        rows = list(pairs_of(rows, path))
        together = [row["text"] for row in rows]
    rows = [row for row in rows if row[text] != []]  # no words
    if truth is None:
        if any(row.get("text_pair") for row in rows):
            raise UserError(
                f"{source} has pairs of texts, and this model reads single ones: name the field "
                "that it is to read with --field text=NAME, or give each text a row of its own."
            )
        rows = [row | {"text_pair": None} for row in rows if text_of(row, "text", path).strip()]
        if not rows:
            raise UserError(f"{source} is empty: it has no text.")
    groups = [str(row[group_field]) for row in rows] if group_field else None
    if truth is None:
        documents: Sequence[Document] = [document_of(row, path) for row in rows]
        return Corpus(source, documents, None, groups, named=_named(rows))
    documents, found = truth.read(rows, labels, path)
    return Corpus(source, documents, found, groups, named=_named(rows), together=together)


def _has_lists(row: Container[str], own: Mapping[str, str] | None = None) -> bool:
    """Whether a row, or all rows by their columns, have a query and lists of documents."""
    return all(name in row or (own or {}).get(name, name) in row for name in LISTS)


def _from_file(
    name: str,
    needed: Sequence[str],
    fields: Mapping[str, str],
    further: Sequence[str],
    judges: bool,
) -> list[Row]:
    """Rows of a .jsonl or .csv.

    Args:
        judges: whether they may have lists of judged documents in place of `needed`.
    """
    path = Path(name).expanduser()
    lines = parsed_rows(path, needed)
    if judges and _has_lists(lines[0][1], fields):
        return [renamed(row, fields) for _, row in lines]
    return checked_rows(path, lines, needed, fields, further)


def _named(rows: Sequence[Row]) -> list[str | None] | None:
    """The language of each row that says so."""
    found = [str(row[FIELD]) if row.get(FIELD) else None for row in rows]
    return found if any(found) else None


def _from_package(package: str) -> list[str]:
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The package {package!r} is not installed; try: pip install {package}")
    root = Path(next(iter(spec.submodule_search_locations)))
    dictionary = wordnet.find(root)
    if dictionary is not None:
        return wordnet.read(dictionary)
    texts = []
    for file in sorted(root.rglob("*.txt")):
        content = file.read_bytes()
        try:
            texts.append(content.decode("utf-8"))
        except UnicodeDecodeError:
            # Older corpora keep pound signs and curly quotes in the Windows code page.
            texts.append(content.decode("cp1252", errors="replace"))
    if not any(text.strip() for text in texts):
        raise UserError(f"The package {package!r} carries neither .txt files nor WordNet.")
    return texts


def _from_hub(
    name: str,
    needed: Sequence[str],
    fields: Mapping[str, str],
    further: Sequence[str],
    judges: bool,
) -> list[Row]:
    """Rows of a dataset's train split; its columns may have other names."""
    _, rows = load_hub(name, ["train"])
    if judges and _has_lists(rows.features, fields):
        return [renamed(dict(row), fields) for row in rows]
    own = own_names(rows.features, [*needed, *further], fields)
    wanted = [own.get(each, each) for each in needed]
    if any(each not in rows.features for each in wanted):
        raise UserError(
            f"The dataset {name} has the fields {', '.join(rows.features)}; "
            f"it needs {' and '.join(wanted)}."
        )
    return [renamed(dict(row), own) for row in rows]
