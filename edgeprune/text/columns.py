"""Names that datasets give the fields that are read here."""

from collections.abc import Container, Mapping, Sequence

_NAMES = {
    "text": ("sentence", "content"),
    "label": ("labels",),
    "labels": ("label",),
    "score": ("label", "labels", "similarity_score", "relevance"),
    "tags": ("ner_tags",),
}
"""Other names of a field, the likeliest first."""

_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "answer"),
    ("text1", "text2"),
    ("sentence_A", "sentence_B"),
)
"""Names of the two texts of a pair, where no field is named `text`."""


def own_names(
    columns: Container[str], fields: Sequence[str], own: Mapping[str, str]
) -> dict[str, str]:
    """The data's own names of fields that have others than ours.

    Args:
        columns: the names that the data have.
        fields: ours of those that are read; with `text_pair` among them the texts may have the
            names of a pair, such as premise and hypothesis.
        own: names that the user gives, which count first.
    """
    missing = [field for field in fields if field not in columns and field not in own]
    found = {
        field: name
        for field in missing
        for name in reversed(_NAMES.get(field, ()))
        if name in columns
    }
    if {"text", "text_pair"} <= set(missing):
        for first, second in reversed(_PAIRS):
            if first in columns and second in columns:
                found |= {"text": first, "text_pair": second}
    return found | dict(own)
