"""Train MiniLM to score pairs of texts: the reranker that the `reranker` recipe is measured on.

    EDGEPRUNE_DATA=<folder> python benchmarks/finetune_reranker.py [OUTPUT]

Writes a Hugging Face folder (default build/benchmarks/reranker-minilm), and beside it OUTPUT.jsonl,
the pairs with a score of 0 to 1 that it learnt from; prints Spearman's correlation on stsb.dev.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from finetune import MODEL, labelled, train
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.measure.evaluate.sts import spearman
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.text.batches import Batch
from edgeprune.text.corpus import Corpus
from edgeprune.text.files import read_rows
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text

SEED = 0
NEGATIVES = 8
"""Of a query at most, for each of its positive documents."""


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int, default=900)
    given = parser.parse_args()
    output = given.output or Path("build/benchmarks/reranker-minilm")
    found = finetune(Path(os.environ["EDGEPRUNE_DATA"]), output, given.model, given.steps)
    print(f"stsb.dev spearman {found:.2f}")


def finetune(data: Path, output: Path, model: str = MODEL, steps: int = 900) -> float:
    """Train a model on the pairs of EDGEPRUNE_DATA and save it; its correlation on stsb.dev."""
    torch.manual_seed(SEED)
    output.parent.mkdir(parents=True, exist_ok=True)
    file = write_pairs(data, output.with_suffix(".jsonl"))
    source = open_checkpoint(model).folder
    module = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, trust_remote_code=False
    )
    settings = TextSettings(max_tokens=128, batch_tokens=1536, held_out_samples=750)
    reader = Text(scored(file), "scored", settings, SEED).reader(source)
    settings = settings.model_copy(update={"held_out": 0.49})
    train(module, reader, TrainSettings(steps=steps, learning_rate=1e-4), own_loss)
    dev = Text(scored(data / "pairs/stsb.dev.jsonl"), "scored", settings, SEED).reader(source)
    found = correlation(module, dev.held_out_batches())
    module.save_pretrained(output, safe_serialization=True)
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(output)
    return found


def scored(file: Path) -> Corpus:
    """Pairs with their scores."""
    return read_corpus([str(file)], ("LABEL_0",), form="scored")


def own_loss(module: torch.nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy of scores of 0 to 1."""
    logits, scores = labelled(module, batch)
    return functional.binary_cross_entropy_with_logits(logits.float().squeeze(-1), scores.float())


def write_pairs(data: Path, file: Path) -> Path:
    """Every training pair, the scores brought to 0 to 1."""
    rows = [*_graded(data), *_judged(data)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def _graded(data: Path) -> Iterator[dict[str, Any]]:
    """Pairs of like or unlike meaning."""
    for row in read_rows(data / "pairs/stsb.train.jsonl", ["text", "text_pair", "score"]):
        yield _row(row["text"], row["text_pair"], float(row["score"]) / 5)
    for row in read_rows(data / "pairs/sick.train.jsonl", ["text", "text_pair", "score"]):
        yield _row(row["text"], row["text_pair"], (float(row["score"]) - 1) / 4)
    for row in read_rows(data / "pairs/mrpc.train.jsonl", ["text", "text_pair", "label"]):
        yield _row(row["text"], row["text_pair"], float(row["label"]))


def _judged(data: Path) -> Iterator[dict[str, Any]]:
    """Questions with sentences that answer them, and some of those that do not."""
    rng = np.random.default_rng(SEED)
    for row in read_rows(data / "rerank/trecqa.train.jsonl", ["query", "positive", "negative"]):
        for text in row["positive"]:
            yield _row(row["query"], text, 1.0)
        count = min(len(row["negative"]), NEGATIVES * len(row["positive"]))
        for index in rng.permutation(len(row["negative"]))[:count]:
            yield _row(row["query"], row["negative"][index], 0.0)


def _row(text: str, pair: str, score: float) -> dict[str, Any]:
    return {"text": text, "text_pair": pair, "score": round(score, 4)}


@torch.no_grad()
def correlation(module: torch.nn.Module, batches: Sequence[Batch]) -> float:
    """Spearman's, times 100, of the logits with the batches' scores."""
    found, truth = [], []
    for batch in batches:
        assert batch.labels is not None
        found.append(module(**tensors(batch)).logits[:, 0].numpy())
        truth.append(batch.labels)
    return 100 * spearman(np.concatenate(found), np.concatenate(truth))


if __name__ == "__main__":
    main()
