"""Classifiers of tokens, as transformers' pipeline and seqeval have them."""

import json

import numpy as np
import pytest
import transformers
from click.testing import CliRunner
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from starlette.testclient import TestClient
from tiny_builds import RECIPE, WORDS, model_folder, recipe_file
from tiny_models import TAGS

import edgeprune
from edgeprune.cli import main
from edgeprune.export.opened import open_model
from edgeprune.measure.evaluate.entities import spans
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings

LONGEST = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = model_folder(tmp_path_factory.mktemp("tagger") / "hf", "bert-tagger", pieces=True)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    model.classifier.weight.data *= 10  # sure of its labels, which differ from token to token
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tagger(folder):
    with open_model(folder) as bundle:
        yield edgeprune.load(bundle, threads=1)


def _texts(*lengths, seed=0):
    """Words of which some are whole tokens, some are in pieces and some are unknown."""
    rng = np.random.default_rng(seed)
    known = [*WORDS[:20], "w99w", "00w1", "w001w002", "xyz"]
    return [" ".join(rng.choice(known, length)) for length in lengths]


def _rows(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"tokens": text.split(), "tags": rng.choice(TAGS, len(text.split())).tolist()}
        for text in _texts(*lengths, seed=seed)
    ]


def _pipeline(folder, how, stride=None):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = LONGEST
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    return transformers.pipeline(
        "token-classification",
        model=model,
        tokenizer=tokenizer,
        aggregation_strategy=how,
        stride=stride,
    )


def _same(found, expected):
    assert [(one.start, one.end, one.label) for one in found] == [
        (one["start"], one["end"], one.get("entity_group", one.get("entity"))) for one in expected
    ]
    scores = [one["score"] for one in expected]
    np.testing.assert_allclose([one.score for one in found], scores, atol=1e-4)


@pytest.mark.parametrize("how", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_transformers(folder, tagger, how):
    texts = _texts(1, 9, 14)
    answers = tagger.tag(texts, how)
    assert len({one.label for found in answers for one in found}) > 1
    for found, expected in zip(answers, _pipeline(folder, how)(texts), strict=True):
        _same(found, expected)


@pytest.mark.parametrize("how", ["simple", "average"])
def test_a_long_text_is_read_in_windows(folder, tagger, how):
    [text] = _texts(90)
    [found] = tagger.tag([text], how)
    assert found[-1].end > len(text) // 2
    [tokens] = tagger.tokenizer.encode([text])
    assert len(tokens.encodings) > 2
    _same(found, _pipeline(folder, how, tagger.tokenizer.stride)(text))


def test_an_unknown_aggregation_is_refused(tagger):
    with pytest.raises(edgeprune.UserError, match="take one of none, simple, first"):
        tagger.tag(["w001"], "mean")


@pytest.mark.parametrize(
    "labels",
    [
        ["B-A", "I-A", "I-B", "O", "I-A", "B-A", "B-A"],
        ["S-A", "S-A", "B-A", "E-A", "I-A", "E-A", "E-A"],
        ["I-A", "I-A", "O", "I-B-C", "I-B-C"],
        ["O"],
        *[
            np.random.default_rng(n).choice([*TAGS, "E-PER", "S-LOC"], 12).tolist()
            for n in range(20)
        ],
    ],
)
def test_spans_are_those_of_seqeval(labels):
    assert spans(labels) == set(get_entities(labels))


def test_the_measure_agrees_with_seqeval_and_torch(folder, tmp_path):
    rows = _rows(3, 7, 70, 12, seed=3)
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    found = edgeprune.evaluate(folder, "entities", data, keep_rows=True)
    one_each = _pipeline(folder, "first", LONGEST // 4)
    one_each.model.config.id2label = {n: f"B-{n}" for n in range(len(TAGS))}
    predicted = []
    for row in rows:
        text, at = " ".join(row["tokens"]), np.cumsum([0, *(len(w) + 1 for w in row["tokens"])])
        labels = {one["start"]: TAGS[int(one["entity_group"])] for one in one_each(text)}
        predicted.append([labels[start] for start in at[:-1]])
    # Long texts are read in windows that share tokens, short ones have a single window.
    short = [n for n, row in enumerate(rows) if len(row["tokens"]) < 20]
    truth = [row["tags"] for row in rows]
    for measure, score in (
        ("f1", f1_score),
        ("precision", precision_score),
        ("recall", recall_score),
    ):
        kept = [found.rows["bundle"][name] for name in ("right", "found", "true")]
        right, guessed, true = (sum(counts[n] for n in short) for counts in kept)
        mine = {"f1": 2 * right / (guessed + true), "precision": right / guessed}
        mine["recall"] = right / true
        expected = score([truth[n] for n in short], [predicted[n] for n in short])
        assert mine[measure] == pytest.approx(expected)
        assert 0 < expected < 1
    low, high = found.interval["f1"]
    assert low <= found.values["f1"] <= high


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "a tag for each of the 2 tokens"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "must be a list of words"),
        ({"tokens": ["a b"], "tags": ["O"]}, "is not one word"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "the label 'B-ORG' is none of the model's 5"),
        ({"text": "a", "tags": ["O"]}, "no field 'tokens'"),
    ],
)
def test_rows_that_are_not_tagged_words_are_refused(folder, tmp_path, row, told):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row))
    with pytest.raises(edgeprune.UserError, match=told):
        edgeprune.evaluate(folder, "entities", data)


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("built")
    data = place / "rows.jsonl"
    rows = _rows(*np.random.default_rng(0).integers(2, 9, 60), seed=1)
    numbered = [
        {"tokens": row["tokens"], "ner_tags": [TAGS.index(tag) for tag in row["tags"]]}
        for row in rows
    ]
    data.write_text("\n".join(map(json.dumps, numbered)))
    recipe = recipe_file(
        place / "tiny.yaml", RECIPE.replace("steps: 6", "steps: 6, label_weight: 1")
    )
    words = ["build", recipe, "--model", folder, "--data", data, "--field", "tags=ner_tags"]
    result = CliRunner().invoke(main, [str(word) for word in [*words, "--output", place / "out"]])
    assert result.exit_code == 0, result.output
    return place / "out" / "bundle"


def test_a_tagger_is_built_with_its_measure(built):
    manifest = json.loads((built / "edgeprune.json").read_text())
    assert manifest["task"] == "token-classification"
    [quality] = manifest["stages"][-1]["quality"]
    assert quality["task"] == "entities"
    assert quality["difference_interval"].keys() == {"f1", "precision", "recall"}
    assert "model.tag(" in (built / "README.md").read_text()


def test_the_command_and_the_service_answer_as_python(built):
    texts = _texts(8, 5)
    expected = edgeprune.load(built, threads=1).tag(texts)
    result = CliRunner().invoke(main, ["run", str(built), texts[0], "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["entities"]
    assert [one["label"] for one in said] == [one.label for one in expected[0]]
    app = make_app(edgeprune.load(built, threads=1), ServiceSettings())
    with TestClient(app, base_url="http://localhost") as service:
        answered = service.post("/tag", json={"texts": texts}).json()["entities"]
    assert [[one["start"] for one in some] for some in answered] == [
        [one.start for one in some] for some in expected
    ]
