"""What a limit leaves of the data, and intervals that hold the values they belong to."""

import csv
import json
from collections import Counter
from math import ceil, floor
from pathlib import Path

import click.testing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import WORDS, classifier_folder, encoder_folder, write_jsonl

from edgeprune.base import bootstrap as interval
from edgeprune.base.bootstrap import bootstrap
from edgeprune.cli import main
from edgeprune.measure.check.quality import measure_quality
from edgeprune.measure.check.settings import QualityTask
from edgeprune.measure.evaluate.classification import accuracy_and_f1
from edgeprune.measure.evaluate.data import Data, draw
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.result import Quality
from edgeprune.measure.evaluate.summary import summary

RANDOM = np.random.default_rng(0)
NAMES = ("bad", "good", "so-so")
SORTED = [
    {"text": f"{' '.join(RANDOM.choice(WORDS, 4))} {number}", "label": NAMES[label], "lang": lang}
    for label in range(3)
    for lang in ("en", "de")
    for number in range(10 + 20 * label)
]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=60),
    st.data(),
)
def test_a_draw_keeps_every_strata_share(strata, data):
    count = data.draw(st.integers(1, len(strata)))
    rows = draw(strata, count, data.draw(st.integers(0, 99)))
    assert len(set(rows)) == count
    assert rows == sorted(rows)
    taken = Counter(strata[row] for row in rows)
    for stratum, size in Counter(strata).items():
        share = size * count / len(strata)
        assert floor(share) <= taken[stratum] <= ceil(share)


def test_every_row_is_as_likely_as_any_other():
    strata = [(name,) for name in "a" * 3 + "b" * 7 + "c" * 1]
    times = Counter(row for seed in range(4000) for row in draw(strata, 4, seed))
    for row in range(11):
        assert times[row] / 4000 == pytest.approx(4 / 11, abs=0.04)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_limit_draws_of_every_label(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "lang"])
            writer.writeheader()
            writer.writerows(SORTED)
    else:
        write_jsonl(path, SORTED)
    rows = Data(path, limit=18).rows(["text", "label"])
    assert Counter(row["label"] for row in rows) == {"bad": 2, "good": 6, "so-so": 10}
    assert rows == sorted(rows, key=lambda row: SORTED.index(row))
    assert rows == Data(path, limit=18).rows(["text", "label"])
    by_group = Data(path, limit=36, group="lang").rows(["text", "label"])
    assert Counter((row["label"], row["lang"]) for row in by_group) == {
        ("bad", "en"): 2, ("bad", "de"): 2, ("good", "en"): 6, ("good", "de"): 6,
        ("so-so", "en"): 10, ("so-so", "de"): 10,
    }  # fmt: skip
    whole = Data(path, limit=len(SORTED))
    assert len(whole.rows(["text"])) == len(SORTED)
    assert whole.sample is None


def test_a_limit_without_labels_draws_of_all_rows(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(f"line {number}" for number in range(90)))
    data = Data(tmp_path / "t.txt", limit=30)
    numbers = [int(row["text"].split()[1]) for row in data.texts()]
    assert len(numbers) == 30
    assert np.mean(numbers) == pytest.approx(44.5, abs=10)
    assert data.sample is not None
    assert data.sample.by == ()


