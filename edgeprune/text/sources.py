"""Sources of text: the files, folders, packages and datasets that a user names."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.text import wordnet
from edgeprune.text.corpus import Corpus
from edgeprune.text.files import Row, read_rows, read_texts, renamed, text_of
from edgeprune.text.hub import load_hub
from edgeprune.text.labels import label_numbers
from edgeprune.text.languages import FIELD
from edgeprune.text.tags import tagged

_HUB_NAMES = {"text": ("text", "sentence", "content"), "tags": ("tags", "ner_tags")}
"""Names that datasets give a field, the likeliest first."""


def read_corpus(
    sources: Sequence[str],
    labels: Sequence[str] | None = None,
    group_field: str | None = None,
    fields: Mapping[str, str] | None = None,
    language: str | None = None,
    words: bool = False,
) -> Corpus:
    """Read the text that a user names, one source after another.

    Args:
        labels: the names of the labels that a model knows; each row's field `label` must be one of
            them, or its number.
        group_field: the field that names a row's group; without it each source is a group, named
            1, 2, ...
        fields: the rows' own names of the fields `text` and `label`, and of `lang`, which names a
            row's language.
        words: read `tokens` and `tags`, a label of each word, instead of `text` and `label`.
        language: the ISO 639 code of the text's language, where it is known.

    Raises:
        UserError: a source is missing, empty or not text, has pairs of texts, or lacks a field or
            a known label.
    """
    parts = [_read_source(source, labels, group_field, fields or {}, words) for source in sources]
    groups = [
        group
        for number, part in enumerate(parts, start=1)
        for group in part.groups or [str(number)] * len(part.documents)
    ]
    named = [name for part in parts for name in part.named or [None] * len(part.documents)]
    return Corpus(
        " and ".join(sources),
        [document for part in parts for document in part.documents],
        [label for part in parts for label in part.labels or ()] if labels is not None else None,
        groups if len(parts) > 1 or group_field else None,
        language,
        named if any(named) else None,
    )


def _read_source(
    source: str,
    labels: Sequence[str] | None,
    group_field: str | None,
    fields: Mapping[str, str],
    words: bool,
) -> Corpus:
    if not source.strip():
        raise UserError(
            "A source of text is empty (unset shell variable?): name a file, a folder, "
            "package:NAME or a hub id."
        )
    text, label = ("tokens", "tags") if words else ("text", "label")
    needed = [*([label] if labels is not None else []), *([group_field] if group_field else [])]
    if source.startswith("package:"):
        texts = _from_package(source.removeprefix("package:"))
        for wanted in needed:
            raise UserError(
                f"{source} has no {wanted.removesuffix('s')}s; give a .jsonl file with {text} and "
                f"{wanted}."
            )
        return Corpus(source, texts)
    path = Path(source).expanduser()
    if not path.exists():
        rows = _from_hub(source, [text, *needed], fields)
    elif not needed and (path.is_dir() or path.suffix == ".txt"):
        return Corpus(source, read_texts(path))
    else:
        rows = read_rows(path, [text, *needed], fields)
    if any(row.get("text_pair") for row in rows):
        raise UserError(
            f"{source} has pairs, rows with a field 'text_pair', and a build reads single texts: "
            "leave the field out, or give each text a row of its own."
        )
    if words:
        assert labels is not None
        rows = [row for row in rows if row["tokens"]]
        documents, numbers = tagged(rows, labels, path)
        groups = [str(row[group_field]) for row in rows] if group_field else None
        return Corpus(source, documents, numbers, groups, named=_named(rows))
    if labels is None:
        rows = [row for row in rows if text_of(row, "text", path).strip()]
        if not rows:
            raise UserError(f"{source} is empty: it has no text.")
    return Corpus(
        source,
        [text_of(row, "text", path) for row in rows],
        None if labels is None else label_numbers([row["label"] for row in rows], labels, path),
        [str(row[group_field]) for row in rows] if group_field else None,
        named=_named(rows),
    )


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


def _from_hub(name: str, fields_read: Sequence[str], fields: Mapping[str, str]) -> list[Row]:
    """Rows of a dataset's train split; its columns may have other names."""
    _, rows = load_hub(name, ["train"])
    own = {
        field: next((each for each in known if each in rows.features), field)
        for field, known in _HUB_NAMES.items()
        if field in fields_read
    } | dict(fields)
    wanted = [own.get(each, each) for each in fields_read]
    if any(each not in rows.features for each in wanted):
        raise UserError(
            f"The dataset {name} has the fields {', '.join(rows.features)}; "
            f"it needs {' and '.join(wanted)}."
        )
    return [renamed(dict(row), own) for row in rows]
