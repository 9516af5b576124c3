"""The benchmark of prompt lookup: which answers loop, and the mean of the others."""

import math
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def lookup(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import lookup

    return lookup


@pytest.mark.parametrize("period", [1, 2, 7, 16])
def test_a_text_that_repeats_to_its_end_loops(lookup, period):
    looping = [5, 6, 7, *(list(range(period)) * 60)]
    assert lookup.loops(looping)
    assert lookup.loops(looping[:-1])
    assert not lookup.loops([*looping, 99])
    assert not lookup.loops(looping[-47:])  # too short to tell


def test_a_longer_period_is_none(lookup):
    assert not lookup.loops(list(range(17)) * 6)
    assert not lookup.loops(list(range(100)))


def test_the_mean_is_geometric(lookup):
    answers = [{"faster": 4.0, "loops": False}, {"faster": 1.0, "loops": True}] * 8
    found = lookup.speed_of(answers)
    assert (found["answers"], found["least"]) == (16, 1.0)
    assert found["ratio"]["value"] == pytest.approx(2.0)
    assert 1.0 < found["ratio"]["low"] < 2.0 < found["ratio"]["high"] < 4.0
    assert math.isclose(found["ratio"]["low"] * found["ratio"]["high"], 4.0, rel_tol=0.3)
    assert lookup.speed_of(answers[:1]) == {"answers": 1}


def test_the_table_leaves_out_what_too_few_answers_give(lookup):
    whole = lookup.speed_of([{"faster": 2.0}] * 3)
    table = lookup.table({"chat: a": {"all": whole, "not loops": {"answers": 1}}})
    assert "| chat: a | 3 | 2.00x (2.00 to 2.00) | 2.00x | 1 | - |" in table


def test_every_row_has_its_file(lookup):
    names = [row.name for row in lookup.rows()]
    assert len(set(names)) == len(names) == 8
    assert {row.kind for row in lookup.rows()} == set(lookup.FOLDERS)
