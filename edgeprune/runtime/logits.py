"""Arithmetic on logits in numpy: log-softmax, likelihood, divergence."""

import numpy as np

# Rows of logits converted to float64 probabilities at a time: 64 x 49,152 x 8 B = 25 MB.
CHUNK = 64
# Rows in which the logits are laid to find the highest.
_ROWS = 64


def kl_divergence(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """KL(reference || candidate) of each row of logits [n, vocabulary], in nats: [n]."""
    nats = np.empty(len(reference))
    for start in range(0, len(reference), CHUNK):
        rows = slice(start, start + CHUNK)
        log_p, log_q = log_softmax(reference[rows]), log_softmax(candidate[rows])
        nats[rows] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return nats


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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of the `count` highest logits [vocabulary], the highest first; of equals, the lower
    id first."""
    count = min(count, len(logits))
    # So many columns have a maximum that reaches it, so at least so many logits do.
    columns = len(logits) // _ROWS
    some = logits
    if count <= columns:
        some = logits[: columns * _ROWS].reshape(_ROWS, columns).max(axis=0)
    floor = np.partition(some, len(some) - count)[len(some) - count]
    ids = np.flatnonzero(logits >= floor)
    return ids[np.argsort(-logits[ids], kind="stable")[:count]]


def log_probabilities(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities of some tokens under logits [vocabulary]: [ids] float64."""
    peak = logits.max()
    total = np.exp(logits - peak).sum(dtype=np.float64)
    found: np.ndarray = logits[ids].astype(np.float64) - peak - np.log(total)
    return found
