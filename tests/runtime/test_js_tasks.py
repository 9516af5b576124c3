"""transformers.js runs bundles of every task by its pipelines, and answers as transformers does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_python import in_node, needs_node

from edgeprune import runtime

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = ["weather", "sport", "law"]

SCRIPT = """
const [place, task, rows, labels] = given;
const options = { dtype: "fp32", device: "cpu", local_files_only: true };
const asked = [];
if (task === "text-ranking") {
    const model = await t.AutoModelForSequenceClassification.from_pretrained(place, options);
    const tokenizer = await t.AutoTokenizer.from_pretrained(place);
    for (const row of rows) {
        const beside = { text_pair: [row.text_pair], truncation: true };
        const output = await model(await tokenizer([row.text], beside));
        asked.push(output.logits.tolist()[0]);
    }
} else {
    const pipeline = await t.pipeline(task, place, options);
    const more = { "zero-shot-classification": [labels], "text-classification": [{ top_k: null }] };
    for (const row of rows) {
        const texts = "question" in row ? [row.question, row.context] : [row.text];
        asked.push(await pipeline(...texts, ...(more[task] ?? [])));
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
    return None, model.logits([(row["text"], row["text_pair"])])[0]


def of_labels(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [found] = model.classify([row["text"]])
    ranked = sorted(found.probabilities.items(), key=lambda each: -each[1])
    return [label for label, _ in ranked], [score for _, score in ranked]


def of_tags(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [found] = model.tag([row["text"]], aggregation="none")
    return [each.label for each in found], [each.score for each in found]


def end_of(answer: str) -> str:
    """Its last letters: transformers.js writes an answer's pieces and not the context's words, so
    that spaces, capitals and the beginning of a word may differ."""
    return "".join(answer.lower().split())[-4:]


def of_questions(model: Any, row: dict[str, Any]) -> tuple[Any, Any]:
    [[best]] = model.answer([(row["question"], row["context"])])
    return end_of(best.answer), [best.score]


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
        lambda found: (end_of(found["answer"]), [found["score"]]),
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


@needs_node
@pytest.mark.parametrize("task", TOLD)
def test_its_pipeline_answers_as_the_runtime(task, built, tmp_path) -> None:
    folder, rows = built(task)
    ours, theirs = TOLD[task]
    if task == "fill-mask":  # its pipeline fills the first of several
        rows = [row for row in rows if row["text"].count("[MASK]") == 1]
    model = runtime.load(folder)
    assert rows
    answers = in_node(tmp_path / "run.mjs", SCRIPT, str(folder), task, rows, LABELS)
    for row, found in zip(rows, answers, strict=True):
        (words, numbers), (said, scores) = ours(model, row), theirs(found)
        assert said == words
        np.testing.assert_allclose(scores, numbers, atol=1e-4)
