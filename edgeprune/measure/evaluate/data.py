"""The data of a quality measure: rows, texts or running text, from files or the Hugging Face
hub."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.measure.evaluate.result import Sample
from edgeprune.text.columns import own_names
from edgeprune.text.files import Row, read_document, read_rows, read_texts, renamed
from edgeprune.text.hub import load_hub
from edgeprune.text.languages import FIELD, languages
from edgeprune.text.pairs import FIELDS, document_of, texts_of

T = TypeVar("T")
# A hub's test labels are often hidden, and its training rows are not a test.
_SPLITS = ("validation", "test", "train")
SEED = 0
"""Of the rows that a limit leaves."""
LANGUAGE = "language"
"""The field of rows that are grouped by their language."""


class Data:
    """A file, a folder of .txt files, or a Hugging Face dataset (NAME, NAME:SPLIT or
    NAME:CONFIGURATION:SPLIT; its validation split where none is named).

    place: where the rows come from; for a dataset, with the split that was taken.
    path: of the file or folder.
    sample: what the limit left of what was read last; None where it left all.
    """

    def __init__(
        self,
        place: str | Path,
        limit: int | None = None,
        group: str | None = None,
        fields: Mapping[str, str] | None = None,
        languages: bool = False,
    ) -> None:
        """`limit`: rows at most, drawn by SEED, those of each group and label in proportion.
        `group`: the field that groups rows. `fields`: for a measure's name of a field, the data's
        own. `languages`: group rows by the language that their field `lang` names, or else by the
        script of their text."""
        self.place = str(place)
        self.limit = limit
        self.group = LANGUAGE if languages else group
        self.languages = languages
        self.sample: Sample | None = None
        self._fields = dict(fields or {})
        self._hub: list[Row] | None = None
        if not Path(place).expanduser().exists():
            self.place, rows = load_hub(str(place), _SPLITS)
            self._hub = [dict(row) for row in rows]
        self.path = self._path = Path(place).expanduser()

    def rows(self, fields: Sequence[str], further: Sequence[str] = ()) -> list[Row]:
        """Rows that have at least `fields`, and the group's field where one was named; `further`
        are read where they are there.

        Raises:
            UserError: no such data, no rows, or a row without one of the fields.
        """
        return self._by_stratum(self._rows(fields, further), fields)

    def texts(self) -> list[Row]:
        """Rows whose field `text` holds some; of a row with a pair of texts, one for each."""
        return self._by_stratum(self._texts(), ())

    def documents(self) -> list[tuple[str | None, str]]:
        """Running text: one with no group, or each group's with its name; `limit` is ignored."""
        if self.group is None and self._hub is None and not self._fields:
            return [(None, read_document(self._path))]
        documents: dict[str | None, list[str]] = {}
        for row in self._texts():
            group = None if self.group is None else str(row[self.group])
            documents.setdefault(group, []).append(row["text"])
        return [(group, "\n\n".join(texts)) for group, texts in documents.items()]

    def groups(self, rows: Sequence[Row]) -> list[str] | None:
        """The group of each row, None where no field was named."""
        return None if self.group is None else [str(row[self.group]) for row in rows]

    def limited(
        self,
        items: list[T],
        by: Sequence[str] = (),
        stratum: Callable[[T], tuple[str, ...]] = lambda item: (),
    ) -> list[T]:
        """At most `limit` items, in their order; of each stratum, those of equal values of the
        fields `by`, in proportion."""
        self.sample = None
        if self.limit is None or self.limit >= len(items):
            return items
        self.sample = Sample(taken=self.limit, of=len(items), unit="rows", seed=SEED, by=tuple(by))
        strata = [stratum(item) for item in items]
        return [items[place] for place in draw(strata, self.limit)]

    def _by_stratum(self, rows: list[Row], fields: Sequence[str]) -> list[Row]:
        by = [name for name in (self.group, "label" if "label" in fields else None) if name]
        return self.limited(rows, by, lambda row: tuple(str(row[field]) for field in by))

    def _texts(self) -> list[Row]:
        plain = self._path.is_dir() or self._path.suffix == ".txt"
        if plain and self.group in (None, LANGUAGE) and self._hub is None:
            return self._by_language([{"text": text} for text in read_texts(self._path)], ["text"])
        rows = [
            row | {"text": text, "text_pair": None}
            for row in self._rows(["text"], FIELDS[1:])
            for text in texts_of(document_of(row, self.place))
            if text.strip()
        ]
        if not rows:
            raise UserError(f"{self.place} is empty: it has no text.")
        return rows

    def _rows(self, fields: Sequence[str], further: Sequence[str] = ()) -> list[Row]:
        needed = [*fields, *([self.group] if self.group and not self.languages else [])]
        texts = [*fields, *further]
        if self._hub is None:
            rows = read_rows(self._path, needed, self._fields, further)
            return self._by_language(rows, texts)
        own = own_names(self._hub[0] if self._hub else {}, [*needed, *further], self._fields)
        for name in (own.get(name, name) for name in needed):
            if any(row.get(name) is None for row in self._hub):
                has = ", ".join(self._hub[0])
                raise UserError(f"{self.place}: a row has no field {name!r}; they have {has}.")
        return self._by_language([renamed(row, own) for row in self._hub], texts)

    def _by_language(self, rows: list[Row], fields: Sequence[str]) -> list[Row]:
        """Rows with their language, where that was asked for: by the text in the fields."""
        if not self.languages:
            return rows
        texts = [" ".join(_words(row.get(field)) for field in fields) for row in rows]
        named = [str(row[FIELD]) if row.get(FIELD) else None for row in rows]
        found = languages(texts, named)
        return [row | {LANGUAGE: name} for row, name in zip(rows, found, strict=True)]


def _words(value: Any) -> str:
    """The text in a field's value; none in a number."""
    if isinstance(value, list | tuple):
        return " ".join(map(_words, value))
    return value if isinstance(value, str) else ""


def draw(strata: Sequence[tuple[str, ...]], count: int, seed: int = SEED) -> list[int]:
    """`count` different rows of n, rising: each as likely as any other, and of each stratum as many
    as its share, rounded up or down.

    Systematic sampling: the rows stand in order of their strata and by chance within, and every
    n/count-th is taken from a random start.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(strata)).tolist()
    ordered = np.array(sorted(shuffled, key=lambda row: strata[row]))
    steps = (np.arange(count) * len(strata) + rng.integers(len(strata))) // count
    return sorted(ordered[steps].tolist())
