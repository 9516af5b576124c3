"""Items of multiple choice, and their likelihood by the definition."""

from typing import Any

import numpy as np
import scipy.special
from onnx_models import WORDS, decoder_logits, ids_of


def log_likelihood(context: str, continuation: str) -> float:
    """Of a continuation, from the whole sequence's logits at once."""
    before, ids = ids_of(context)[:-1], ids_of(f"{context} {continuation}")[:-1]
    logs = scipy.special.log_softmax(decoder_logits(ids).astype(np.float64), axis=1)
    return float(sum(logs[at - 1, ids[at]] for at in range(len(before), len(ids))))


def random_items(count: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Multiple-choice rows whose choices differ in length."""
    random = np.random.default_rng(seed)

    def some(words: int) -> str:
        return " ".join(random.choice(WORDS, words))

    return [
        {
            "query": some(int(random.integers(1, 5))),
            "choices": [some(int(random.integers(1, 5))) for _ in range(random.integers(2, 5))],
            "gold": int(random.integers(0, 2)),
        }
        for _ in range(count)
    ]
