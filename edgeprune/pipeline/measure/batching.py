"""Whether what a text gets depends on the texts beside it: each alone, and in batches.

Scales of a whole tensor do; with scales per token or by calibration the two are the same but for
the order of sums.
"""

from pathlib import Path

import numpy as np

from edgeprune import runtime
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.embeddings import unit_embeddings
from edgeprune.measure.record import Batching
from edgeprune.runtime.bundle import Bundle
from edgeprune.text.pairs import FIELDS, document_of

BATCH = 32
"""As clients of a bundle embed an index."""
TEXTS = 256


def embeddings_alone(place: Path, original: Path, held: Path) -> Batching:
    """Agreement of embeddings of held-out texts alone and in batches of BATCH, in their order."""
    bundle, texts = Bundle.open(place), _texts(held)
    alone, together = (unit_embeddings(bundle, texts, size) for size in (1, BATCH))
    cosines = (alone.astype(np.float64) * together).sum(axis=1)
    return Batching(
        batch=BATCH,
        texts=len(texts),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
    )


def predictions_alone(place: Path, original: Path, held: Path) -> Batching:
    """Agreement of the probabilities of labels, or of scores, likewise."""
    model = runtime.load(place)
    texts = [document_of(row, held) for row in Data(held).rows(["text"], FIELDS)][:TEXTS]
    alone, together = (model.values(texts, size) for size in (1, BATCH))
    changes = np.abs(alone - together)
    return Batching(
        batch=BATCH,
        texts=len(texts),
        mean_change=float(changes.mean()),
        largest_change=float(changes.max()),
    )


def _texts(held: Path) -> list[str]:
    return [row["text"] for row in Data(held).texts()][:TEXTS]
