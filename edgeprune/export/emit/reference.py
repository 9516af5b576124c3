"""Torch's answers on the batches that an emitted graph is compared on.

A decoder answers a batch with the cache that it fills, then one more token on that, as the graph is
asked by rewrite/verify.py; and some short prompts more that are padded, on either side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.export.rewrite.outputs import Feed, Kept, Outputs
from edgeprune.export.rewrite.verify import positions, without_padding
from edgeprune.model.model import Model

_PADDED_ROWS, _PADDED_TOKENS = 3, 24


def padded_prompts(batches: Sequence[Feed]) -> list[Feed]:
    """Beginnings of the first batch's texts, shorter from row to row: padded on the right, and the
    same on the left."""
    tokens = batches[0]["input_ids"][:_PADDED_ROWS, :_PADDED_TOKENS]
    rows, length = tokens.shape
    kept = [length - row * length // (rows + 1) for row in range(1, rows + 1)]
    right = np.array([[1] * count + [0] * (length - count) for count in kept])
    left = right[:, ::-1].copy()
    moved = np.stack([np.roll(row, -count) for row, count in zip(tokens, kept, strict=True)])
    return [
        {"input_ids": tokens, "attention_mask": right},
        {"input_ids": moved, "attention_mask": left},
    ]


def torch_outputs(model: Model, batches: Sequence[Feed]) -> Outputs:
    """The module's outputs by name on each batch, with zeros at padded tokens as a graph's have.

    Args:
        batches: input_ids and attention_mask.
    """
    answer = _continued if model.anatomy.generates else _called
    return [Kept(without_padding(answer(model, batch), batch)) for batch in batches]


@torch.no_grad()
def _called(model: Model, batch: Feed) -> dict[str, np.ndarray]:
    answer = model.run({name: torch.from_numpy(values) for name, values in batch.items()})
    return {name: value.numpy() for name, value in answer.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class States:
    """A decoder's states on one batch, and then on each row's first token again, on the cache."""

    batch: Feed
    prompt: list[np.ndarray]
    """The states that enter each layer, and those that leave the last [texts, tokens, width]."""
    following: list[np.ndarray]
    """The same of one more token [texts, 1, width]."""
    logits: np.ndarray
    """[texts, tokens, words] of the batch."""


@torch.no_grad()
def states(model: Model, batches: Sequence[Feed]) -> list[States]:
    """A decoder's states between its layers on each batch."""
    blocks = model.block_modules()
    seen: list[np.ndarray] = []

    def enter(_module: Any, args: tuple[Any, ...]) -> None:
        seen.append(args[0].numpy().copy())

    def leave(_module: Any, _args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).numpy().copy())

    handles = [block.register_forward_pre_hook(enter) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(leave))
    found = []
    try:
        for batch in batches:
            logits = _continued(model, batch)["logits"]
            half = len(blocks) + 1
            found.append(States(batch, seen[:half], seen[half:], logits))
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _continued(model: Model, batch: Feed) -> dict[str, np.ndarray]:
    """A decoder's logits, and those of each row's first token again, on the cache."""
    tokens, mask = batch["input_ids"], batch["attention_mask"]
    longer = np.concatenate([mask, np.ones((len(mask), 1), mask.dtype)], axis=1)
    cache, logits = None, []
    for fed, seen, places in (
        (tokens, mask, positions(mask)),
        (tokens[:, :1], longer, positions(longer)[:, -1:]),
    ):
        answer = model.module(
            input_ids=torch.from_numpy(fed),
            attention_mask=torch.from_numpy(seen),
            position_ids=torch.from_numpy(places),
            cache=cache,
            use_cache=True,
        )
        cache = answer.cache
        logits.append(answer.logits.numpy())
    return {"logits": logits[0], "next_logits": logits[1]}
