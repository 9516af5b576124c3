"""Perplexity of a decoder on a text."""

from pathlib import Path

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.evaluate.result import Quality
from edgeprune.evaluate.windows import CHUNK, log_softmax, token_windows
from edgeprune.progress import track
from edgeprune.runtime.generate import Generator


def perplexity(bundle: Bundle, data: Path, limit: int | None = None, window: int = 512) -> Quality:
    """exp of the mean negative log likelihood, in nats, over all predicted tokens.

    Each window stands alone: its first token is given, each other is predicted from those before
    it in the window.
    """
    windows = token_windows(bundle, data, window, limit)
    generator = Generator(bundle)
    nats = 0.0
    for ids in track(windows, "perplexity", len(windows)):
        nats += float(negative_log_likelihood(generator.logits(ids)[:-1], ids[1:]).sum())
    predicted = windows.size - len(windows)
    values = {"perplexity": float(np.exp(nats / predicted)), "nats_per_token": nats / predicted}
    conditions = {"windows": len(windows), "window_tokens": window, "predicted_tokens": predicted}
    return Quality(values, conditions)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log p of each target [n] under its row of logits [n, vocabulary], in nats: [n]."""
    nats = np.empty(len(targets))
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        chosen = targets[rows, None]
        nats[rows] = -np.take_along_axis(log_softmax(logits[rows]), chosen, axis=1)[:, 0]
    return nats
