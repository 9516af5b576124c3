"""A corpus: documents, and labels where the text has them, from any source that a user names."""

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.errors import UserError
from edgeprune.text import wordnet
from edgeprune.text.files import Row, number_of, read_rows, read_texts, text_of
from edgeprune.text.hub import load_hub

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_MIN_WORDS, _MAX_WORDS = 3, 80


@dataclass(frozen=True)
class Corpus:
    """Documents in order, with a label each where the source has labels, and a group where there
    are several."""

    source: str
    documents: list[str]
    labels: list[int] | None = None
    groups: list[str] | None = None

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
        return Corpus(self.source, [self.documents[i] for i in index], labels, groups)

    def by_group(self) -> dict[str, "Corpus"]:
        """The documents of each group, in the order in which groups appear; one where all are."""
        if self.groups is None:
            return {"1": self}
        places: dict[str, list[int]] = {}
        for place, group in enumerate(self.groups):
            places.setdefault(group, []).append(place)
        return {group: self._take(np.array(index)) for group, index in places.items()}


def read_corpus(
    sources: Sequence[str], labelled: bool = False, group_field: str | None = None
) -> Corpus:
    """Read the text that a user names, one source after another.

    Args:
        labelled: rows must have an integer field `label` beside `text`.
        group_field: rows must have this field, their group; else sources are groups, 1, 2, ...

    Raises:
        UserError: there is no such source, it is empty or not text, or has no labels.
    """
    parts = [_read_source(source, labelled, group_field) for source in sources]
    groups = [
        group
        for number, part in enumerate(parts, start=1)
        for group in part.groups or [str(number)] * len(part.documents)
    ]
    return Corpus(
        " and ".join(sources),
        [document for part in parts for document in part.documents],
        [label for part in parts for label in part.labels or ()] if labelled else None,
        groups if len(parts) > 1 or group_field else None,
    )


def _read_source(source: str, labelled: bool, group_field: str | None) -> Corpus:
    if not source.strip():
        raise UserError(
            "A source of text is empty, as an unset variable is; name a file, a folder, "
            "package:NAME or a hub id."
        )
    if source.startswith("package:"):
        texts = _from_package(source.removeprefix("package:"))
        for wanted in (["label"] if labelled else []) + ([group_field] if group_field else []):
            raise UserError(
                f"{source} has no {wanted}s; give a .jsonl file with text and {wanted}."
            )
        return Corpus(source, texts)
    path = Path(source).expanduser()
    if not path.exists():
        return _from_hub(source, labelled, group_field)
    if not labelled and not group_field:
        return Corpus(source, read_texts(path))
    fields = ["text", *(["label"] if labelled else []), *([group_field] if group_field else [])]
    rows = read_rows(path, fields)
    if not labelled:
        rows = [row for row in rows if text_of(row, "text", path).strip()]
    texts = [text_of(row, "text", path) for row in rows]
    groups = [str(row[group_field]) for row in rows] if group_field else None
    return Corpus(source, texts, _labels_of(rows, path) if labelled else None, groups)


def _labels_of(rows: list[Row], path: Path) -> list[int]:
    numbers = [number_of(row, "label", path) for row in rows]
    wrong = next((number for number in numbers if not number.is_integer()), None)
    if wrong is not None:
        raise UserError(f"{path}: every label must be a whole number, and one is {wrong:g}.")
    return [int(number) for number in numbers]


def sentences(documents: Sequence[str]) -> list[str]:
    """Every sentence of 3 to 80 words, once, in order."""
    found: dict[str, None] = {}
    for document in documents:
        for line in document.splitlines():
            for sentence in _SENTENCE_END.split(line.strip()):
                if _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS:
                    found.setdefault(sentence)
    return list(found)


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


def _from_hub(name: str, labelled: bool, group_field: str | None) -> Corpus:
    _, rows = load_hub(name, ["train"])
    column = next((key for key in ("text", "sentence", "content") if key in rows.features), None)
    needed = [*(["label"] if labelled else []), *([group_field] if group_field else [])]
    if column is None or any(each not in rows.features for each in needed):
        raise UserError(
            f"The dataset {name} has the fields {', '.join(rows.features)}; "
            f"it needs {' and '.join(['text', *needed])}."
        )
    kept = [row for row in rows if str(row[column]).strip()]
    labels = [int(row["label"]) for row in kept] if labelled else None
    groups = [str(row[group_field]) for row in kept] if group_field else None
    return Corpus(name, [str(row[column]) for row in kept], labels, groups)
