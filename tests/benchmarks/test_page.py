"""benchmarks/README.md is made from its words and the results."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import page

    return page


def test_the_page_is_what_words_and_results_make(page):
    made = page.page(page.WORDS.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == made, "python benchmarks/page.py"


def test_a_table_follows_the_results(page, monkeypatch, tmp_path):
    (tmp_path / "results").mkdir()
    source = BENCHMARKS / "results" / "encoders.jsonl"
    row = json.loads(source.read_text(encoding="utf-8").splitlines()[0])
    row["speed"]["measures"]["encoder"]["ratio"] |= {"value": 7.25, "low": 7.0, "high": 7.5}
    (tmp_path / "results" / "encoders.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(page, "HERE", tmp_path)
    made = page.page("Before.\n\n<!-- table: encoders -->\n\nAfter.\n")
    assert made.count("7.25x (7.00 to 7.50)") == 1
    assert made.index("Before.") < made.index("7.25x") < made.index("After.")
    assert "<!-- table" not in made
