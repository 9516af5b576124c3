"""Masked tokens, as transformers' pipeline fills them and its loss counts them."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from onnx_models import write_jsonl
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from tiny_builds import RECIPE, WORDS, model_folder, recipe_file, sentence_lines

import edgeprune
from edgeprune.cli import main
from edgeprune.compress.cut.vocabulary import _write_assets, kept_rows, trim_model
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.export.opened import open_model
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import save_model
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings
from edgeprune.text.masks import drawn, mask_token
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text

TEXTS = [
    "w001 [MASK] w003 w99w w005",
    "[MASK] w010",
    "w001 w002 [MASK] w004 [MASK] w006 w007 xyz [MASK]",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("filler") / "hf", "bert-filler", pieces=True)


@pytest.fixture(scope="module")
def filler(folder):
    with open_model(folder) as bundle:
        yield edgeprune.load(bundle, threads=1)


@pytest.fixture(scope="module")
def pipeline(folder):
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)


def _same(masks, expected):
    expected = expected if isinstance(expected[0], list) else [expected]
    assert len(masks) == len(expected)
    for fills, wanted in zip(masks, expected, strict=True):
        keys = ("token", "token_str", "sequence")
        assert [tuple(getattr(fill, key) for key in keys) for fill in fills] == [
            tuple(each[key] for key in keys) for each in wanted
        ]
        scores = [each["score"] for each in wanted]
        np.testing.assert_allclose([fill.score for fill in fills], scores, atol=1e-4)


@pytest.mark.parametrize("top_k", [1, 5, 500])
def test_fills_are_those_of_transformers(filler, pipeline, top_k):
    answers = filler.fill(TEXTS, top_k=top_k)
    assert [len(masks) for masks in answers] == [1, 1, 3]
    for text, masks in zip(TEXTS, answers, strict=True):
        _same(masks, pipeline(text, top_k=min(top_k, len(WORDS) + 4)))


def test_targets_are_the_only_words_that_fill(filler, pipeline, capsys):
    targets = ["w020", "w003", "w020", "w99w"]  # the last is no token, and begins with one
    for text, masks in zip(TEXTS, filler.fill(TEXTS, targets=targets), strict=True):
        _same(masks, pipeline(text, targets=targets))
    assert "no token is 'w99w': 'w'" in capsys.readouterr().err
    assert {fill.token_str for fill in masks[0]} == {"w020", "w003", "w"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"texts": ["w001 w002"]}, r"The text masks nothing.*write \[MASK\] where"),
        ({"texts": [TEXTS[0], "w001"]}, "Text 2 of 2 masks nothing"),
        ({"texts": ["w001 " * 70 + "[MASK]"]}, "masks nothing that the model reads"),
        ({"texts": TEXTS, "top_k": 0}, "top_k must be at least 1"),
        ({"texts": TEXTS, "targets": [""]}, "no token for any of"),
    ],
)
def test_what_cannot_be_filled_is_refused(filler, asked, told):
    with pytest.raises(edgeprune.UserError, match=told):
        filler.fill(**asked)


@pytest.mark.parametrize("lengths", [[5], [0, 1, 3, 4, 10, 17, 20]])
def test_fifteen_percent_of_a_texts_own_tokens_are_drawn(lengths):
    for length in lengths:
        own = np.array([False, *[True] * length, False, False])
        places = drawn(own, np.random.default_rng(length))
        assert len(set(places)) == min(length, max(1, round(0.15 * length)))
        assert own[places].all()
    seeds = [drawn([True] * 40, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_each_text_of_a_pair_is_measured(folder, tmp_path):
    lines = sentence_lines(6)
    pairs = [
        {"text": one, "text_pair": two, "lang": lang}
        for one, two, lang in zip(lines[::2], lines[1::2], ["en", "de", "en"], strict=True)
    ]
    files = [write_jsonl(tmp_path / "pairs.jsonl", pairs), tmp_path / "lines.txt"]
    files[1].write_text("\n".join(lines))
    found, expected = (edgeprune.evaluate(folder, "masked", file) for file in files)
    assert (found.values, found.conditions) == (expected.values, expected.conditions)
    named = [{"sentence1": row["text"], "sentence2": row["text_pair"]} for row in pairs]
    other = edgeprune.evaluate(folder, "masked", write_jsonl(tmp_path / "named.jsonl", named))
    assert other.values == expected.values
    first = {"text": "sentence1"}
    alone = edgeprune.evaluate(folder, "masked", tmp_path / "named.jsonl", fields=first)
    assert alone.conditions["texts"] == 3
    by_language = edgeprune.evaluate(folder, "masked", files[0], group="lang").groups
    assert {name: each.rows for name, each in by_language.items()} == {"de": 2, "en": 4}


def test_the_measure_agrees_with_transformers_loss(folder, tmp_path):
    data = tmp_path / "text.txt"
    lines = [*sentence_lines(9), " ".join(WORDS[:100])]  # the last is beyond the model's 64 tokens
    data.write_text("\n".join(lines))
    found = edgeprune.evaluate(folder, "masked", data, keep_rows=True)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    nats, right, count = 0.0, 0, 0
    for line in lines:
        cut = {"truncation": True, "max_length": 64, "return_special_tokens_mask": True}
        batch = tokenizer(line, return_tensors="pt", **cut)
        own = batch.pop("special_tokens_mask")[0].numpy() == 0
        ids = batch["input_ids"]
        places = drawn(own, np.random.default_rng([0, *ids[0].tolist()]))
        labels = torch.full_like(ids, -100)
        labels[0, places] = ids[0, places]
        ids[0, places] = tokenizer.mask_token_id
        with torch.no_grad():
            answer = model(**batch, labels=labels)
        nats += float(answer.loss) * len(places)
        right += int((answer.logits[0, places].argmax(-1) == labels[0, places]).sum())
        count += len(places)
    assert found.conditions == {"texts": 10, "masked_tokens": count}
    assert found.values["masked_perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-4)
    assert found.values["accuracy"] == pytest.approx(100 * right / count)
    low, high = found.interval["masked_perplexity"]
    assert low < found.values["masked_perplexity"] < high


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("built")
    (place / "text.txt").write_text("\n".join(sentence_lines()))
    recipe = recipe_file(
        place / "tiny.yaml", RECIPE.replace("steps: 6", "steps: 6, label_weight: 1")
    )
    words = ["build", recipe, "--model", folder, "--data", place / "text.txt"]
    result = CliRunner().invoke(main, [str(word) for word in [*words, "--output", place / "out"]])
    assert result.exit_code == 0, result.output
    return place / "out" / "bundle"


def test_a_filler_is_built_with_its_measures(built):
    manifest = json.loads((built / "edgeprune.json").read_text())
    assert manifest["task"] == "fill-mask"
    found, beside = manifest["stages"][-1]["quality"]
    assert found["task"] == "masked"
    assert found["difference_interval"].keys() == {"accuracy", "masked_perplexity"}
    assert beside["task"] == "masked_kl"
    assert beside["values"]["kl_nats_per_token"] > 0
    [plan] = [each["plan"] for each in manifest["stages"] if each["name"] == "quantize"]
    [head] = [each for each in plan["entries"] if each["name"] == "cls.predictions.decoder"]
    assert head["tied_to"] == "bert.embeddings.word_embeddings"
    assert "model.fill(" in (built / "README.md").read_text()


def test_the_command_and_the_service_answer_as_python(built):
    expected = edgeprune.load(built, threads=1).fill(TEXTS, top_k=2)
    result = CliRunner().invoke(main, ["run", str(built), TEXTS[0], "--json", "--top-k", "2"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["fills"]
    assert [one["token"] for one in said[0]] == [one.token for one in expected[0][0]]
    app = make_app(edgeprune.load(built, threads=1), ServiceSettings())
    with TestClient(app, base_url="http://localhost") as service:
        answered = service.post("/fill", json={"texts": TEXTS, "top_k": 2}).json()["fills"]
        among = {"texts": TEXTS[:1], "targets": ["w020", "w003"]}
        [[fills]] = service.post("/fill", json=among).json()["fills"]
        refused = service.post("/fill", json={"texts": ["w001"]})
    assert [[[one["token"] for one in fills] for fills in masks] for masks in answered] == [
        [[one.token for one in fills] for fills in masks] for masks in expected
    ]
    assert {one["token_str"] for one in fills} == {"w020", "w003"}
    assert refused.status_code == 400
    assert "write [MASK] where" in refused.json()["error"]


def test_the_objective_is_transformers_loss_of_masked_tokens(folder, tmp_path):
    data = tmp_path / "text.txt"
    data.write_text("\n".join([*sentence_lines(20), " ".join(WORDS[:100])]))
    model = import_checkpoint(open_checkpoint(str(folder)))
    settings = TextSettings(data=(str(data),), max_tokens=16, batch_tokens=64, held_out=0.4)
    reader = open_text(settings, "masked", 0).reader(folder)
    objective = objective_of(model)
    weights = LossWeights(logits_weight=0, hidden_weight=0, label_weight=1)
    for batch in [*reader.held_out_batches(), next(reader.batches())]:
        labels = torch.from_numpy(batch.labels)
        assert ((labels != -100) == objective.counted(batch)).all()
        with torch.no_grad():
            output = model.run(batch)
            theirs = model.run(batch, labels=labels).loss
        loss = objective.loss(output, output, batch, weights)
        assert float(loss) == pytest.approx(float(theirs), rel=1e-4)
        assert len(objective.answer(output, batch)) == int((labels != -100).sum())


def test_a_long_text_goes_on_in_windows_and_masks_change_from_pass_to_pass(folder, tmp_path):
    data = tmp_path / "text.txt"
    line = " ".join(WORDS[:100])
    data.write_text(f"{line}\n{line}\nw001 w002")
    settings = TextSettings(data=(str(data),), max_tokens=16, batch_tokens=4096, held_out=0.4)
    text = open_text(settings, "masked", 0)
    reader, mask = text.reader(folder), 130
    batches = reader.batches()
    first, again = next(batches), next(batches)
    documents = sum(document == line for document in text.train.documents)
    assert len(first.input_ids) == documents * (100 // 14)  # beside [CLS] and [SEP]; 2 are too few
    whole = np.where(first.labels == -100, first.input_ids, first.labels)
    assert not (whole == mask).any()
    assert (first.input_ids == mask).sum() == (first.labels != -100).sum()
    order, other = (
        np.argsort([tuple(row) for row in each.input_ids[:, 1:2]], axis=0).ravel()
        for each in (first, again)
    )
    assert not np.array_equal(first.labels[order] != -100, again.labels[other] != -100)
    calibration = reader.calibration(4, lambda texts: np.zeros((len(texts), 1)))
    assert all((batch.input_ids == mask).any(axis=1).all() for batch in calibration)


def test_texts_of_few_tokens_are_refused(folder, tmp_path):
    data = tmp_path / "text.txt"
    data.write_text("w001 w002\nw003 w004 w005\nw006 w007")
    text = open_text(TextSettings(data=(str(data),)), "masked", 0)
    with pytest.raises(edgeprune.UserError, match="no text of 4 tokens or more"):
        text.reader(folder).held_out_batches()


def test_a_head_that_is_not_there_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    kept = {name: each for name, each in weights.items() if not name.startswith("cls.")}
    save_file(kept, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        edgeprune.UserError, match=r"no cls\.predictions\.transform\.dense.*BertModel"
    ):
        import_checkpoint(open_checkpoint(str(tmp_path / "hf")))


@pytest.mark.parametrize("where", ["tokenizer_config.json", "special_tokens_map.json", "", "no"])
def test_the_token_that_masks_is_the_models_own(folder, tmp_path, where):
    shutil.copytree(folder, tmp_path / "hf")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    if where == "no":
        file = tmp_path / "hf" / "tokenizer.json"
        file.write_text(file.read_text().replace("[MASK]", "[GAP]"))
        with pytest.raises(edgeprune.UserError, match="no token that stands for a masked one"):
            mask_token(tmp_path / "hf")
        return
    if where:
        stated = json.loads((tmp_path / "hf" / where).read_text()) if "config" in where else {}
        stated["mask_token"] = {"content": "w007"} if "map" in where else "w007"
        (tmp_path / "hf" / where).write_text(json.dumps(stated))
    token, number = mask_token(tmp_path / "hf")
    assert token == ("w007" if where else "[MASK]")
    assert number == (transformers.AutoTokenizer.from_pretrained(folder).get_vocab()[token])


def test_a_trimmed_vocabulary_fills_as_the_original_among_what_is_left(folder, tmp_path):
    lines = sentence_lines(12)
    data = tmp_path / "text.txt"
    data.write_text("\n".join(lines))
    model = import_checkpoint(open_checkpoint(str(folder)))
    content = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    used = {token for ids in tokenizer(lines[:6])["input_ids"] for token in ids}
    kept = kept_rows(model, content, used)
    assert 130 in kept  # the mask
    assert len(kept) < 131
    trim_model(model, kept)
    save_model(model, tmp_path / "trimmed")
    _write_assets(tmp_path / "trimmed", content, kept)
    found = edgeprune.evaluate(tmp_path / "trimmed", "masked_kl", data, against=folder)
    assert found.values["kl_nats_per_token"] == pytest.approx(0, abs=1e-6)
    assert found.values["same_top_token"] == 100
    with pytest.raises(edgeprune.UserError, match="take masked_kl"):
        edgeprune.evaluate(tmp_path / "trimmed", "masked", data, against=folder)
