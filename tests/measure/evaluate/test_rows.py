"""What works by rows for every measure: intervals, differences, groups; and rows' sources."""

import functools
import json
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import scipy.special
import scipy.stats
from choice_items import random_items
from onnx_models import (
    WORDS,
    answerer_folder,
    classifier_folder,
    decoder_folder,
    decoder_logits,
    encoder_folder,
    filler_folder,
    ids_of,
    tagger_folder,
    write_jsonl,
)

from edgeprune.base import bootstrap as interval
from edgeprune.base.bootstrap import bootstrap
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.measure.check.quality import POINTS
from edgeprune.measure.evaluate.measures import MEASURES, evaluate
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Evaluation, Quality, percentages
from edgeprune.measure.evaluate.summary import by_group, summary, worst

RANDOM = np.random.default_rng(0)
GROUPS = ("en", "de", "zh")


def some(words: int) -> str:
    return " ".join(RANDOM.choice(WORDS, words))


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"lang": GROUPS[number % 3]} for number, row in enumerate(rows)]


LABELLED = [{"text": some(2), "label": int(RANDOM.integers(0, 3))} for _ in range(30)]
TEXTS = [{"text": some(9)} for _ in range(30)]
ASKED = [{"question": some(3), "context": some(9), "answer": some(1)} for _ in range(30)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "sts": [{"text": some(3), "text_pair": some(3), "score": i % 5} for i in range(30)],
    "cosine": TEXTS,
    "retrieval": TEXTS,
    "classification": LABELLED,
    "calibration": LABELLED,
    "perplexity": TEXTS,
    "kl": TEXTS,
    "choice": random_items(30),
    "cloze": [{"context": some(4), "continuation": some(1)} for _ in range(30)],
    "generation": random_items(30),
    "vectors": TEXTS,
    "mixing": TEXTS,
    "multilabel": [
        {"text": some(2), "labels": RANDOM.permutation(3)[: i % 3].tolist()} for i in range(30)
    ],
    "correlation": [{"text": some(2), "text_pair": some(1), "score": i % 7} for i in range(30)],
    "ranking": [
        {"query": some(2), "positive": [some(2)], "negative": [some(3) for _ in range(4)]}
        for _ in range(30)
    ],
    "spans": ASKED,
    "same_spans": ASKED,
    "masked": TEXTS,
    "masked_kl": TEXTS,
    "entities": [
        {"tokens": some(4).split(), "tags": ["O", "B-PER", "I-PER", "O"]} for _ in range(30)
    ],
}
FOLDERS = {
    "feature-extraction": encoder_folder,
    "text-classification": classifier_folder,
    "multi-label-classification": functools.partial(
        classifier_folder, problem_type="multi_label_classification"
    ),
    "text-ranking": functools.partial(classifier_folder, labels=("score",)),
    "text-generation": decoder_folder,
    "token-classification": tagger_folder,
    "fill-mask": filler_folder,
    "question-answering": answerer_folder,
}


def arguments(task: str, folder: Path) -> dict[str, Any]:
    """What `evaluate` needs for a measure, besides data, with a model of its kind."""
    measure = MEASURES[task]
    model = FOLDERS[measure.tasks[0]](folder)
    found: dict[str, Any] = {"bundle": model, "task": task}
    if measure.against_original:
        found["against"] = model
    if measure.options:
        found["window"] = 12
    return found


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what says nothing of an interval's ends."""
    monkeypatch.setattr(interval, "RESAMPLES", 50)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("task", list(MEASURES))
def test_a_groups_values_are_those_of_its_rows_alone(tmp_path: Path, task: str) -> None:
    given = arguments(task, tmp_path / "m")
    rows = grouped(ROWS[task])
    data = write_jsonl(tmp_path / "all.jsonl", rows)
    result = evaluate(data=data, group="lang", **given)
    assert sorted(result.groups) == sorted(GROUPS)
    assert next(iter(result.values)) in POINTS  # the gate knows its scale
    whole = evaluate(data=data, **given)
    if not MEASURES[task].options:  # windows are cut within a group
        assert result.values == whole.values
        assert result.interval == whole.interval
        assert sum(each.rows for each in result.groups.values()) == 30
    for name in GROUPS:
        values = result.groups[name].values
        if task in ("retrieval", "vectors", "mixing"):  # neighbours come from all groups
            continue
        own = write_jsonl(tmp_path / f"{name}.jsonl", [r for r in rows if r["lang"] == name])
        assert values == pytest.approx(evaluate(data=own, **given).values), name
    for key, name in result.worst.items():
        by_badness = [each.values[key] for each in result.groups.values()]
        pick = max if key in LOWER_IS_BETTER else min
        assert result.groups[name].values[key] == pick(by_badness)
    assert set(result.worst) == set(result.values)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("task", ["sts", "cosine", "perplexity"])
