"""Entities out of the probabilities of each token's labels, as transformers' pipeline makes them.

    none      every token that is not outside, by itself
    simple    neighbouring tokens of one kind
    first     the same of whole words, each with its first token's label
    average   ... with the likeliest label of its tokens' mean probabilities
    max       ... with the label of its surest token

A kind is a label without its B- or I-; B- begins an entity of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")
Aggregation = Literal["none", "simple", "first", "average", "max"]
OUTSIDE = "O"


@dataclass(frozen=True)
class Entity:
    """A label, or a kind without B- and I-, with its probability, and its characters of the text
    [start, end)."""

    label: str
    score: float
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Piece:
    """A token of a text, with the probabilities of its labels [labels]."""

    start: int
    end: int
    continues: bool
    """Whether it goes on with the word of the token before it."""
    probabilities: np.ndarray


@dataclass(frozen=True)
class _Marked:
    """Characters with one label."""

    label: str
    score: float
    start: int
    end: int


_Of = Callable[[list[np.ndarray]], np.ndarray]
_WORDS: dict[str, _Of] = {
    "first": lambda tokens: tokens[0],
    "average": lambda tokens: np.mean(tokens, axis=0),
    "max": lambda tokens: max(tokens, key=lambda each: float(each.max())),
}
"""The probabilities of a word by those of its tokens."""


def entities(
    text: str, pieces: Sequence[Piece], labels: Sequence[str], how: Aggregation
) -> list[Entity]:
    """The entities of one window of a text, in its order."""
    words = [[piece] for piece in pieces]
    if how in _WORDS:
        words = _together(pieces, lambda _, piece: piece.continues)
    marked = [_marked(word, labels, _WORDS.get(how, _WORDS["first"])) for word in words]
    groups = [[each] for each in marked] if how == "none" else _together(marked, _goes_on)
    found = []
    for group in groups:
        label = group[0].label if how == "none" else _kind(group[0].label)
        if label != OUTSIDE:
            start, end = group[0].start, group[-1].end
            score = float(np.mean([each.score for each in group]))
            found.append(Entity(label, score, text[start:end], start, end))
    return found


def without_overlaps(found: Sequence[Entity]) -> list[Entity]:
    """Of entities of overlapping windows, each that meets another: the longer one, the surer of
    equally long ones."""
    kept: list[Entity] = []
    for entity in sorted(found, key=lambda each: each.start):
        if kept and kept[-1].start <= entity.start < kept[-1].end:
            kept[-1] = max(kept[-1], entity, key=lambda each: (each.end - each.start, each.score))
        else:
            kept.append(entity)
    return kept


def _marked(word: Sequence[Piece], labels: Sequence[str], of: _Of) -> _Marked:
    row = of([piece.probabilities for piece in word])
    best = int(row.argmax())
    return _Marked(labels[best], float(row[best]), word[0].start, word[-1].end)


def _kind(label: str) -> str:
    return label.split("-", 1)[-1]


def _goes_on(last: _Marked, marked: _Marked) -> bool:
    return not marked.label.startswith("B-") and _tag(marked.label) == _tag(last.label)


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _together(parts: Sequence[T], joins: Callable[[T, T], bool]) -> list[list[T]]:
    """Neighbours in groups; `joins` says whether the second belongs to the first's."""
    groups = [[part] for part in parts[:1]]
    for last, part in pairwise(parts):
        if joins(last, part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
