"""What a quality measure reads: rows, texts or running text, from files or the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeprune.errors import UserError
from edgeprune.text.files import Row, read_document, read_rows, read_texts, text_of
from edgeprune.text.hub import load_hub

# A hub's test labels are often hidden, and its training rows are no test.
_SPLITS = ("validation", "test", "train")


class Data:
    """A file, a folder of .txt files, or a Hugging Face dataset (NAME, NAME:SPLIT or
    NAME:CONFIGURATION:SPLIT; its validation split where none is named).

    place: where the rows come from; for a dataset, with the split that was taken.
    """

    def __init__(
        self,
        place: str | Path,
        limit: int | None = None,
        group: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """`limit`: rows at most, the first. `group`: the field that groups rows. `fields`: for a
        measure's name of a field, the data's own."""
        self.place = str(place)
        self.limit = limit
        self.group = group
        self._fields = dict(fields or {})
        self._hub: list[Row] | None = None
        if not Path(place).expanduser().exists():
            self.place, rows = load_hub(str(place), _SPLITS)
            self._hub = [dict(row) for row in rows]
        self._path = Path(place).expanduser()

    def rows(self, fields: Sequence[str]) -> list[Row]:
        """Rows that have at least `fields`, and the group's field where one was named.

        Raises:
            UserError: no such data, no rows, or a row without one of the fields.
        """
        return self._rows(fields, self.limit)

    def texts(self) -> list[Row]:
        """Rows whose field `text` holds some."""
        return self._texts(self.limit)

    def documents(self) -> list[tuple[str | None, str]]:
        """Running text: one with no group, or each group's with its name; `limit` is ignored."""
        if self.group is None and self._hub is None and not self._fields:
            return [(None, read_document(self._path))]
        documents: dict[str | None, list[str]] = {}
        for row in self._texts(None):
            group = None if self.group is None else str(row[self.group])
            documents.setdefault(group, []).append(row["text"])
        return [(group, "\n\n".join(texts)) for group, texts in documents.items()]

    def groups(self, rows: Sequence[Row]) -> list[str] | None:
        """The group of each row, None where no field was named."""
        return None if self.group is None else [str(row[self.group]) for row in rows]

    def _texts(self, limit: int | None) -> list[Row]:
        plain = self._path.is_dir() or self._path.suffix == ".txt"
        if plain and self.group is None and self._hub is None:
            return [{"text": text} for text in read_texts(self._path, limit)]
        rows = [
            row for row in self._rows(["text"], limit) if text_of(row, "text", self.place).strip()
        ]
        if not rows:
            raise UserError(f"{self.place} is empty: it has no text.")
        return rows

    def _rows(self, fields: Sequence[str], limit: int | None) -> list[Row]:
        needed = [*fields, *([self.group] if self.group else [])]
        theirs = {name: self._fields.get(name, name) for name in needed}
        if self._hub is None:
            rows = read_rows(self._path, list(theirs.values()), limit)
        else:
            rows = self._hub[:limit]
            for name in theirs.values():
                if any(row.get(name) is None for row in rows):
                    has = ", ".join(rows[0])
                    raise UserError(f"{self.place}: a row has no field {name!r}; they have {has}.")
        return [
            row | {name: row[own] for name, own in self._fields.items() if own in row}
            for row in rows
        ]
