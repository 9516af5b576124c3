"""How far a decoder's next-token probabilities moved from the original's."""

from pathlib import Path

import numpy as np

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.evaluate.result import Quality
from edgeprune.evaluate.windows import CHUNK, log_softmax, token_windows
from edgeprune.progress import track
from edgeprune.runtime.generate import Generator


def kl(
    bundle: Bundle, original: Bundle, data: Path, limit: int | None = None, window: int = 512
) -> Quality:
    """Mean KL(original || bundle) a token, in nats, and the share of tokens (times 100) where
    both find the same token likeliest; over the windows that `perplexity` takes."""
    windows = token_windows(original, data, window, limit)
    ours, theirs = Generator(bundle), Generator(original)
    divergence, agreed = 0.0, 0
    for ids in track(windows, "divergence from the original", len(windows)):
        reference, candidate = theirs.logits(ids), ours.logits(ids)
        if reference.shape != candidate.shape:
            raise UserError(
                f"{bundle.folder} has a vocabulary of {candidate.shape[-1]:,} tokens and "
                f"{original.folder} one of {reference.shape[-1]:,}: they cannot be compared."
            )
        divergence += float(kl_divergence(reference, candidate).sum())
        agreed += int((reference.argmax(axis=1) == candidate.argmax(axis=1)).sum())
    values = {
        "kl_nats_per_token": divergence / windows.size,
        "same_top_token": 100 * agreed / windows.size,
    }
    conditions = {"windows": len(windows), "window_tokens": window, "tokens": windows.size}
    return Quality(values, conditions)


def kl_divergence(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """KL(reference || candidate) of each row of logits [n, vocabulary], in nats: [n]."""
    nats = np.empty(len(reference))
    for start in range(0, len(reference), CHUNK):
        rows = slice(start, start + CHUNK)
        log_p, log_q = log_softmax(reference[rows]), log_softmax(candidate[rows])
        nats[rows] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return nats
