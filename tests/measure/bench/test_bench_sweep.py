import itertools
import json
from pathlib import Path

import pytest
from bench_runs import QUICK, table_text
from click.testing import CliRunner, Result
from onnx_models import decoder_folder, encoder_folder

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.measure.bench.compare import compare, sweep
from edgeprune.measure.bench.record import Sweep


def bench(*arguments: object) -> Result:
    options = ("--time-limit", 0.1, "--launches", 2, "--no-compressed", "--json", "-")
    return CliRunner().invoke(main, ["bench", *map(str, arguments), *map(str, options)])


def test_lists_give_a_result_for_each_point(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    result = bench(folder, "--batch", "1", "--tokens", "8,16", "--threads", "2,1")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["sweep"]
    points = [(point["settings"]["tokens"], point["settings"]["threads"]) for point in found]
    assert points == [(8, 2), (8, 1), (16, 2), (16, 1)]
    single = json.loads(bench(folder, "--tokens", "8").stdout)
    assert all(set(point) == set(single) for point in found)


@pytest.mark.usefixtures("timed")
def test_more_work_takes_longer_in_the_sweep(tmp_path: Path) -> None:
    """32 times the rows of the same product."""
    folder = encoder_folder(tmp_path / "m", depth=4, width=512)
    points = [QUICK.model_copy(update={"batch": 1, "tokens": tokens}) for tokens in (2, 64)]
    few, many = (point.measures["encoder"] for point in sweep(folder, None, points).sweep)
    assert many.candidate.median_ms > 3 * few.candidate.median_ms


def test_the_table_has_a_row_for_each_point_within_80_columns(tmp_path: Path) -> None:
    folder = decoder_folder(tmp_path)
    points = list(itertools.product((1, 2), (8, 16), (1, 2)))
    one = compare(folder, folder, QUICK)
    swept = [
        one.settings.model_copy(update={"batch": b, "tokens": t, "threads": n})
        for b, t, n in points
    ]
    result = Sweep(sweep=tuple(one.model_copy(update={"settings": each}) for each in swept))
    shown = table_text(result)
    assert max(map(len, shown.splitlines())) <= 80
    for kind in ("prompt", "decode"):
        rows = [line for line in shown.splitlines() if f" {kind} " in line]
        assert [tuple(map(int, row.split()[:3])) for row in rows] == points
        ratio = one.measures[kind].ratio
        shown_ratio = f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
        peak = f"{one.candidate.peak_memory_bytes / 1e6:,.0f}"
        assert all(row.split()[-3:] == [*shown_ratio.split(), peak] for row in rows)


def test_a_point_that_cannot_be_run_is_refused_before_the_first_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = encoder_folder(tmp_path, max_position_embeddings=8)
    monkeypatch.setattr("edgeprune.measure.bench.compare.Process", None)
    points = [QUICK.model_copy(update={"tokens": tokens}) for tokens in (8, 9)]
    with pytest.raises(UserError, match="takes 8 tokens at most and the benchmark needs 9"):
        sweep(folder, None, points)


def test_a_list_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    assert "'1,x' is not a whole number" in bench(folder, "--batch", "1,x").stderr
    assert "edgeprune: --batch 0: " in bench(folder, "--batch", "1,0").stderr