def test_a_result_that_was_read_is_the_one_that_was_written(tmp_path: Path, task: str) -> None:
    """Whatever was asked for; what was not asked for is not written."""
    given = {"against": tmp_path / "m", **arguments(task, tmp_path / "m")}
    data = write_jsonl(tmp_path / "all.jsonl", grouped(ROWS[task]))
    limit = 3 if MEASURES[task].options else 9  # windows of each group, or rows
    whole = evaluate(data=data, group="lang", limit=limit, keep_rows=True, **given)
    plain = evaluate(data=data, **arguments(task, tmp_path / "m"))
    for result in (whole, plain):
        written = json.dumps(result.to_json(), allow_nan=False)
        read = Evaluation.from_json(json.loads(written), tmp_path / "r.json", "")
        assert read == result
        assert json.dumps(read.to_json()) == written
    asked = {"group", "groups", "worst", "rows", "sample"}
    assert asked <= whole.to_json().keys()
    assert not asked & plain.to_json().keys()
    assert None not in plain.to_json().values()


@pytest.mark.usefixtures("few_resamples")
def test_every_name_of_which_less_is_better_is_measured(tmp_path: Path) -> None:
    names: set[str] = set()
    for task in MEASURES:
        data = write_jsonl(tmp_path / f"{task}.jsonl", ROWS[task])
        names |= set(evaluate(data=data, **arguments(task, tmp_path / task)).values)
    assert names >= LOWER_IS_BETTER


def quality(right: list[float], groups: list[str] | None = None) -> Quality:
    return Quality({"accuracy": np.array(right)}, percentages, {}, groups)


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(1).exponential(size=150)
    found = bootstrap(lambda rows: {"mean": float(values[rows].mean())}, np.arange(150))["mean"]
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=0
    ).confidence_interval
    width = expected.high - expected.low
    assert found[0] == pytest.approx(expected.low, abs=0.08 * width)
    assert found[1] == pytest.approx(expected.high, abs=0.08 * width)


def test_undefined_resamples_are_left_out() -> None:
    values = np.array([1.0, np.nan, 2.0])
    found = bootstrap(
        lambda rows: {"some": float(values[rows].mean()), "none": float("nan")}, np.arange(3)
    )
    assert list(found) == ["some"]
    assert 1 <= found["some"][0] <= found["some"][1] <= 2


def test_a_difference_is_paired() -> None:
    """What both models find hard widens neither: nine rows lost of 400 is a sure loss, however
    wide the interval of the accuracy."""
    random = np.random.default_rng(0)
    original = (random.random(400) < 0.5).astype(float)
    ours = original.copy()
    ours[np.flatnonzero(original)[:9]] = 0
    found = summary(quality(list(ours)), quality(list(original)))
    low, high = found.difference_interval["accuracy"]
    assert found.difference["accuracy"] == pytest.approx(-2.25)
    # The difference is a mean of nine -1 and 391 0.
    spread = 100 * np.std(ours - original) / np.sqrt(400)
    assert low == pytest.approx(-2.25 - 1.96 * spread, abs=0.4)
    assert high == pytest.approx(-2.25 + 1.96 * spread, abs=0.4)
    assert high < 0
    wide = found.interval["accuracy"]
    assert wide[1] - wide[0] > 3 * (high - low)


def test_rows_that_are_no_pairs_have_no_interval() -> None:
    assert summary(quality([1, 0, 1]), quality([1, 0])).difference_interval == {}
    assert summary(quality([1]), quality([0])).difference_interval == {}


def test_the_worst_group_and_the_largest_loss_need_not_be_one() -> None:
    groups = ["a", "a", "b", "b"]
    found = by_group(quality([0, 0, 1, 0], groups), quality([0, 0, 1, 1], groups))
    assert worst({name: each.values for name, each in found.items()}) == {"accuracy": "a"}
    assert worst({name: each.difference for name, each in found.items()}) == {"accuracy": "b"}
    assert found["b"].difference == {"accuracy": -50}
    assert list(found["b"].to_json())[:2] == ["rows", "values"]


