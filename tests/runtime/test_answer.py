"""Answers in a context, by the rules of transformers 4's pipeline, counted as SQuAD counts them."""

import json

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from other_python import in_clients, needs_clients
from question_models import answerer_folder, questions
from starlette.testclient import TestClient
from tiny_builds import RECIPE, recipe_file
from torchmetrics.functional.text import squad

import edgeprune
from edgeprune.cli import main
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.objectives.settings import LossWeights
from edgeprune.export.opened import open_model
from edgeprune.measure.evaluate.spans import exact, f1, shared, words
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.service.app import make_app
from edgeprune.service.settings import ServiceSettings
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text

LONGEST, STRIDE = 64, 32
ROWS = [*questions(5, seed=1), *questions(2, (90, 120), seed=2)]  # the last two in windows
PAIRS = [(row["question"], row["context"]) for row in ROWS]
WANTED = [
    {},
    {"top_k": 4},
    {"top_k": 3, "handle_impossible_answer": True},
    {"top_k": 5, "max_answer_len": 2},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return answerer_folder(tmp_path_factory.mktemp("answerer") / "hf")


@pytest.fixture(scope="module")
def answerer(folder):
    with open_model(folder) as bundle:
        yield edgeprune.load(bundle, threads=1)


@pytest.fixture(scope="module")
def original(folder):
    """The model and the tokenizer as transformers has them."""
    return (
        transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def _windows(original, question, context):
    """Of each window its encoding and the probabilities of its tokens to be the first and the last
    of an answer, over the context's tokens and the first special one."""
    model, tokenizer = original
    batch = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=LONGEST,
        stride=STRIDE,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    batch.pop("overflow_to_sample_mapping")
    with torch.no_grad():
        answer = model(**batch)
    for number, encoding in enumerate(batch.encodings):
        sides = batch.sequence_ids(number)
        chosen = [0, *(token for token, side in enumerate(sides) if side == 1)]
        ends = []
        for logits in (answer.start_logits[number], answer.end_logits[number]):
            some = logits[chosen].double().softmax(-1)
            ends.append(dict(zip(chosen, some.tolist(), strict=True)))
        yield encoding, ends


def _expected(original, pair, top_k=1, handle_impossible_answer=False, max_answer_len=15):
    """The rules written down again, a part of the context after the other."""
    scores, places, none = {}, {}, np.inf
    for encoding, (first, last) in _windows(original, *pair):
        none = min(none, first[0] * last[0])
        parts = {
            (start, end): first[start] * last[end]
            for start in first
            for end in range(start, min(start + max_answer_len, max(last) + 1))
            if start
        }
        best = sorted(parts, key=parts.get, reverse=True)[: 2 * top_k + 10]
        for start, end in best:
            begin, stop = (
                encoding.word_to_chars(encoding.token_to_word(token), 1) for token in (start, end)
            )
            text = pair[1][begin[0] : stop[1]]
            places.setdefault(text.lower(), (begin[0], stop[1]))
            scores[text.lower()] = scores.get(text.lower(), 0) + parts[start, end]
    found = [(score, *places[text]) for text, score in scores.items()]
    if handle_impossible_answer:
        found.append((none, 0, 0))
    return sorted(found, reverse=True)[:top_k]


@pytest.mark.parametrize("wanted", WANTED)
def test_answers_follow_the_pipelines_rules(answerer, original, wanted):
    found = answerer.answer(PAIRS, **wanted)
    assert len({len(each.encodings) for each in answerer.tokenizer.encode(PAIRS)}) > 1
    for pair, answers in zip(PAIRS, found, strict=True):
        expected = _expected(original, pair, **wanted)
        assert [(one.start, one.end) for one in answers] == [(s, e) for _, s, e in expected]
        assert [one.answer for one in answers] == [pair[1][s:e] for _, s, e in expected]
        scores = [score for score, *_ in expected]
        np.testing.assert_allclose([one.score for one in answers], scores, atol=1e-4)


@needs_clients
def test_answers_are_those_of_transformers_4(folder, answerer, tmp_path):
    code = """
import transformers
pipeline = transformers.pipeline("question-answering", model=given[0], tokenizer=given[0])
found = []
for wanted in given[2]:
    for question, context in given[1]:
        answers = pipeline(question=question, context=context, **wanted)
        found.append(answers if isinstance(answers, list) else [answers])
print(json.dumps(found))
"""
    theirs = in_clients(tmp_path / "pipeline.py", code, str(folder), PAIRS, WANTED)
    mine = [answers for wanted in WANTED for answers in answerer.answer(PAIRS, **wanted)]
    for answers, expected in zip(mine, theirs, strict=True):
        assert [(one.start, one.end, one.answer) for one in answers] == [
            (one["start"], one["end"], one["answer"]) for one in expected
        ]
        scores = [one["score"] for one in expected]
        np.testing.assert_allclose([one.score for one in answers], scores, atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"questions": ["w001"]}, "needs the context that its answer is looked for in"),
        ({"questions": [("w001 " * 40, "w002 " * 40)]}, "is too long beside a context"),
        ({"questions": PAIRS, "top_k": 0}, "top_k must be at least 1"),
        ({"questions": PAIRS, "max_answer_len": 0}, "max_answer_len must be at least 1"),
    ],
)
def test_what_cannot_be_answered_is_refused(answerer, asked, told):
    with pytest.raises(edgeprune.UserError, match=told):
        answerer.answer(**asked)


