"""Whether what a text gets depends on the texts beside it: each alone, and in batches.

Scales of a whole tensor do; with scales per token or by calibration the two are the same but for
the order of sums.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.measure.evaluate.embeddings import unit_embeddings
from edgeprune.measure.record import Batching
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.classify import Classifier
from edgeprune.runtime.logits import softmax

BATCH = 32
"""As clients of a bundle embed an index."""
TEXTS = 256


def measure_batching(place: Path, task: str, texts: Sequence[str]) -> Batching:
    """Agreement of an encoder's answers to texts alone and in batches of BATCH, in their order.

    Args:
        task: feature-extraction or text-classification.
    """
    bundle, some = Bundle.open(place), list(texts[:TEXTS])
    if task == "text-classification":
        classifier = Classifier(bundle)
        alone, together = (softmax(classifier.logits(some, size)) for size in (1, BATCH))
        changes = np.abs(alone - together)
        return Batching(
            batch=BATCH,
            texts=len(some),
            mean_change=float(changes.mean()),
            largest_change=float(changes.max()),
        )
    alone, together = (unit_embeddings(bundle, some, size) for size in (1, BATCH))
    cosines = (alone.astype(np.float64) * together).sum(axis=1)
    return Batching(
        batch=BATCH,
        texts=len(some),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
    )
