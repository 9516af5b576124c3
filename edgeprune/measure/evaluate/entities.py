"""Entities: F1, precision and recall, as the CoNLL shared tasks count them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.measure.evaluate.classes import Classes
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Quality, Scores
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tag import Tagger
from edgeprune.text.files import Row
from edgeprune.text.labels import label_names
from edgeprune.text.tags import tagged

_OUTSIDE = ("O", "")


def entities(bundle: Bundle, data: Data) -> Quality:
    """F1, precision and recall of entities, times 100, over all texts together (micro averages),
    and of every kind.

    An entity is right if its kind, its first and its last word are. `data` has rows with `tokens`,
    words, and as many `tags`, each a name that the model's id2label has, or its number. A text
    longer than the model reads is read in windows.
    """
    rows = data.rows(["tokens", "tags"])
    tagger = Tagger(bundle)
    texts, truth = tagged(rows, tagger.labels, data.place)
    found = tagger.word_labels(texts)
    names = tagger.labels
    kinds = list(dict.fromkeys(_parts(name)[1] for name in names if _parts(name) != _OUTSIDE))
    counts = np.zeros((len(texts), 3, len(kinds)), np.int64)
    for row, (mine, theirs) in enumerate(zip(found, truth, strict=True)):
        predicted, true = spans([names[n] for n in mine]), spans([names[n] for n in theirs])
        for place, some in enumerate((predicted & true, predicted, true)):
            for kind, *_ in some:
                counts[row, place, kinds.index(kind)] += 1
    scores = dict(zip(("right", "found", "true"), counts.sum(axis=2).T, strict=True))
    return Quality(
        scores,
        f1,
        {"texts": len(rows), "entities": int(scores["true"].sum())},
        data.groups(rows),
        classes=Classes(kinds, lambda chosen: counts[chosen].sum(axis=0)),
    )


def check_rows(rows: Sequence[Row], config: Mapping[str, Any], place: str) -> None:
    """Refuse rows that are not words with a tag of this configuration's model each.

    Raises:
        UserError: naming the field or the label.
    """
    tagged(rows, label_names(config), place)


def f1(scores: Scores) -> dict[str, float]:
    """2 right / (found + true), right / found and right / true, times 100; 0 where none is."""
    right, found, true = (int(scores[name].sum()) for name in ("right", "found", "true"))
    return {
        "f1": 200 * right / max(1, found + true),
        "precision": 100 * right / max(1, found),
        "recall": 100 * right / max(1, true),
    }


def spans(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, first word, last word) of the entities that a text's labels make, in the schemes IOB1,
    IOB2 and IOBES.

    Two neighbouring labels are of one entity if they are of a kind, the first does not end one
    (E, S) and the second does not begin one (B, S): the rules of the CoNLL-2000 evaluation.
    """
    found = set()
    last, start = _OUTSIDE, 0
    for word, (mark, kind) in enumerate([*map(_parts, labels), _OUTSIDE]):
        goes_on = kind == last[1] and last[0] not in "ESO" and mark not in "BSO"
        if not goes_on:
            if last != _OUTSIDE:
                found.add((last[1], start, word - 1))
            start = word
        last = (mark, kind)
    return found


def _parts(label: str) -> tuple[str, str]:
    """A label's mark and kind; one without a mark goes on."""
    if label == "O":
        return _OUTSIDE
    mark, dash, kind = label.partition("-")
    return (mark, kind) if dash and mark in tuple("BIES") else ("I", label)
