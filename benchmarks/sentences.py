"""Sentence embeddings of a torch encoder, and how well they order STS-B's pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from edgeprune.compress.objectives.embedding import embed
from edgeprune.measure.evaluate.sts import spearman
from edgeprune.model.model import Model
from edgeprune.text.files import read_rows
from edgeprune.text.readers import Reader

BATCH = 64


def pairs(file: Path) -> tuple[list[str], np.ndarray]:
    """The sentences of pairs, all first ones and then all second ones, and people's scores."""
    rows = read_rows(file, ["text", "text_pair", "score"])
    texts = [str(row[side]) for side in ("text", "text_pair") for row in rows]
    return texts, np.array([float(row["score"]) for row in rows])


@torch.no_grad()
def embeddings(model: Model, reader: Reader, texts: Sequence[str]) -> np.ndarray:
    """Vectors of unit length [texts, width]."""
    ids = reader.encode(texts)
    vectors = np.empty((len(ids), model.anatomy.hidden_size), np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        length = len(ids[chosen[-1]])
        padded = torch.tensor([ids[i] + [0] * (length - len(ids[i])) for i in chosen])
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (length - len(ids[i])) for i in chosen])
        output = model.module(input_ids=padded, attention_mask=mask)
        vectors[chosen] = embed(output, mask, model.pooling).numpy()
    return vectors


def sts(vectors: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's correlation, times 100, of the pairs' cosines with people's scores."""
    cosines = (vectors[: len(scores)] * vectors[len(scores) :]).sum(1)
    return 100 * spearman(cosines, scores)
