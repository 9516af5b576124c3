"""Question answering: MiniLM taught to mark answers, built by the recipe qa, and asked again.

    EDGEPRUNE_DATA=<folder> python benchmarks/qa.py [--work FOLDER] [--table]

MiniLM learns from XQuAD's English questions without the last 300 and from SubjQA, by cross-entropy
of the first and the last token; it is then pruned and quantized on the same questions. Original and
bundle are asked XQuAD's last 300 and PolicyQA: so small a model from so few questions answers
poorly, and how often the bundle gives the original's answers is what counts.

A row is one measure on one set, or the speed; it is a line of JSON in benchmarks/results/qa.jsonl
and is not measured again, so an interrupted run goes on. The trained model and the build are kept
in --work.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from built import build_once, quality_row, speed_row
from finetune import MODEL, train
from results_file import add_result, ratio_text, read_results
from torch import Tensor
from torch.nn import functional

from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.forward import tensors
from edgeprune.text.batches import Batch
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text

RESULTS = Path(__file__).parent / "results" / "qa.jsonl"
RECIPE = "qa"
TRAIN, FURTHER, ASKED = "qa/xquad.en.jsonl", "qa/subjqa_grocery_en.train.jsonl", 300
ANOTHER = "qa/policyqa_en.dev.jsonl"
STEPS, RATE = 900, 2e-4


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks/qa"))
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    given = parser.parse_args()
    if not given.table:
        measure(given.work, Path(os.environ["EDGEPRUNE_DATA"]))
    for name, row in read_results(RESULTS).items():
        print(f"{name}: {told(row)}")


def measure(work: Path, data: Path) -> None:
    """Train, build and measure, each unless it is there."""
    work.mkdir(parents=True, exist_ok=True)
    lines = (data / TRAIN).read_text(encoding="utf-8").splitlines()
    train, asked = work / "train.jsonl", work / "asked.jsonl"
    further = (data / FURTHER).read_text(encoding="utf-8").splitlines()
    train.write_text("\n".join([*lines[:-ASKED], *further]), encoding="utf-8")
    asked.write_text("\n".join(lines[-ASKED:]), encoding="utf-8")
    model = work / "model"
    if not (model / "config.json").exists():
        teach(train, model)
    built = build_once(RECIPE, work / "built", (), ("--model", str(model), "--data", str(train)))
    done = read_results(RESULTS)
    if "speed" not in done:
        add_result(RESULTS, speed_row("speed", built, seconds=40.0))
    for name, place in (("xquad.en, last 300", asked), ("policyqa", data / ANOTHER)):
        for task in ("spans", "same_spans"):
            if f"{task}, {name}" not in done:
                add_result(RESULTS, quality_row(f"{task}, {name}", built, task, place))


def teach(questions: Path, output: Path) -> None:
    """Fine-tune MiniLM on questions, and save it with its tokenizer."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    torch.manual_seed(0)
    source = open_checkpoint(MODEL).folder
    module = AutoModelForQuestionAnswering.from_pretrained(source, trust_remote_code=False)
    corpus = read_corpus([str(questions)], (), form="asked")
    settings = TextSettings(max_tokens=256, batch_tokens=1536)
    reader = Text(corpus, "asked", settings, seed=0).reader(source)
    train(module, reader, TrainSettings(steps=STEPS, learning_rate=RATE), ends_loss)
    module.save_pretrained(output)
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(output)


def ends_loss(module: torch.nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the first token of the answer, and of the last, added up."""
    assert batch.labels is not None
    answer = module(**tensors(batch))
    ends = zip((answer.start_logits, answer.end_logits), batch.labels.T, strict=True)
    each = [functional.cross_entropy(a.float(), torch.from_numpy(b)) for a, b in ends]
    return each[0] + each[1]


def told(row: dict[str, Any]) -> str:
    """A row in words."""
    if "speed" in row:
        [timed] = row["speed"]["measures"].values()
        return ratio_text(timed["ratio"])
    if "original" not in row:
        return ", ".join(f"{name} {value:.2f}" for name, value in row["values"].items())
    ends = row["difference_interval"]
    return ", ".join(
        f"{name} {row['original'][name]:.2f} -> {value:.2f} ({ends[name][0]:+.2f} to "
        f"{ends[name][1]:+.2f})"
        for name, value in row["values"].items()
    )


if __name__ == "__main__":
    main()
