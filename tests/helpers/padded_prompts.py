"""Prompts padded on either side and the steps after them, for a graph and for torch."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import torch
from tiny_models import VOCABULARY

from edgeprune.model.model import Model
from edgeprune.runtime.names import empty_cache, is_past, present_of

PADDING = 1


@dataclass
class Decoded:
    """A batch of texts of which the first `prompt` tokens are fed at once, then `steps`."""

    tokens: np.ndarray
    mask: np.ndarray
    positions: np.ndarray
    prompt: int
    steps: tuple[int, ...]

    @property
    def pieces(self) -> list[slice]:
        """The tokens of each call."""
        ends = np.cumsum([self.prompt, *self.steps])
        return [slice(start, end) for start, end in zip((0, *ends[:-1]), ends, strict=True)]


def decoded(
    side: str, rows: int, prompt: int = 11, steps: tuple[int, ...] = (1, 1, 1), seed: int = 0
) -> Decoded:
    """Random texts, of which row i has 2 i padding tokens before or after its prompt.

    A token's position is the number of tokens before it, less the padding in front of all.
    """
    total = prompt + sum(steps)
    tokens = np.random.default_rng(seed).integers(5, VOCABULARY, (rows, total))
    mask = np.ones((rows, total), np.int64)
    for row in range(rows):
        if side == "left":
            mask[row, : 2 * row] = 0
        else:
            mask[row, prompt - 2 * row : prompt] = 0
    front = mask.argmax(axis=1)[:, None]
    positions = np.maximum(np.arange(total)[None] - front, 0)
    return Decoded(np.where(mask == 1, tokens, PADDING), mask, positions, prompt, steps)


def by_torch(model: Model, batch: Decoded) -> np.ndarray:
    """Logits of all tokens, without a cache."""
    with torch.no_grad():
        return model.module(
            input_ids=torch.from_numpy(batch.tokens),
            attention_mask=torch.from_numpy(batch.mask),
            position_ids=torch.from_numpy(batch.positions),
            use_cache=False,
        ).logits.numpy()


def by_graph(session: ort.InferenceSession, batch: Decoded) -> np.ndarray:
    """The same, call by call on the cache."""
    names = [output.name for output in session.get_outputs()]
    cache = {
        value.name: np.zeros(empty_cache(value.shape, len(batch.tokens)), np.float32)
        for value in session.get_inputs()
        if is_past(value.name)
    }
    inputs = {value.name for value in session.get_inputs()}
    logits = []
    for piece in batch.pieces:
        feed = {
            "input_ids": batch.tokens[:, piece],
            "attention_mask": batch.mask[:, : piece.stop],
            "position_ids": batch.positions[:, piece],
        }
        feed = {name: value for name, value in feed.items() if name in inputs}
        results = dict(zip(names, session.run(names, feed | cache), strict=True))
        cache = {name: results[present_of(name)] for name in cache}
        logits.append(results["logits"])
    return np.concatenate(logits, axis=1)


def largest_difference(model: Model, session: ort.InferenceSession, batch: Decoded) -> float:
    """Of the logits of real tokens, relative to their root mean square."""
    real = batch.mask == 1
    expected, got = by_torch(model, batch)[real], by_graph(session, batch)[real]
    return float(np.abs(got - expected).max() / np.sqrt(np.square(expected).mean()))
