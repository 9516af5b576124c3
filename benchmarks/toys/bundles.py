"""Bundles that are built of toys, and how far what they answer is from what was expected."""

import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import transformers as t
from click.testing import CliRunner

from toys.answers import Answer, Row
from toys.vocabularies import sentences
from toys.ways import Way

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))

from without_measuring import leave_out_measuring

import edgeprune
from edgeprune.cli import main
from edgeprune.export.rewrite.verify import complete_feed, outputs_of
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle

TOLERANCE = 1e-4
"""The largest difference of a number that float32 answers may have."""
_RECIPE = """
name: usage
text: {max_tokens: 48, batch_tokens: 512, held_out: 0.2, held_out_samples: 16}
measure: {tokens: 16, seconds: 0.1, launches: 1, profile: false, curve: [], stages: false}
"""


@dataclass(frozen=True)
class Built:
    """A bundle that was built."""

    folder: Path
    rounding: float
    """The drift that its INT8 pass states; 0 where there is none."""


def built(model: Path, way: Way, output: Path, quantize: str | None, quick: bool) -> Built:
    """`edgeprune build` of a model, and the bundle that it leaves."""
    output.mkdir()
    data, recipe = output / "data.jsonl", output / "recipe.yaml"
    rows = [way.learnt(number, text) for number, text in enumerate(sentences())]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe.write_text(f"{_RECIPE}{quantize or ''}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            leave_out_measuring(patch)
        bundle = edgeprune.build(model, data, recipe, output=output / "out")
    stages = bundle.manifest["stages"]
    passes = next(stage["passes"] for stage in stages if stage["name"] == "rewrite")
    return Built(bundle.folder, max((one["rounding"] or 0.0 for one in passes), default=0.0))


def answered(bundle: Built, way: Way, rows: Sequence[Row]) -> list[Answer]:
    """`edgeprune run` on the rows."""
    given, made = bundle.folder.parent / "asked.jsonl", bundle.folder.parent / "answers.jsonl"
    given.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ["run", bundle.folder, "--input", given, "--output", made, *way.options]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    if done.exit_code:
        raise AssertionError(done.output.strip().splitlines()[-1])
    lines = made.read_text(encoding="utf-8").splitlines()
    return [way.told(json.loads(line)) for line in lines]


def far(expected: Sequence[Answer], found: Sequence[Answer]) -> float:
    """The largest difference of a number, where everything else is the same.

    Raises:
        AssertionError: something else is not.
    """
    largest = 0.0
    for (words, numbers), (own, values) in zip(expected, found, strict=True):
        if words != own:
            raise AssertionError(f"float32 answers {own!r:.100}, transformers {words!r:.100}")
        largest = max(largest, float(np.abs(numbers - values).max(initial=0.0)))
    return largest


def drift(model: Path, way: Way, bundle: Built, rows: Sequence[Row]) -> float:
    """How far a bundle's outputs lie from torch's, ||a - b|| / ||a|| over all rows."""
    opened = Bundle.open(bundle.folder)
    task = TASKS[opened.task]
    module = way.read(model, task.loader)
    reads = inspect.signature(module.forward).parameters
    tokenizer = t.AutoTokenizer.from_pretrained(model)
    session = ort.InferenceSession(str(opened.model_path), providers=["CPUExecutionProvider"])
    apart, size = 0.0, 0.0
    for row in rows:
        pair = [row[name] for name in ("text", "text_pair", "question", "context") if name in row]
        inputs = tokenizer(*pair, return_tensors="pt")
        inputs = {name: each for name, each in inputs.items() if name in reads}
        with torch.no_grad():
            output = module(**inputs)
        feed = complete_feed(session, {name: each.numpy() for name, each in inputs.items()})
        made = outputs_of(session, feed)
        for name in task.outputs:
            right = output[name].numpy()
            apart += float(np.square(made[name] - right).sum())
            size += float(np.square(right).sum())
    return (apart / size) ** 0.5