def test_a_group_that_leaves_a_value_undefined_takes_no_part(tmp_path: Path) -> None:
    rows = [dict(row, lang="same", score=1) for row in ROWS["sts"][:4]]
    rows += [dict(row, lang="other") for row in ROWS["sts"][4:]]
    data = write_jsonl(tmp_path / "r.jsonl", rows)
    result = evaluate(encoder_folder(tmp_path / "m"), "sts", data, group="lang")
    assert result.groups["same"].values == {"spearman": None}
    assert result.worst == {"spearman": "other"}
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("opens", [True, False])
@pytest.mark.parametrize("stride", [1, 3, 5, 10, 11])
def test_strided_perplexity_predicts_a_token_once(tmp_path: Path, stride: int, opens: bool) -> None:
    text = some(40)
    (tmp_path / "t.txt").write_text(text)
    ids, given = ids_of(text)[1:-1], [1] if opens else []
    length = 12 - len(given)
    starts = range(0, 40 - length + 1, stride)
    logs: dict[int, float] = {}
    for start in starts:  # the first window that can predict a token does
        window = [*given, *ids[start : start + length]]
        log_p = scipy.special.log_softmax(decoder_logits(window).astype(np.float64), axis=1)
        for at in range(12 - 1):
            logs.setdefault(start + at + 1 - len(given), float(log_p[at, window[at + 1]]))
    folder = decoder_folder(tmp_path / "m", opens)
    result = evaluate(folder, "perplexity", tmp_path / "t.txt", window=12, stride=stride)
    assert result.conditions == {
        "windows": len(starts),
        "window_tokens": 12,
        **({"opening_tokens": 1} if opens else {}),
        "stride_tokens": stride,
        "predicted_tokens": len(logs),
    }
    expected = -np.mean(list(logs.values()))
    assert result.values["nats_per_token"] == pytest.approx(expected, rel=1e-5)


def test_requests_that_make_no_sense(tmp_path: Path) -> None:
    decoder, encoder = decoder_folder(tmp_path / "d"), encoder_folder(tmp_path / "e")
    texts = write_jsonl(tmp_path / "t.jsonl", grouped(TEXTS))
    (tmp_path / "t.txt").write_text("the cat")
    for given, sentence in (
        ({"bundle": decoder, "task": "perplexity", "window": 8, "stride": 9}, "leaves some"),
        (
            {"bundle": decoder, "task": "kl", "stride": 9, "against": decoder},
            "does not use --stride",
        ),
        (
            {"bundle": decoder, "task": "perplexity", "stride": 0},
            "must be at least 1, not 0",
        ),
        ({"bundle": decoder, "task": "cosine"}, "name it with --against"),
        ({"bundle": encoder, "task": "calibration"}, "text-classification and text-generation"),
        ({"bundle": encoder, "task": "cosine", "against": encoder, "group": "area"}, "'area'"),
    ):
        with pytest.raises(UserError, match=sentence):
            evaluate(data=texts, **given)
    with pytest.raises(UserError, match=r"neither \.jsonl nor \.csv"):
        evaluate(encoder, "cosine", tmp_path / "t.txt", against=encoder, group="lang")
    long = write_jsonl(tmp_path / "u.jsonl", [*grouped(TEXTS), {"text": "cat", "lang": "short"}])
    with pytest.raises(UserError, match=r"u\.jsonl: short has 2 tokens"):
        evaluate(decoder, "perplexity", long, window=12, group="lang")


