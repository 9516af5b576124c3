"""Texts through an encoder's graph in batches of like length."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime

from edgeprune.runtime.session import input_types, token_inputs
from edgeprune.runtime.tokenize import Tokenizer, Tokens

BATCH_SIZE = 32


def run_batches(
    session: onnxruntime.InferenceSession,
    tokenizer: Tokenizer,
    output: str,
    encoded: Sequence[Tokens],
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run all texts, longest first, and yield (rows, output, mask) of each batch.

    `rows` are the texts' places in `encoded`, [batch]; `mask` is [batch, tokens]. Sorting by length
    keeps padding small, and longest first meets the peak of memory at once.
    """
    types = input_types(session)
    order = np.argsort([-len(tokens.ids) for tokens in encoded], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask, type_ids = tokenizer.pad([encoded[row] for row in rows])
        feeds = token_inputs(types, ids, mask, type_ids)
        yield rows, session.run([output], feeds)[0], mask