ANSWERS = [
    ("The cat, sat.", "cat sat down"),
    ("in the year 1990", "1990"),
    ("an apple a day", "Apple day!"),
    ("b b a", "b a a"),
    ("“quoted”", "quoted"),
    ("x", "y"),
]


@pytest.mark.parametrize(("found", "right"), ANSWERS)
def test_scores_are_those_of_squads_script(found, right):
    theirs = squad(
        [{"prediction_text": found, "id": "1"}],
        [{"answers": {"answer_start": [0], "text": [right]}, "id": "1"}],
    )
    assert 100 * f1(found, right) == pytest.approx(float(theirs["f1"]), abs=1e-4)
    assert 100 * exact(found, right) == float(theirs["exact_match"])


def test_scripts_without_blanks_are_counted_by_letters():
    assert words("在1990年，《紅樓夢》。") == ["在", "1990", "年", "紅", "樓", "夢"]
    assert f1("紅樓夢", "《紅樓》") == pytest.approx(4 / 5)
    assert words("東京のTower") == ["東", "京", "の", "tower"]
    assert words("ไป") == ["ไ", "ป"]
    assert words("Straße, schön") == ["straße", "schön"]


def test_an_answer_that_is_none_is_right_as_a_whole():
    assert (f1("", ""), exact("", ""), shared("", "")) == (1, 1, 1)
    assert (f1("", "a word"), f1("word", "the"), shared("", "word")) == (0, 0, 0)
    assert shared("one two three four", "two three") == 0.5
    assert shared("one two three four", "two") == 0.25


@pytest.mark.parametrize("impossible", [False, True])
def test_the_measure_agrees_with_torchmetrics(folder, answerer, tmp_path, impossible):
    rows = questions(9, seed=4)
    rows[0]["answers"]["text"].append(rows[0]["context"])
    rows[0]["answers"]["answer_start"].append(0)
    if impossible:
        rows[1]["answers"] = {"text": [], "answer_start": []}
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    found = edgeprune.evaluate(folder, "spans", data, keep_rows=True)
    said = answerer.answer(
        [(row["question"], row["context"]) for row in rows],
        handle_impossible_answer=impossible,
        max_answer_len=30,
    )
    right = [row for row in range(len(rows)) if rows[row]["answers"]["text"]]
    theirs = squad(
        [{"prediction_text": said[row][0].answer, "id": str(row)} for row in right],
        [{"answers": rows[row]["answers"], "id": str(row)} for row in right],
    )
    kept = found.rows["bundle"]
    assert 100 * np.mean([kept["f1"][row] for row in right]) == pytest.approx(
        float(theirs["f1"]), abs=1e-4
    )
    assert 100 * np.mean([kept["exact_match"][row] for row in right]) == pytest.approx(
        float(theirs["exact_match"]), abs=1e-4
    )
    if impossible:
        assert kept["f1"][1] == float(said[1][0].answer == "")


def test_a_model_gives_its_own_answers_again(folder, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, questions(6, seed=5))))
    found = edgeprune.evaluate(folder, "same_spans", data, against=folder)
    assert found.values == {"half_of_words": 100, "same": 100}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"answers": {"text": ["w1"], "answer_start": [3]}}, "does not stand at answer_start 3"),
        ({"answers": {"text": ["w1"]}}, "does not stand at answer_start None"),
        ({"answers": "w1"}, "must have 'answers' as SQuAD has them"),
        ({}, "must have 'answers' as SQuAD has them"),
        ({"answer": "w1", "answer_start": "0"}, "does not stand at answer_start '0'"),
    ],
)
def test_rows_that_do_not_say_their_answers_are_refused(tmp_path, row, told):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"question": "w2", "context": "w1 w2", **row}))
    with pytest.raises(edgeprune.UserError, match=told):
        open_text(TextSettings(data=(str(data),)), "asked", 0, ())


