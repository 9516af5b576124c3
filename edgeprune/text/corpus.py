"""A corpus: documents, and labels where the text has them, from any source that a user names."""

import functools
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.text import wordnet
from edgeprune.text.files import Row, read_rows, read_texts, renamed, text_of
from edgeprune.text.hub import load_hub
from edgeprune.text.labels import label_numbers
from edgeprune.text.sentences import Sentences, split_sentences


@dataclass(frozen=True)
class Corpus:
    """Documents in order, with a label each where the source has labels, and a group where there
    are several.

    language: the ISO 639 code of their language, where it is known.
    """

    source: str
    documents: list[str]
    labels: list[int] | None = None
    groups: list[str] | None = None
    language: str | None = None

    @functools.cached_property
    def sentences(self) -> Sentences:
        """What an encoder learns from, and what of the documents it does not see."""
        return split_sentences(self.documents, self.language)

    @property
    def digest(self) -> str:
        """A hash of the content, by which results are told apart."""
        content = hashlib.sha256()
        for number, document in enumerate(self.documents):
            label = "" if self.labels is None else self.labels[number]
            content.update(f"{label}\0{document}\0".encode())
            if self.groups is not None:
                content.update(f"{self.groups[number]}\0".encode())
        return content.hexdigest()[:16]

    def facts(self, kind: str) -> dict[str, Any]:
        """What a record says of the text, as a model of a kind reads it; plain JSON values."""
        found: dict[str, Any] = {
            "source": self.source,
            "documents": len(self.documents),
            "digest": self.digest,
        }
        if kind == "sentences":
            found |= {
                "sentences": len(self.sentences.texts),
                "left_out": self.sentences.left_out,
            }
        return found

    def split(self, share: float, seed: int) -> tuple["Corpus", "Corpus"]:
        """Training and held-out documents, apart; round(share * n) are held out, at least one.

        Raises:
            UserError: there are fewer than two documents.
        """
        count = len(self.documents)
        if count < 2:
            raise UserError(
                f"{self.source} holds a single text; give at least two, so that one can be held "
                "out for choosing checkpoints."
            )
        order = np.random.default_rng(seed).permutation(count)
        held = max(1, round(share * count))
        return self._take(order[held:]), self._take(order[:held])

    def _take(self, index: np.ndarray) -> "Corpus":
        labels = None if self.labels is None else [self.labels[i] for i in index]
        groups = None if self.groups is None else [self.groups[i] for i in index]
        documents = [self.documents[i] for i in index]
        return Corpus(self.source, documents, labels, groups, self.language)

    def by_group(self) -> dict[str, "Corpus"]:
        """The documents of each group, in the order in which groups appear; one where all are."""
        if self.groups is None:
            return {"1": self}
        places: dict[str, list[int]] = {}
        for place, group in enumerate(self.groups):
            places.setdefault(group, []).append(place)
        return {group: self._take(np.array(index)) for group, index in places.items()}


def read_corpus(
    sources: Sequence[str],
    labels: Sequence[str] | None = None,
    group_field: str | None = None,
    fields: Mapping[str, str] | None = None,
    language: str | None = None,
) -> Corpus:
    """Read the text that a user names, one source after another.

    Args:
        labels: the names of the labels that a model knows; rows must have the field `label` beside
            `text`, one of them or its number.
        group_field: rows must have this field, their group; else sources are groups, 1, 2, ...
        fields: for `text` and `label`, the rows' own names of these fields.
        language: the ISO 639 code of the text's language, where it is known.

    Raises:
        UserError: there is no such source, it is empty or not text, has pairs of texts, or has no
            labels or others.
    """
    parts = [_read_source(source, labels, group_field, fields or {}) for source in sources]
    groups = [
        group
        for number, part in enumerate(parts, start=1)
        for group in part.groups or [str(number)] * len(part.documents)
    ]
    return Corpus(
        " and ".join(sources),
        [document for part in parts for document in part.documents],
        [label for part in parts for label in part.labels or ()] if labels is not None else None,
        groups if len(parts) > 1 or group_field else None,
        language,
    )


def text_line(facts: Mapping[str, Any]) -> str:
    """What `Corpus.facts` says, in words."""
    line = f"{facts['documents']:,} texts from {facts['source']}"
    if "sentences" not in facts:
        return line
    left_out = ", ".join(f"{count:,} {why}" for why, count in facts["left_out"].items())
    return f"{line}: {facts['sentences']:,} sentences; left out: {left_out or 'nothing'}"


def _read_source(
    source: str,
    labels: Sequence[str] | None,
    group_field: str | None,
    fields: Mapping[str, str],
) -> Corpus:
    if not source.strip():
        raise UserError(
            "A source of text is empty, as an unset variable is; name a file, a folder, "
            "package:NAME or a hub id."
        )
    needed = [*(["label"] if labels is not None else []), *([group_field] if group_field else [])]
    if source.startswith("package:"):
        texts = _from_package(source.removeprefix("package:"))
        for wanted in needed:
            raise UserError(
                f"{source} has no {wanted}s; give a .jsonl file with text and {wanted}."
            )
        return Corpus(source, texts)
    path = Path(source).expanduser()
    if not path.exists():
        rows = _from_hub(source, needed, fields)
    elif not needed and (path.is_dir() or path.suffix == ".txt"):
        return Corpus(source, read_texts(path))
    else:
        rows = read_rows(path, ["text", *needed], fields)
    if any(row.get("text_pair") for row in rows):
        raise UserError(
            f"{source} has pairs, rows with a field 'text_pair', and a build reads single texts: "
            "leave the field out, or give each text a row of its own."
        )
    if labels is None:
        rows = [row for row in rows if text_of(row, "text", path).strip()]
        if not rows:
            raise UserError(f"{source} is empty: it has no text.")
    return Corpus(
        source,
        [text_of(row, "text", path) for row in rows],
        None if labels is None else label_numbers([row["label"] for row in rows], labels, path),
        [str(row[group_field]) for row in rows] if group_field else None,
    )


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


def _from_hub(name: str, needed: Sequence[str], fields: Mapping[str, str]) -> list[Row]:
    """Rows of a dataset's train split; its column of text may have another name."""
    _, rows = load_hub(name, ["train"])
    known = ("text", "sentence", "content")
    own = {"text": next((each for each in known if each in rows.features), "text"), **fields}
    wanted = [own.get(each, each) for each in ("text", *needed)]
    if any(each not in rows.features for each in wanted):
        raise UserError(
            f"The dataset {name} has the fields {', '.join(rows.features)}; "
            f"it needs {' and '.join(wanted)}."
        )
    return [renamed(dict(row), own) for row in rows]
