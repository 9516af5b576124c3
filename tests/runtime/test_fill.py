"""Masked tokens, as transformers' pipeline fills them and its loss counts them."""

import json

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from starlette.testclient import TestClient
from tiny_builds import RECIPE, WORDS, model_folder, recipe_file, sentence_lines

import edgeprune
from edgeprune.cli import main
from edgeprune.export.opened import open_model
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings
from edgeprune.text.masks import drawn

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
