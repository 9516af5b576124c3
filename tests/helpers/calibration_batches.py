"""Batches of random tokens, as calibration draws them."""

import numpy as np
from tiny_models import VOCABULARY, make_batch

from edgeprune.text.batches import Batch


def make_batches(windows: bool, seed: int = 3) -> list[Batch]:
    """Two batches of unequal size; right-padded unless they are a decoder's full windows."""
    rng = np.random.default_rng(seed)
    made = []
    for rows, tokens in ((3, 9), (2, 6)):
        ids = rng.integers(5, VOCABULARY, (rows, tokens))
        mask = np.ones_like(ids)
        if not windows:
            for row in range(rows):
                mask[row, tokens - row :] = 0
        made.append(Batch(np.where(mask == 1, ids, 1), mask))
    return made


def batches_of(count: int, seed: int = 0) -> list[Batch]:
    """Batches of 12 texts of up to 20 tokens."""
    made = [make_batch(rows=12, tokens=20, seed=seed + i) for i in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]
