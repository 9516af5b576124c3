"""Texts through an encoder's graph in batches of like length."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from edgeprune.runtime.onnx_file import read_outline
from edgeprune.runtime.session import input_types, running, token_inputs
from edgeprune.runtime.tokenize import Tokenizer, Tokens

CALL_TOKENS = 256
"""In one call, padding included, where no batch size is given; a longer text goes alone. What a
layer writes for more leaves a core's caches: MiniLM in INT8 took 15.4 ms a text of 75 tokens in
calls of 16, and 11.1 in calls of 2."""


def mixes_texts(model_path: Path) -> bool:
    """Whether a text's result depends on what it is batched with: a graph of dynamic INT8 takes
    the scale of its activations from the whole batch.

    Texts of such a graph go alone by default. In a batch a scale is other than alone, so that all
    values are rounded anew: MiniLM's embeddings differ by as much as INT8 costs them (cosine
    0.993), however alike the texts' lengths are.
    """
    outline = read_outline(model_path)
    operators = (*outline.operators, *outline.functions)
    return any(name.startswith("DynamicQuantize") for name in operators)


def run_batches(
    session: onnxruntime.InferenceSession,
    tokenizer: Tokenizer,
    output: str,
    encoded: Sequence[Tokens],
    batch_size: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run all texts, longest first, and yield (rows, output, mask) of each batch.

    A batch has `batch_size` texts, or where that is None as many as CALL_TOKENS allows. `rows` are
    the texts' places in `encoded`, [batch]; `mask` is [batch, tokens]. Sorting by length keeps
    padding small, and longest first meets the peak of memory at once.
    """
    types = input_types(session)
    order = np.argsort([-len(tokens.ids) for tokens in encoded], kind="stable")
    start = 0
    while start < len(order):
        longest = len(encoded[order[start]].ids)
        size = batch_size or max(1, CALL_TOKENS // max(1, longest))
        rows = order[start : start + size]
        ids, mask, type_ids = tokenizer.pad([encoded[row] for row in rows])
        feeds = token_inputs(types, ids, mask, type_ids)
        with running():
            [found] = session.run([output], feeds)
        yield rows, found, mask
        start += size
