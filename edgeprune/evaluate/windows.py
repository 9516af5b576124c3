"""A text as windows of tokens, for what is measured token by token."""

from pathlib import Path

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.files import read_document

# Rows of logits that are turned to float64 probabilities at a time: 64 x 49,152 x 8 B = 25 MB.
CHUNK = 64


def token_windows(bundle: Bundle, data: Path, window: int, limit: int | None) -> np.ndarray:
    """Consecutive windows of a text's tokens that do not overlap, [windows, window] int64.

    The text is tokenized whole, without special tokens; the tokens that fill no window at its end
    are left out; `limit` keeps the first windows.

    Raises:
        UserError: the text does not fill one window, or a window is more than the model takes.
    """
    if bundle.max_length is not None and window > bundle.max_length:
        raise UserError(
            f"{bundle.folder} takes {bundle.max_length:,} tokens at most, and the window has "
            f"{window:,}: lower --window."
        )
    ids = Tokenizer(bundle).ids(read_document(data), special_tokens=False)
    count = len(ids) // window
    if not count:
        raise UserError(
            f"{data} has {len(ids):,} tokens and does not fill one window of {window:,}: "
            f"give more text, or lower --window."
        )
    windows = np.asarray(ids[: count * window], np.int64).reshape(count, window)
    return windows if limit is None else windows[:limit]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
