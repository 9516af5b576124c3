"""A text as windows of tokens, for what is measured token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.evaluate.data import Data
from edgeprune.runtime.tokenize import Tokenizer

# Rows of logits that are turned to float64 probabilities at a time: 64 x 49,152 x 8 B = 25 MB.
CHUNK = 64


@dataclass(frozen=True)
class Windows:
    """Windows of a text's tokens.

    ids: [windows, window] int64.
    new_from: [windows], where in each window the tokens begin that no earlier window of the text
        holds; 0 in a text's first.
    groups: the group of each window, None where the data has none.
    """

    ids: np.ndarray
    new_from: np.ndarray
    groups: Sequence[str] | None


def token_windows(bundle: Bundle, data: Data, window: int, stride: int | None = None) -> Windows:
    """Windows that begin `stride` tokens after each other; without one they do not overlap.

    The text (each group's) is tokenized whole, without special tokens; the tokens that fill no
    window at its end are left out; the data's limit keeps the first windows.

    Raises:
        UserError: a text does not fill one window, a window is more than the model takes, or the
            stride leaves tokens between windows.
    """
    stride = window if stride is None else stride
    if stride > window:
        raise UserError(
            f"A stride of {stride:,} tokens leaves some between windows of {window:,}: lower "
            f"--stride."
        )
    if bundle.max_length is not None and window > bundle.max_length:
        raise UserError(
            f"{bundle.folder} takes {bundle.max_length:,} tokens at most, and the window has "
            f"{window:,}: lower --window."
        )
    tokenizer = Tokenizer(bundle)
    found, new_from, groups = [], [], []
    for group, text in data.documents():
        ids = np.array(tokenizer.ids(text, special_tokens=False), np.int64)
        if len(ids) < window:
            name = data.place if group is None else f"{data.place}: {group}"
            raise UserError(
                f"{name} has {len(ids):,} tokens and does not fill one window of {window:,}: "
                f"give more text, or lower --window."
            )
        windows = np.lib.stride_tricks.sliding_window_view(ids, window)[::stride][: data.limit]
        found.append(windows)
        new_from += [0] + [window - stride] * (len(windows) - 1)
        groups += [str(group)] * len(windows)
    return Windows(
        np.concatenate(found), np.array(new_from), None if data.group is None else groups
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log p of each target [n] under its row of logits [n, vocabulary], in nats: [n]."""
    nats = np.empty(len(targets))
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        chosen = targets[rows, None]
        nats[rows] = -np.take_along_axis(log_softmax(logits[rows]), chosen, axis=1)[:, 0]
    return nats
