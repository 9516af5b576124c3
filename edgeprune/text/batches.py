"""Batches of token ids, and how sequences of like length are put into them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.text.tags import IGNORED

LENGTH_STEP = 8


@dataclass(frozen=True)
class Tokens:
    """A tokenized text: ids, and of which of a pair's texts each is, 0 or 1; both [tokens]."""

    ids: Sequence[int]
    type_ids: Sequence[int]
    prompt: int = 0
    """The number of the first that are a sentence encoder's prompt and special tokens before it."""


@dataclass(frozen=True)
class Batch:
    """Token ids and mask [sequences, tokens], int64, and a label per sequence [sequences] or
    token [sequences, tokens] where known.

    token_type_ids: of which of a pair's texts each token is [sequences, tokens], int64; None where
    all are of the first.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray | None = None
    token_type_ids: np.ndarray | None = None

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The model's inputs by their names; labels are not among them."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids
        return inputs


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
    sequences: Sequence[Tokens],
    shape: Shape,
    labels: np.ndarray | Sequence[list[int]] | None = None,
) -> Iterator[Batch]:
    """Batches of sequences of like length, the longest first; `labels` are one of each sequence, or
    a list of one of each token.

    Lengths are padded to a multiple of LENGTH_STEP and full batches of one length have equally
    many sequences: the matrix library compiles a kernel for every shape it meets, and a few
    shapes that come again are several times faster than a new one each step.
    """
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].ids))
    start = 0
    while start < len(order):
        length = shape.padded(len(sequences[order[start]].ids))
        chosen = order[start : start + max(1, shape.tokens // length)]
        rows = [sequences[i] for i in chosen]
        yield padded(rows, length, shape.pad_id, _rows(labels, chosen, length))
        start += len(chosen)


def padded(
    sequences: Sequence[Tokens], length: int, pad_id: int, labels: np.ndarray | None = None
) -> Batch:
    """A batch of sequences, padded on the right to a length."""
    ids = np.full((len(sequences), length), pad_id, dtype=np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens.ids)] = tokens.ids
        mask[row, : len(tokens.ids)] = 1
        types[row, : len(tokens.ids)] = tokens.type_ids
    return Batch(ids, mask, labels, types if types.any() else None)


def full(ids: np.ndarray) -> Batch:
    """A batch of sequences of one length [sequences, tokens], which need no padding."""
    return Batch(ids, np.ones_like(ids))


def text_by_text(batches: Iterable[Batch]) -> list[Batch]:
    """The same texts one at a time, without padding."""
    return [
        Batch(**{name: values[row, mask == 1][None] for name, values in batch.inputs.items()})
        for batch in batches
        for row, mask in enumerate(batch.attention_mask)
    ]


def _rows(labels: Any, chosen: list[int], length: int) -> np.ndarray | None:
    if labels is None or isinstance(labels, np.ndarray):
        return None if labels is None else labels[chosen]
    padded = np.full((len(chosen), length), IGNORED, dtype=np.int64)
    for row, index in enumerate(chosen):
        padded[row, : len(labels[index])] = labels[index]
    return padded
