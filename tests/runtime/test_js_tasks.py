"""transformers.js runs bundles of every task by its pipelines or models, and answers as ours do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_python import in_node, needs_node

from edgeprune import runtime
from edgeprune.runtime.batches import run_batches
from edgeprune.runtime.names import PER_TOKEN

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = ["weather", "sport", "law"]

SCRIPT = """
const [place, task, rows, labels] = given;
const options = { dtype: "fp32", device: "cpu", local_files_only: true };
const asked = [];
const loaders = {
    "text-ranking": t.AutoModelForSequenceClassification,
    "question-answering": t.AutoModelForQuestionAnswering,
};
if (task in loaders) {
    const model = await loaders[task].from_pretrained(place, options);
    const tokenizer = await t.AutoTokenizer.from_pretrained(place);
    for (const row of rows) {
        const beside = { text_pair: [row.text_pair ?? row.context], truncation: true };
        const output = await model(await tokenizer([row.text ?? row.question], beside));
        const names = "logits" in output ? ["logits"] : ["start_logits", "end_logits"];
        asked.push(names.map((name) => output[name].tolist()[0]));
    }
} else {
    const pipeline = await t.pipeline(task, place, options);
    const more = { "zero-shot-classification": [labels], "text-classification": [{ top_k: null }] };
    for (const row of rows) {
        asked.push(await pipeline(row.text, ...(more[task] ?? [])));
    }
}
console.log(JSON.stringify(asked));
"""


@pytest.fixture
def built(monkeypatch, tmp_path) -> Callable[[str], tuple[Path, list[dict[str, Any]]]]:
    """A toy of a task as a bundle in float32, and rows to ask it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from toys import bundles
    from toys.models import make_model
    from toys.ways import ways

    def make(task: str) -> tuple[Path, list[dict[str, Any]]]:
        [way, *_] = ways("distilbert", task)
        model = make_model("distilbert", way.head, way.saved, tmp_path / "model")
        made = bundles.built(model, way, tmp_path / "out", None, True)
        return made.folder, list(way.rows(model))[:6]

    return make


def of_pairs(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    return None, model.logits([(row["text"], row["text_pair"])])


def of_labels(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [found] = model.classify([row["text"]])
    ranked = sorted(found.probabilities.items(), key=lambda each: -each[1])
    return [label for label, _ in ranked], [score for _, score in ranked]


def of_tags(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [found] = model.tag([row["text"]], aggregation="none")
    return [each.label for each in found], [each.score for each in found]


def of_questions(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    """Logits: its pipeline seeks among them by rules of its own, without a longest answer."""
    encoded = model.tokenizer.encode([(row["question"], row["context"])])
    [(_, values, _)] = run_batches(model.session, model.tokenizer, PER_TOKEN, encoded)
    return None, values[0].T


def of_masks(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [masks] = model.fill([row["text"]])
    fills = masks[0]
    return [each.token for each in fills], [each.score for each in fills]


def of_other_labels(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [found] = model.zero_shot([row["text"]], LABELS)
    return list(found.labels), list(found.scores)


TOLD: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "text-ranking": (of_pairs, lambda found: (None, found)),
    "text-classification": (
        of_labels,
        lambda found: ([each["label"] for each in found], [each["score"] for each in found]),
    ),
    "token-classification": (
        of_tags,
        lambda found: ([each["entity"] for each in found], [each["score"] for each in found]),
    ),
    "question-answering": (
        of_questions,
        lambda found: (None, found),
    ),
    "fill-mask": (
        of_masks,
        lambda found: ([each["token"] for each in found], [each["score"] for each in found]),
    ),
    "zero-shot-classification": (
        of_other_labels,
        lambda found: (found["labels"], found["scores"]),
    ),
}


def with_one_mask(text: str) -> str:
    before, mask, after = text.partition("[MASK]")
    return before + mask + after.replace("[MASK]", "it")


@needs_node
@pytest.mark.parametrize("task", TOLD)
def test_its_pipeline_answers_as_the_runtime(task, built, tmp_path) -> None:
    folder, rows = built(task)
    ours, theirs = TOLD[task]
    if task == "fill-mask":  # its pipeline fills the first of several
        rows = [{"text": with_one_mask(row["text"])} for row in rows]
    model = runtime.load(folder)
    answers = in_node(tmp_path / "run.mjs", SCRIPT, str(folder), task, rows, LABELS)
    for row, found in zip(rows, answers, strict=True):
        (words, numbers), (said, scores) = ours(model, row), theirs(found)
        assert said == words
        np.testing.assert_allclose(scores, numbers, atol=1e-4)
