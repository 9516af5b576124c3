"""Decoders that rank by a word, beside sentence-transformers and the decoder itself."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from onnx_models import write_jsonl
from paired_models import pairs
from tiny_builds import RECIPE, recipe_file
from tokenizers import Tokenizer
from verdict_models import PROMPT, verdict_folder

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.text.pair_template import PairTemplate, read_pair_template, taken_apart
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text

PAIRS = [*pairs(6), ("what is it?", " The end.\n"), ("", ""), ("Grüße\n", "{{ x }}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return verdict_folder(tmp_path_factory.mktemp("verdict") / "model")


def expected_scores(folder: Path, texts: list[tuple[str, str]]) -> np.ndarray:
    """By sentence-transformers itself."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(texts, show_progress_bar=False)


def test_the_score_is_the_probability_of_yes_beside_no(folder) -> None:
    """Of the decoder as transformers runs it, text and all."""
    decoder = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = json.loads((folder / "1_LogitScore/config.json").read_text())
    model = import_checkpoint(open_checkpoint(str(folder)))
    template = read_pair_template(model.folder)
    for query, document in PAIRS:
        said = zip(("system", "query", "document"), (PROMPT, query, document), strict=True)
        messages = [{"role": role, "content": text} for role, text in said]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert template.joined((query, document)) + template.after == text
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = decoder(ids).logits[0, -1]
            found = model.module(ids).logits[0, 0]
        expected = logits[tokens["true_token_id"]] - logits[tokens["false_token_id"]]
        assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("family", "options"),
    [("Qwen3", {}), ("Mistral", {"no": False, "tied": False}), ("Llama", {"tied": False})],
)
def test_a_bundle_answers_as_sentence_transformers(family, options, tmp_path) -> None:
    model = verdict_folder(tmp_path / "model", family, **options)
    rows = [
        {"text": query, "text_pair": document, "score": number / 40}
        for number, (query, document) in enumerate(pairs(40))
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    text = "{max_tokens: 200, batch_tokens: 512, held_out: 0.2}"
    steps = [line for line in RECIPE.splitlines() if line.startswith(("measure", "quantize"))]
    recipe = recipe_file(tmp_path / "r.yaml", "\n".join([f"text: {text}", *steps]))
    options = ["--model", model, "--data", data, "--output", tmp_path / "out"]
    result = CliRunner().invoke(main, list(map(str, ["build", recipe, *options])))
    assert result.exit_code == 0, result.output
    ranker, small = (runtime.load(tmp_path / "out" / name) for name in ("original", "bundle"))
    assert ranker.bundle.task == small.bundle.task == "text-ranking"
    texts = [*PAIRS, ("cat " * 3, "a long one " * 400)]  # beyond the model's 256 tokens
    np.testing.assert_allclose(ranker.score(texts), expected_scores(model, texts), atol=1e-5)
    assert ranker.bundle.cut_texts == 1
    assert np.corrcoef(small.score(texts), ranker.score(texts))[0, 1] > 0.95
    listed = json.loads((tmp_path / "out" / "bundle" / "modules.json").read_text())
    assert [each["path"] for each in listed] == [""]  # its graph gives scores
    blocks = re.findall(
        r"```python\n(.*?)```", (small.bundle.folder / "README.md").read_text(), re.S
    )
    names = {"folder": str(small.bundle.folder)}
    for block in (blocks[2], blocks[-1]):  # of the texts around a pair, and of the runtime alone
        exec(block, names)
    [[logit]] = small.logits([("A query", "A document")])
    assert float(names["logits"][0, 0]) == pytest.approx(float(logit), abs=1e-5)
    with pytest.raises(UserError, match="was given a single text: give both"):
        ranker.score(["alone"])


def test_training_reads_what_the_model_reads_when_it_runs(folder, tmp_path) -> None:
    model = import_checkpoint(open_checkpoint(str(folder)))
    rows = [{"text": q, "text_pair": d, "score": n} for n, (q, d) in enumerate(pairs(20))]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = {"data": str(data), "max_tokens": 160, "batch_tokens": 512}
    text = open_text(TextSettings(**settings), "scored", 0, ["LABEL_0"])
    reader = text.reader(model.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    template = read_pair_template(model.folder)
    pair = ("the cat", "word " * 200)
    [short, long] = reader.encode([("the cat", "a dog"), pair])
    assert tokenizer.decode(short.ids) == template.joined(("the cat", "a dog")) + template.after
    end = tokenizer(template.after, add_special_tokens=False).input_ids
    whole = tokenizer(template.joined(pair), add_special_tokens=False).input_ids
    assert long.ids == whole[: 160 - len(end)] + end
    small = open_text(TextSettings(**settings | {"max_tokens": 16}), "scored", 0, ["LABEL_0"])
    with pytest.raises(UserError, match=r"around a pair has \d+ tokens, and 16 are the most"):
        small.reader(model.folder).encode([pair])
    recipe = recipe_file(tmp_path / "r.yaml", "text: {max_tokens: 16}")
    words = ["build", recipe, "--model", folder, "--data", data, "--dry-run"]
    told = CliRunner().invoke(main, list(map(str, words)))
    assert told.exit_code == 2
    assert "tokens, and 16 are the most here" in " ".join(told.output.split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config.json": {"final_logit_softcapping": 30.0}}, "final_logit_softcapping bends"),
        ({"config.json": {"architectures": ["Qwen3Model"]}}, "name a class that does"),
        ({"1_LogitScore/config.json": {"true_token_id": 9999}}, "by the token 9999, and has"),
        ({"1_LogitScore/config.json": {"true_token_id": "yes"}}, "must be tokens' numbers"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, words, folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    for name, settings in change.items():
        file = tmp_path / "m" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(UserError, match=words):
        open_checkpoint(str(tmp_path / "m"))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}",
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "{{ messages[2].content }} answers {{ messages[1].content }}",
    ],
)
def test_other_templates_are_refused(template, tmp_path) -> None:
    with pytest.raises(UserError, match="does not put the messages of the roles query and"):
        open_checkpoint(str(verdict_folder(tmp_path / "m", template=template)))


def test_an_end_that_runs_into_the_document_is_no_template(folder) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parts = PairTemplate("<Query>: ", "\n<Document>: ", "<|im_end|>\n")
    assert taken_apart(lambda q, d: parts.joined((q, d)) + parts.after, tokenizer) == parts
    assert taken_apart(lambda q, d: f"{q} and {d}there", tokenizer) is None
