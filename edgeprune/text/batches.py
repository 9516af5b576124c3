"""Batches of token ids, and how sequences of like length are put into them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.text.tags import IGNORED

LENGTH_STEP = 8


@dataclass(frozen=True)
class Batch:
    """Token ids and mask [sequences, tokens], int64, and a label per sequence [sequences] or
    token [sequences, tokens] where known."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray | None = None

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The model's inputs by their names; labels are not among them."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


@dataclass(frozen=True)
class Shape:
    """The size of a batch of sequences, and the token that pads it.

    tokens: in one batch, padding included. longest: the most tokens in a sequence.
    """

    tokens: int
    longest: int
    pad_id: int

    def padded(self, length: int) -> int:
        """A length rounded up to a multiple of LENGTH_STEP, but not beyond the longest."""
        steps = -(-length // LENGTH_STEP) * LENGTH_STEP
        return max(length, min(steps, self.longest))


def by_length(
    ids: Sequence[list[int]],
    shape: Shape,
    labels: np.ndarray | Sequence[list[int]] | None = None,
) -> Iterator[Batch]:
    """Batches of sequences of like length, the longest first; `labels` are one of each sequence, or
    a list of one of each token.

    Lengths are padded to a multiple of LENGTH_STEP and full batches of one length have equally
    many sequences: the matrix library compiles a kernel for every shape it meets, and a few
    shapes that come again are several times faster than a new one each step.
    """
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        length = shape.padded(len(ids[order[start]]))
        chosen = order[start : start + max(1, shape.tokens // length)]
        yield _pad([ids[i] for i in chosen], length, shape.pad_id, _rows(labels, chosen, length))
        start += len(chosen)


def full(ids: np.ndarray) -> Batch:
    """A batch of sequences of one length [sequences, tokens], which need no padding."""
    return Batch(ids, np.ones_like(ids))


def text_by_text(batches: Iterable[Batch]) -> list[Batch]:
    """The same texts one at a time, without padding."""
    return [
        full(ids[mask == 1][None])
        for batch in batches
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


def _rows(labels: Any, chosen: list[int], length: int) -> np.ndarray | None:
    if labels is None or isinstance(labels, np.ndarray):
        return None if labels is None else labels[chosen]
    padded = np.full((len(chosen), length), IGNORED, dtype=np.int64)
    for row, index in enumerate(chosen):
        padded[row, : len(labels[index])] = labels[index]
    return padded


def _pad(
    sequences: Sequence[list[int]], length: int, pad_id: int, labels: np.ndarray | None
) -> Batch:
    input_ids = np.full((len(sequences), length), pad_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for row, ids in enumerate(sequences):
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return Batch(input_ids, mask, labels)
