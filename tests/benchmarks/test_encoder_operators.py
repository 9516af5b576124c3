"""The benchmark of encoders with the library's operators: its rows and its table."""

from pathlib import Path

import pytest

from edgeprune.measure.bench.rounds import Samples, Turn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import encoder_operators

    return encoder_operators


def test_every_shape_has_a_goal_and_a_row_of_every_work(benchmark):
    rows = list(benchmark.rows())
    assert set(benchmark.GOALS) == set(benchmark.SHAPES)
    assert len({row.name for row in rows}) == len(rows) == 40


def test_a_ratio_above_one_is_faster_than_the_dense_file(benchmark):
    def samples(clock: float, processor: float) -> Samples:
        return Samples([[Turn([clock], [processor])] * 3] * 3)

    found = {"operators": samples(2, 1), "stock": samples(8, 4), "dense": samples(4, 3)}
    clock, spent = benchmark.ratios(found, "turns"), benchmark.ratios(found, "processor")
    assert [clock[side]["value"] for side in ("operators", "stock")] == pytest.approx([2, 0.5])
    assert [spent[side]["value"] for side in ("operators", "stock")] == pytest.approx([3, 0.75])
    [row] = [row for row in benchmark.rows() if row.name == "10x, 2 threads, 16 tokens, batch 8"]
    result = {
        "row": benchmark.asdict(row),
        "milliseconds": dict.fromkeys(found, 1.0),
        "clock": clock,
        "processor": spent,
    }
    last = benchmark.table({row.name: result}).splitlines()[-1]
    assert last.startswith("| 10x | 2 | 16 | 8 |")
    assert last.index("2.00x") < last.index("3.00x") < last.index("1.5x") < last.index("0.75x")
