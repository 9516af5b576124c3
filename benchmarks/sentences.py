"""Sentence embeddings of a torch encoder, and how well they order STS-B's pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from edgeprune.compress.objectives.embedding import embed
from edgeprune.measure.evaluate.sts import spearman
from edgeprune.model.model import Model
from edgeprune.text.batches import padded
from edgeprune.text.files import read_rows
from edgeprune.text.reader import Reader

BATCH = 64


def pairs(file: Path) -> tuple[list[str], np.ndarray]:
    """The sentences of pairs, all first ones and then all second ones, and people's scores."""
    rows = read_rows(file, ["text", "text_pair", "score"])
    texts = [str(row[side]) for side in ("text", "text_pair") for row in rows]
    return texts, np.array([float(row["score"]) for row in rows])


@torch.no_grad()
def embeddings(model: Model, reader: Reader, texts: Sequence[str]) -> np.ndarray:
    """Vectors of unit length [texts, width]."""
    tokens = reader.encode(texts)
    vectors = np.empty((len(tokens), model.anatomy.hidden_size), np.float32)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i].ids))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = padded([tokens[i] for i in chosen], len(tokens[chosen[-1]].ids), 0)
        mask = torch.from_numpy(batch.attention_mask)
        vectors[chosen] = embed(model.run(batch), mask, model.pooling).numpy()
    return vectors


def sts(vectors: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's correlation, times 100, of the pairs' cosines with people's scores."""
    cosines = (vectors[: len(scores)] * vectors[len(scores) :]).sum(1)
    return 100 * spearman(cosines, scores)