@pytest.mark.parametrize(
    "row",
    [
        {"answers": {"text": ["b c"], "answer_start": [2]}},
        {"answers": [{"text": "b c", "answer_start": 2}]},
        {"answer": "b c", "answer_start": 2},
    ],
)
def test_every_form_of_answers_is_read(tmp_path, row):
    data = tmp_path / "rows.jsonl"
    whole = {"question": "q", "context": "a b c d"}
    data.write_text("\n".join(map(json.dumps, [whole | row, whole | {"answer": None}])))
    text = open_text(TextSettings(data=(str(data),)), "asked", 0, ())
    assert text.corpus.documents == [("q", "a b c d")] * 2
    assert text.corpus.labels == [[(2, 5)], []]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, [*questions(30, seed=7), *questions(9, (40, 60))])))
    return file


def test_the_objective_is_transformers_loss(folder, data):
    model = import_checkpoint(open_checkpoint(str(folder)))
    settings = TextSettings(data=(str(data),), max_tokens=32, held_out=0.2)
    reader = open_text(settings, "asked", 0, ()).reader(folder)
    objective = objective_of(model)
    weights = LossWeights(logits_weight=0, hidden_weight=0, label_weight=1)
    seen = 0
    for batch in reader.held_out_batches():
        inputs = {name: torch.from_numpy(each) for name, each in batch.inputs.items()}
        starts, ends = torch.from_numpy(batch.labels).T
        with torch.no_grad():
            output = model.run(batch)
            seen += int((starts > 0).sum())
            # transformers counts padding among the tokens that may answer.
            alone = []
            for row, mask in enumerate(batch.attention_mask):
                one = {
                    name: each[row : row + 1, : int(mask.sum())] for name, each in inputs.items()
                }
                right = {"start_positions": starts[[row]], "end_positions": ends[[row]]}
                alone.append(model.module(**one, **right).loss)
            loss = objective.loss(output, output, batch, weights)
        assert float(loss) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-4)
        assert objective.damage(*[objective.answer(output, batch)] * 2) == pytest.approx(
            0, abs=1e-6
        )
    assert seen


def test_labels_are_the_tokens_of_the_answer(folder, data):
    settings = TextSettings(data=(str(data),), max_tokens=32, held_out=0.2)
    text = open_text(settings, "asked", 0, ())
    reader = text.reader(folder)
    known = {
        tuple(reader.tokenizer.encode(context[start:end], add_special_tokens=False).ids)
        for (_, context), [(start, end)] in zip(
            text.held_out.documents, text.held_out.labels, strict=True
        )
    }
    found, windows = set(), 0
    for batch in reader.held_out_batches():
        for ids, (start, end) in zip(batch.input_ids, batch.labels, strict=True):
            windows += 1
            if end:
                found.add(tuple(ids[start : end + 1].tolist()))
    assert found == known  # every answer stands whole in one of the windows
    assert windows > len(text.held_out.documents)


@pytest.fixture(scope="module")
def built(folder, data, tmp_path_factory):
    place = tmp_path_factory.mktemp("built")
    recipe = recipe_file(
        place / "tiny.yaml",
        RECIPE.replace("steps: 6", "steps: 6, label_weight: 1").replace(
            "max_tokens: 16", "max_tokens: 32"
        ),
    )
    words = ["build", recipe, "--model", folder, "--data", data, "--output", place / "out"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return place / "out" / "bundle"


def test_an_answerer_is_built_with_its_measures(built):
    manifest = json.loads((built / "edgeprune.json").read_text())
    assert manifest["task"] == "question-answering"
    found, beside = manifest["stages"][-1]["quality"]
    assert (found["task"], beside["task"]) == ("spans", "same_spans")
    assert found["difference_interval"].keys() == {"f1", "exact_match"}
    assert "model.answer(" in (built / "README.md").read_text()


def test_the_command_and_the_service_answer_as_python(built, tmp_path):
    expected = edgeprune.load(built, threads=1).answer(PAIRS, top_k=2)
    question, context = PAIRS[0]
    given = ["run", str(built), question, "--pair", context, "--top-k", "2", "--json"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)["predictions"]
    assert [one["start"] for one in said] == [one.start for one in expected[0]]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    result = CliRunner().invoke(main, ["run", str(built), "--input", str(file), "--top-k", "2"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    lines = [row["predictions"] for row in rows]
    assert [row["answers"] for row in rows] == [row["answers"] for row in ROWS]
    starts = [[one.start for one in answers] for answers in expected]
    app = make_app(edgeprune.load(built, threads=1), ServiceSettings())
    asked = [{"question": question, "context": context} for question, context in PAIRS]
    with TestClient(app, base_url="http://localhost") as service:
        answered = service.post("/answer", json={"questions": asked, "top_k": 2}).json()["answers"]
        refused = service.post("/answer", json={"questions": [{"question": "w001"}]})
    assert [[one["start"] for one in answers] for answers in lines] == starts
    assert [[one["start"] for one in answers] for answers in answered] == starts
    assert refused.status_code == 400