def test_the_table_says_what_was_drawn(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", SORTED)
    model = classifier_folder(tmp_path / "m", NAMES)
    command = ["evaluate", str(model), "--task", "classification", "--data", str(path)]
    command += ["--limit", "50"]
    runner = click.testing.CliRunner()
    printed = runner.invoke(main, [*command, "--group", "lang"]).stdout
    assert "50 of 180 rows, drawn by seed 0, by lang and label" in printed
    assert max(map(len, printed.splitlines())) <= 80 + len(str(tmp_path))
    result = json.loads(runner.invoke(main, [*command, "--json", "-"]).stdout)
    expected = {"taken": 50, "of": 180, "unit": "rows", "seed": 0, "by": ["label"]}
    assert result["sample"] == expected


def test_both_models_and_the_gate_read_the_same_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", SORTED)
    model = classifier_folder(tmp_path / "m", NAMES)
    found = evaluate(model, "classification", path, limit=30, against=model)
    assert found.difference == {"accuracy": 0, "macro_f1": 0}
    task = QualityTask(task="classification", data=str(path), limit=30)
    from edgeprune.runtime.bundle import Bundle

    kept = measure_quality(task, Bundle.open(model), None)
    assert kept is not None
    assert kept.values == found.values


def test_texts_that_hold_none_are_not_drawn(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ["", " ", *(f"the cat {i}" for i in range(20))]]
    folder = encoder_folder(tmp_path / "m")
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    result = evaluate(folder, "cosine", path, limit=15, against=folder)
    assert result.conditions == {"texts": 15}
    assert result.sample.of == 20


# intervals -------------------------------------------------------------------------------------

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=60)


def classified(truth: np.ndarray, found: np.ndarray) -> Quality:
    scores = {"label": truth, "found": found}
    return Quality(
        scores, accuracy_and_f1(scores), {}, strata="label", aggregate_of=accuracy_and_f1
    )


@settings(max_examples=60)
@given(pairs)
def test_an_interval_holds_its_own_value(drawn: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interval, "RESAMPLES", 300)
        found = summary(classified(*np.array(drawn).T))
    for name, (low, high) in found.interval.items():
        assert low - 1e-9 <= found.values[name] <= high + 1e-9, name


def test_classes_that_are_only_found_lower_every_resample() -> None:
    """Twenty classes that no row has, each found once: their F1 of 0 counts in every resample."""
    truth = np.repeat([0, 1], 100)
    found = truth.copy()
    found[::10] = np.arange(20) + 2
    result = summary(classified(truth, found))
    low, high = result.interval["macro_f1"]
    assert result.values["macro_f1"] == pytest.approx(100 * 2 * (180 / 190) / 22)
    assert low < result.values["macro_f1"] < high < 10


def test_macro_f1s_interval_is_scikit_learns_of_the_same_resamples() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    utils = pytest.importorskip("sklearn.utils")
    random = np.random.default_rng(2)
    truth = random.choice(5, 120, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    found = np.where(random.random(120) < 0.7, truth, random.integers(0, 7, 120))
    classes = np.union1d(truth, found)
    values = []
    for seed in range(1000):
        rows = utils.resample(np.arange(120), stratify=truth, random_state=seed)
        f1 = metrics.f1_score(
            truth[rows], found[rows], labels=classes, average="macro", zero_division=0
        )
        values.append(100 * f1)
    low, high = summary(classified(truth, found)).interval["macro_f1"]
    expected = np.percentile(values, [2.5, 97.5])
    assert [low, high] == pytest.approx(list(expected), abs=0.1 * float(np.ptp(expected)))


def test_a_resample_has_as_many_of_each_stratum() -> None:
    strata = np.array([3, 1, 3, 3, 1, 7])
    seen: list[np.ndarray] = []

    def statistic(rows: np.ndarray) -> dict[str, float]:
        seen.append(rows)
        return {"count": float(len(rows))}

    rows = np.array([10, 11, 12, 13, 14, 15])
    bootstrap(statistic, rows, strata)
    kinds = dict(zip(rows.tolist(), strata.tolist(), strict=True))
    for drawn in seen:
        assert Counter(kinds[row] for row in drawn.tolist()) == {3: 3, 1: 2, 7: 1}
    assert {row for drawn in seen for row in drawn.tolist()} == set(rows.tolist())


def test_a_groups_classes_are_its_own() -> None:
    truth, found = np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0])
    rows = np.array([0, 1])
    assert summary(classified(truth, found), rows=rows).values["macro_f1"] == 100
