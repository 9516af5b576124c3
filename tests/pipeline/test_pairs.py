"""Pairs of texts from rows to answers, beside transformers: token types reach every part."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from paired_models import pair_folder, pairs, write_pairs
from tiny_builds import recipe_file

from edgeprune import runtime
from edgeprune.cli import main
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import torch_outputs
from edgeprune.export.rewrite.verify import largest_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import save_model
from edgeprune.text.batches import Batch, text_by_text
from edgeprune.text.corpus import Corpus
from edgeprune.text.reader import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import Text

LONGEST = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return pair_folder(tmp_path_factory.mktemp("pairs") / "model")


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return import_checkpoint(open_checkpoint(str(folder)))


def reader_of(folder: Path, **options: bool) -> Reader:
    settings = TextSettings(max_tokens=LONGEST, batch_tokens=64)
    corpus = Corpus("made", pairs(), [number % 3 for number in range(60)])
    return Text(corpus, "labelled", settings, 0).reader(folder, **options)


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Ids and types of each text, without padding."""
    types = batch.token_type_ids
    assert types is not None
    return [
        (batch.input_ids[row, mask == 1].tolist(), types[row, mask == 1].tolist())
        for row, mask in enumerate(batch.attention_mask)
    ]


def test_batches_have_the_tokens_that_transformers_gives(folder):
    """Pairs beyond the limit too: the longer text is cut first."""
    reader = reader_of(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    theirs = tokenizer(*zip(*pairs(), strict=True), truncation=True, max_length=LONGEST)
    assert max(map(len, theirs["input_ids"])) == LONGEST
    expected = set(
        zip(map(tuple, theirs["input_ids"]), map(tuple, theirs["token_type_ids"]), strict=True)
    )
    held = reader.held_out_batches()
    drawn = [*reader.calibration(100, lambda texts: np.zeros(0)), *held]
    found = [(tuple(ids), tuple(types)) for batch in drawn for ids, types in rows_of(batch)]
    assert len(found) == 59  # the last one is measured
    assert set(found) < expected
    for batch in islice(reader.batches(), 9):
        assert {(tuple(ids), tuple(types)) for ids, types in rows_of(batch)} < expected
    [one, *_] = text_by_text(held)
    assert rows_of(one)[0] == rows_of(held[0])[0]


def test_a_tokenizer_that_tells_no_types_gives_none(folder):
    untold = reader_of(folder, typed=False)
    assert all(batch.token_type_ids is None for batch in untold.held_out_batches())


def test_types_reach_torch_the_walk_and_both_graphs(folder, model, tmp_path):
    batches = reader_of(folder).calibration(12, lambda texts: np.zeros(0))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    for batch in batches:
        given = {name: torch.from_numpy(values) for name, values in batch.inputs.items()}
        with torch.no_grad():
            expected = theirs(**given, output_hidden_states=True)
            torch.testing.assert_close(model.run(batch).logits, expected.logits)
            del given["token_type_ids"]
            assert (model.run(given).logits - expected.logits).abs().max() > 0.1
        walk = Walk(model, [batch])
        for block in model.anatomy.blocks:
            walk.advance(block)
        last = expected.hidden_states[-1][torch.from_numpy(batch.attention_mask).bool()]
        torch.testing.assert_close(walk.states()[0], last, rtol=1e-4, atol=1e-5)
    feeds = [batch.inputs for batch in batches]
    save_model(model, tmp_path / "stage")
    assert largest_drift(
        torch_outputs(model, feeds), run_graph(emitted(tmp_path / "stage"), feeds)
    ) < 1e-5  # fmt: skip
    export_onnx(model, tmp_path)
    assert "token_type_ids" in emitted(tmp_path / "stage").inputs


@pytest.mark.parametrize(
    ("family", "typed"),
    [
        ("deberta-v2-classifier", True),
        ("electra-classifier", True),
        ("distilbert-classifier", False),
        ("mpnet-classifier", False),
        ("roberta-classifier", True),
    ],
)
def test_families_with_and_without_types(family, typed, tmp_path):
    """A type that the model does not know goes no further than the model's door."""
    folder = pair_folder(tmp_path / "hf", family)
    model = import_checkpoint(open_checkpoint(str(folder)))
    save_model(model, tmp_path / "stage")
    assert model.reads_token_types is typed
    [batch, *_] = reader_of(folder).held_out_batches()
    kept = {name: torch.from_numpy(values) for name, values in batch.inputs.items()}
    if not typed:
        del kept["token_type_ids"]
    with torch.no_grad():
        torch.testing.assert_close(model.run(batch).logits, model.module(**kept).logits)
    feeds = [batch.inputs]
    graph = emitted(tmp_path / "stage")
    assert largest_drift(torch_outputs(model, feeds), run_graph(graph, feeds)) < 1e-5
    assert ("token_type_ids" in graph.inputs) is typed


def test_a_build_on_pairs_answers_as_transformers(folder, tmp_path):
    names = {"text": "premise", "text_pair": "hypothesis"}
    data = write_pairs(tmp_path / "nli.jsonl", **names)
    recipe, out = recipe_file(tmp_path / "tiny.yaml"), tmp_path / "out"
    words = ["build", recipe, "--model", folder, "--data", data, "--output", out]
    words += ["--set", "measure.task=classification", "--set", f"measure.data={data}"]
    built = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert built.exit_code == 0, built.stderr
    assert "60 pairs of texts" in built.stderr + built.stdout
    manifest = json.loads((out / "bundle" / "edgeprune.json").read_text())
    quality = {each["data"]: each for each in manifest["stages"][-1]["quality"]}
    assert quality["held-out text"]["conditions"]["texts"] == 6
    theirs = transformers.pipeline("text-classification", str(folder), top_k=None)
    asked = [*pairs(12), "w001 w002 w003"]
    found = runtime.load(out / "original").classify(asked)
    for pair, mine in zip(asked, found, strict=True):
        texts = (pair,) if isinstance(pair, str) else pair
        given = dict(zip(("text", "text_pair"), texts, strict=False))
        for each in theirs(given):
            assert mine.probabilities[each["label"]] == pytest.approx(each["score"], abs=1e-4)
    said = [
        CliRunner().invoke(main, ["run", str(out / "original"), *map(str, words)]).stdout
        for words in (
            [pairs()[0][0], "--pair", pairs()[0][1], "--json"],
            ["--input", data],
            ["--input", data, "--field", "text=hypothesis", "--field", "text_pair=premise"],
        )
    ]
    one, *_ = (json.loads(line) for line in said[0].splitlines())
    assert (one["text"], one["text_pair"]) == pairs()[0]
    assert one["probabilities"] == pytest.approx(found[0].probabilities)
    lines = [json.loads(line) for line in said[1].splitlines()]
    assert lines[0]["probabilities"] == pytest.approx(found[0].probabilities, abs=1e-6)
    turned = json.loads(said[2].splitlines()[0])
    assert turned["probabilities"] != pytest.approx(found[0].probabilities, abs=1e-3)
