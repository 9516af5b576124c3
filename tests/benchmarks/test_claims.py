"""Every figure of the texts is a row, every row's words stand there, and other code is told."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import claims

    return claims


def test_every_figure_is_a_row_and_every_row_stands_somewhere(claims):
    known, texts = claims.read(claims.DATA), claims.texts(claims.ROOT)
    assert claims.without_row(texts, known) == []
    assert claims.without_text(texts, known) == []


def test_the_table_is_what_its_data_make(claims):
    made = claims.page(claims.read(claims.DATA))
    assert claims.TABLE.read_text(encoding="utf-8") == made, "python benchmarks/claims.py --write"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It runs 4.15x (4.02 to 4.28) as fast.", ["4.15x", "4.02 to 4.28"]),
        ("12 ms and 14 MB, at 74.2 % or\n86.7", ["12 ms and 14 MB", "74.2 % or 86.7"]),
        ("262 and 250 MB against 252", ["262 and 250 MB against 252"]),
        ("| 86.72, 86.09, -0.62 | 16.9 |", ["86.72, 86.09, -0.62", "16.9"]),
        ("64 of 100 held it, 0.6 points", ["64 of 100", "0.6 points"]),
        ("blocks of 4x16, INT8, 12 heads of 32, SmolLM2 and page 3", []),
        ("`--limit 5.5` and [5 ms](7.5.md)\n\n    took 12.5 ms\n", ["5 ms"]),
    ],
)
def test_figures_are_numbers_that_tell_something(claims, text, found):
    line = claims.joined(text)
    assert [line[start:end] for start, end in claims.figures(text)] == found


def test_a_new_figure_and_a_row_without_words_are_found(claims):
    known, texts = claims.read(claims.DATA), claims.texts(claims.ROOT)
    texts["README.md"] += "\nIt is 99.5x as fast.\n"
    [missing] = claims.without_row(texts, known)
    assert "99.5x" in missing
    first = known.measurements[0]
    gone = replace(first.figures[0], says="99.6x")
    more = replace(known, measurements=(replace(first, figures=(gone,)),))
    assert claims.without_text(claims.texts(claims.ROOT), more) == ["README.md: 99.6x"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_code_that_a_measurement_reaches_makes_it_old(claims, tmp_path):
    package = tmp_path / "edgeprune"
    package.mkdir()
    files = {
        "__init__.py": "",
        "bench.py": "from edgeprune.clock import now\n\n\ndef run():\n    return now()\n",
        "clock.py": "def now():\n    return 0\n",
        "apart.py": "",
    }
    for name, content in files.items():
        (package / name).write_text(content)
    (tmp_path / "recipe.yaml").write_text("name: a\n")

    def git(*words: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "measured")
    measured = replace(
        claims.read(claims.DATA).measurements[0],
        commit=git("rev-parse", "HEAD"),
        code=("edgeprune.bench:run", "recipe.yaml"),
    )
    assert claims.is_as_measured(measured, tmp_path)
    (package / "apart.py").write_text("more = 1\n")
    (package / "built.so").write_bytes(b"compiled")
    assert claims.is_as_measured(measured, tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: b\n")
    assert not claims.is_as_measured(measured, tmp_path)
    git("checkout", "recipe.yaml")
    (package / "clock.py").write_text("def now():\n    return 1\n")
    assert not claims.is_as_measured(measured, tmp_path)
    (package / "bench.py").unlink()
    assert not claims.is_as_measured(measured, tmp_path)
