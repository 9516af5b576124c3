"""Run texts through an encoder's graph in batches of similar length."""

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from edgeprune.base.errors import UserError
from edgeprune.runtime.names import empty_cache, is_past
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.runtime.session import input_types, running, token_inputs
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.batches import Tokens

CALL_TOKENS = 256
"""Tokens in one call, padding included, if no batch size is given; a longer text runs alone. With
more, a layer's output no longer fits into a core's caches (benchmarks/README.md, "tokens in a
call")."""


GIVES_BACK = "memory.enable_memory_arena_shrinkage"
"""The runtime's setting of one run: which devices' memory goes back to the system behind it."""


def check_number(name: str, number: object) -> None:
    """Refuse a number of things that is no whole number of at least 1.

    Raises:
        UserError: naming it.
    """
    if not isinstance(number, int | np.integer) or number < 1:
        raise UserError(f"{name} must be at least 1 and whole, not {number!r}.")


def mixes_texts(model_path: Path) -> bool:
    """Whether a text's result depends on its batch, as in a graph of dynamic INT8, which takes the
    scale of its activations from the whole batch.

    By default, texts of such a graph run alone. In a batch the scale differs, so every value is
    rounded differently, and the result moves as much as INT8 itself moves it, however similar the
    texts' lengths are (benchmarks/README.md, "dynamic INT8 in batches").
    """
    outline = read_outline(model_path)
    operators = (*outline.operators, *outline.functions)
    return any(name.startswith("DynamicQuantize") for name in operators)


def usual_batch(model_path: Path) -> int | None:
    """Texts in a call if no batch size is given; None: as many as run fast together."""
    return 1 if mixes_texts(model_path) else None


def run_batches(
    session: onnxruntime.InferenceSession,
    tokenizer: Tokenizer,
    output: str | Sequence[str],
    encoded: Sequence[Tokens],
    batch_size: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run all texts, longest first, and yield (rows, output, mask) of each batch.

    A batch has `batch_size` texts, or as many as CALL_TOKENS allows if that is None. `rows` are the
    texts' indices in `encoded`, [batch]; `mask` is [batch, tokens]; of several outputs each is a
    column of the last axis. Sorting by length keeps padding
    small, and running the longest first reaches the memory peak at once.

    If a batch of several texts was beyond CALL_TOKENS, the memory of all is given back in the end:
    the runtime would keep it in pieces of the shapes that it met, and need more for the next.
    """
    if batch_size is not None:
        check_number("batch_size", batch_size)
    types = input_types(session)
    past = {node.name: node.shape for node in session.get_inputs() if is_past(node.name)}
    order = np.argsort([-len(tokens.ids) for tokens in encoded], kind="stable")
    start, large = 0, False
    while start < len(order):
        longest = len(encoded[order[start]].ids)
        size = batch_size or max(1, CALL_TOKENS // max(1, longest))
        rows = order[start : start + size]
        ids, mask, type_ids = tokenizer.pad([encoded[row] for row in rows])
        feeds = token_inputs(types, ids, mask, type_ids)
        for name, shape in past.items():  # nothing comes before a text
            feeds[name] = np.zeros(empty_cache(shape, len(rows)), types[name])
        large |= len(rows) > 1 and ids.size > CALL_TOKENS
        start += size
        options = _giving_back() if large and start >= len(order) else None
        with running():
            if isinstance(output, str):
                [values] = session.run([output], feeds, options)
            else:
                values = np.stack(session.run(list(output), feeds, options), axis=-1)
        if options and (trim := _trim()):
            trim(0)  # what the C library holds of texts and encodings that are gone
        yield rows, values, mask


def _giving_back() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GIVES_BACK, "cpu:0")
    return options


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """The C library's malloc_trim; None on a system whose library has none."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
