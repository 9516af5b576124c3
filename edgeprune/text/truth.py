"""The truth of texts, in each form in which a model's data have it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.text import answers
from edgeprune.text.files import Row, number_of
from edgeprune.text.labels import label_numbers
from edgeprune.text.pairs import FIELDS, Document, document_of, row_of
from edgeprune.text.tags import tagged, tagged_row

Read = Callable[[Sequence[Row], Sequence[str], Any], tuple[Sequence[Document], list[Any]]]
"""(rows, names of the model's labels, their place) -> documents, and the truth of each."""


@dataclass(frozen=True)
class Form:
    """A form: its fields, and how rows are read."""

    field: str
    """That of the truth, or of what a row with it has beside the text."""
    read: Read
    text: str = "text"
    """The field of the text."""
    further: tuple[str, ...] = FIELDS[1:]
    """Fields that are read where they are there."""
    made: Callable[[Any, Any], Row] | None = None
    """The row of which `read` makes a document and its truth; None: their fields."""
    judged: bool = False
    """Whether rows may have a query and lists of documents in place of a pair and its truth."""

    told: Callable[[Any], Iterable[Any]] | None = lambda truth: [str(truth)]
    """The values that a truth gives its text, or its words, one by one: data in which all are the
    same teach nothing. None: where that is no matter."""

    def row(self, document: Document, truth: Any) -> Row:
        """The row of a document and its truth."""
        if self.made is not None:
            return self.made(document, truth)
        return {**row_of(document), self.field: truth}


def labelled(
    rows: Sequence[Row], names: Sequence[str], place: object
) -> tuple[Sequence[Document], list[int]]:
    """Documents and the number of the label of each, from `label`, its name or number."""
    documents = [document_of(row, str(place)) for row in rows]
    return documents, label_numbers([row["label"] for row in rows], names, place)


def multi_labelled(
    rows: Sequence[Row], names: Sequence[str], place: object
) -> tuple[Sequence[Document], list[list[float]]]:
    """Documents, and of each a 1 for every label that it has and a 0 for the others, from `labels`:
    a list of names or numbers, or of a 0 or 1 for each of the model's labels.

    Raises:
        UserError: it is neither, or a label is unknown.
    """
    documents = [document_of(row, str(place)) for row in rows]
    return documents, [_vector(row["labels"], names, place) for row in rows]


def scored(
    rows: Sequence[Row], names: Sequence[str], place: object
) -> tuple[Sequence[Document], list[float]]:
    """Documents and a number for each, from `score`."""
    documents = [document_of(row, str(place)) for row in rows]
    return documents, [number_of(row, "score", str(place)) for row in rows]


def _vector(values: Any, names: Sequence[str], place: object) -> list[float]:
    if not isinstance(values, list | tuple):
        raise UserError(
            f"{place}: field 'labels' must be a list of the labels that a text has, not "
            f"{values!r:.60}."
        )
    count = len(names)
    whole = len(values) == count and all(value in (0, 1) for value in values)
    if whole and (count > 2 or all(isinstance(value, float) for value in values)):
        return [float(value) for value in values]
    if whole and count == 2:
        raise UserError(
            f"{place}: the labels {values!r} may be two numbers, or a yes or no for each of the "
            "model's two labels: write names, or 0.0 and 1.0."
        )
    present = set(label_numbers(values, names, place)) if values else set()
    return [float(number in present) for number in range(count)]


FORMS: Mapping[str, Form] = {
    "labelled": Form("label", labelled),
    "multi-labelled": Form("labels", multi_labelled),
    "scored": Form("score", scored, judged=True),
    "tagged": Form("tags", tagged, "tokens", (), tagged_row, told=iter),
    "asked": Form(
        "context", answers.spanned, "question", answers.FURTHER, answers.row_of, told=None
    ),
}
"""By the form in which a task reads its data."""