def test_fields_by_the_datas_own_names(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    rows = grouped(ROWS["sts"])
    plain = evaluate(folder, "sts", write_jsonl(tmp_path / "a.jsonl", rows))
    renamed = [
        {"sentence1": row["text"], "sentence2": row["text_pair"], "label": row["score"]}
        for row in rows
    ]
    fields = {"text": "sentence1", "text_pair": "sentence2", "score": "label"}
    data = write_jsonl(tmp_path / "b.jsonl", renamed)
    assert evaluate(folder, "sts", data, fields=fields).values == plain.values
    with pytest.raises(UserError, match="no field 'sentence3'"):
        evaluate(folder, "sts", data, fields=fields | {"text": "sentence3"})


@pytest.mark.usefixtures("few_resamples")
def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = grouped(ROWS["sts"])
    asked = []

    def load(name: str, configuration: str | None, split: str) -> Any:
        asked.append((name, configuration, split))
        return datasets.Dataset.from_list(rows[:20] if split == "validation" else rows)

    splits = {"owner/pairs": ["train", "validation"], "owner/odd": ["odd"]}
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, _: splits[name])
    folder = encoder_folder(tmp_path / "m")
    found = evaluate(folder, "sts", "owner/pairs", group="lang")
    part = evaluate(folder, "sts", write_jsonl(tmp_path / "r.jsonl", rows[:20]))
    assert found.data == "owner/pairs:validation"
    assert found.values == part.values
    named = evaluate(folder, "sts", "owner/pairs:pairs-en:train", limit=7)
    assert named.conditions == {"pairs": 7}
    assert named.data == "owner/pairs:pairs-en:train"
    both = evaluate(folder, "cosine", "owner/pairs:train", against=folder)
    assert both.conditions == {"texts": 2 * len(rows)}  # of each pair
    assert asked == [
        ("owner/pairs", None, "validation"),
        ("owner/pairs", "pairs-en", "train"),
        ("owner/pairs", None, "train"),
    ]
    for name, task, sentence in (
        ("owner/odd", "sts", "the splits odd: name one of them, owner/odd:odd"),
        ("owner/none", "sts", "could not be loaded as a dataset"),
        ("owner/pairs:train", "classification", "a row has no field 'label'; they have text"),
    ):
        model = folder if task == "sts" else classifier_folder(tmp_path / "c")
        with pytest.raises(UserError, match=sentence):
            evaluate(model, task, name)


def shown(*given: Any) -> str:
    result = click.testing.CliRunner().invoke(main, ["evaluate", *map(str, given)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.usefixtures("few_resamples")
def test_the_command_shows_groups_and_keeps_rows(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "r.jsonl", grouped(ROWS["choice"]))
    model = decoder_folder(tmp_path / "m")
    given = (model, "--task", "choice", "--data", data, "--against", model, "--group", "lang")
    printed = shown(*given)
    result = json.loads(shown(*given, "--rows", "--json", "-"))
    group = result["worst"]["acc"]
    value = result["groups"][group]["values"]["acc"]
    assert f"worst acc: {value:.4g}, {group}" in printed
    assert "+0 to +0" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert len(result["rows"]["original"]["acc_norm"]) == 30
    assert 100 * np.mean(result["rows"]["bundle"]["acc"]) == pytest.approx(result["values"]["acc"])
    renamed = shown(model, "--task", "cloze", "--data", data, "--field", "context=query",
                    "--field", "continuation=lang")  # fmt: skip
    assert "accuracy" in renamed


def test_the_help_names_every_measure() -> None:
    words = shown("--help").replace(",", " ").replace(";", " ").replace(".", " ").split()
    assert set(MEASURES) <= set(words)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("task", ["classification", "cosine", "perplexity", "entities"])
def test_languages_are_groups_by_the_field_or_the_script(tmp_path: Path, task: str) -> None:
    given = arguments(task, tmp_path / "m")
    rows = grouped(ROWS[task])
    data = write_jsonl(tmp_path / "named.jsonl", rows)
    found = evaluate(data=data, languages=True, **given)
    by_field = evaluate(data=data, group="lang", **given)
    assert found.group == "language"
    assert found.groups == by_field.groups
    assert (found.worst, found.values) == (by_field.worst, by_field.values)
    plain = write_jsonl(tmp_path / "plain.jsonl", ROWS[task])
    assert set(evaluate(data=plain, languages=True, **given).groups) == {"Latin"}
    with pytest.raises(UserError, match="--languages groups rows by language"):
        evaluate(data=data, languages=True, group="lang", **given)


def test_scripts_of_a_text_file_and_those_that_fill_no_window(tmp_path: Path) -> None:
    lines = [some(9) for _ in range(10)] + ["а б в г", "д е"]
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-8")
    encoder, decoder = encoder_folder(tmp_path / "e"), decoder_folder(tmp_path / "d")
    found = evaluate(encoder, "cosine", tmp_path / "t.txt", against=encoder, languages=True)
    assert {name: each.rows for name, each in found.groups.items()} == {"Latin": 10, "Cyrillic": 2}
    windows = evaluate(decoder, "perplexity", tmp_path / "t.txt", window=12, languages=True)
    assert set(windows.groups) == {"Latin"}
    assert windows.conditions["languages_left_out"] == 1
