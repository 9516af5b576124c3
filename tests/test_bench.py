import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import scipy.stats
from onnx_models import decoder_folder, encoder_folder, table
from pydantic import ValidationError
from rich.console import Console

from edgeprune.bench.compare import compare, measure
from edgeprune.bench.contestants import SLOW_FUSIONS, Contestant, opened
from edgeprune.bench.process import Process, choose_cores
from edgeprune.bench.settings import BenchSettings
from edgeprune.bench.stats import median, paired_ratio, percentile
from edgeprune.bench.table import bench_table
from edgeprune.bundle import Bundle
from edgeprune.errors import UserError

QUICK = BenchSettings(tokens=16, decode_steps=4, min_rounds=3, time_limit=1.0, turn_seconds=0.01)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture(autouse=True)
def _no_process_stays() -> object:
    before = {child.pid for child in children()}
    yield
    assert {child.pid for child in children()} <= before


def test_the_ratio_of_exact_multiples_is_exact() -> None:
    bottom = np.random.default_rng(0).lognormal(size=20)
    ratio = paired_ratio(3 * bottom, bottom)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))
    assert ratio.pairs == 20


def test_the_interval_is_scipys() -> None:
    random = np.random.default_rng(1)
    top, bottom = random.lognormal(0.5, 0.2, 41), random.lognormal(0, 0.2, 41)
    ours = paired_ratio(top, bottom)
    theirs = scipy.stats.bootstrap(
        (top / bottom,), np.median, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == np.median(top / bottom)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Times drift together by a factor of two; the true ratio is 1.05 in all of them."""
    random, held = np.random.default_rng(3), 0
    for _ in range(200):
        drift = 1 + random.random(30)
        top = 1.05 * drift * random.lognormal(0, 0.05, 30)
        bottom = drift * random.lognormal(0, 0.05, 30)
        ratio = paired_ratio(top, bottom)
        held += ratio.low <= 1.05 <= ratio.high
    # Three standard errors below 95 %; the bootstrap of a median is a little conservative.
    assert held >= 200 * (0.95 - 3 * np.sqrt(0.95 * 0.05 / 200))


def test_the_interval_is_the_same_each_time() -> None:
    top, bottom = [1.0, 2.0, 3.5], [1.0, 1.5, 3.0]
    assert paired_ratio(top, bottom, seed=4) == paired_ratio(top, bottom, seed=4)


@pytest.mark.parametrize(("top", "bottom"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_what_is_no_pair_is_refused(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pairs|above zero"):
        paired_ratio(top, bottom)


def test_percentiles_are_numpys() -> None:
    values = [5.0, 1.0, 4.0, 2.0]
    assert median(values) == 3.0
    assert percentile(values, 95) == np.quantile(values, 0.95)


def test_settings_are_bounded_and_misspelt_ones_refused() -> None:
    with pytest.raises(ValidationError):
        BenchSettings(tokens=0)
    with pytest.raises(ValidationError):
        BenchSettings(token=3)  # type: ignore[call-arg]


def test_a_model_that_works_more_is_found_slower(tmp_path: Path) -> None:
    """256 x 256 products: 2 of them against 40, so about 20 times the work."""
    light = encoder_folder(tmp_path / "light", depth=2, width=256)
    heavy = encoder_folder(tmp_path / "heavy", depth=40, width=256)
    result = compare(light, heavy, QUICK)
    found = result["measures"]["encoder"]
    assert 5 < found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"] < 60
    assert found["baseline"]["median_ms"] > 5 * found["candidate"]["median_ms"]
    assert found["candidate"]["p95_ms"] >= found["candidate"]["median_ms"]
    assert found["candidate"]["texts_per_second"] == pytest.approx(
        1000 / found["candidate"]["median_ms"]
    )
    assert found["ratio"]["pairs"] >= 2 * QUICK.min_rounds
    assert result["candidate"]["model_bytes"] == (light / "model.onnx").stat().st_size
    assert set(result["baseline"]["variants_ms"]) == {
        "default fusions",
        f"without {' and '.join(SLOW_FUSIONS)}",
    }
    faster = min(result["baseline"]["variants_ms"], key=result["baseline"]["variants_ms"].get)
    assert result["baseline"]["fusions"] == faster
    assert result["cores"] == choose_cores(1)
    assert result["machine"]["onnxruntime"]
    shown = table_text(result)
    assert "faster" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_model_beside_itself_is_as_fast(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", depth=20, width=256)
    found = compare(folder, folder, QUICK.model_copy(update={"time_limit": 2.0}))
    ratio = found["measures"]["encoder"]["ratio"]
    assert 0.8 < ratio["value"] < 1.25


def test_a_decoder_is_timed_for_prompt_and_decoding_apart(tmp_path: Path) -> None:
    result = measure(decoder_folder(tmp_path), QUICK)
    prompt, decode = result["measures"]["prompt"], result["measures"]["decode"]
    assert "baseline" not in result
    assert prompt["candidate"]["tokens_per_second"] == pytest.approx(
        QUICK.tokens * 1000 / prompt["candidate"]["median_ms"]
    )
    assert decode["candidate"]["tokens_per_second"] == pytest.approx(
        1000 / decode["candidate"]["median_ms"]
    )
    # Two turns a round, each of decode_steps calls.
    assert decode["candidate"]["calls"] % (2 * QUICK.decode_steps) == 0
    assert max(map(len, table_text(result).splitlines())) <= 80


def table_text(result: dict[str, object]) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(bench_table(result))
    return out.getvalue()


def with_weights(folder: Path, megabytes: int) -> Contestant:
    return Contestant.of(
        Bundle.open(encoder_folder(folder, depth=megabytes // 4, width=1024)), str(folder)
    )


def test_peak_memory_is_the_models_own_and_not_the_parents(tmp_path: Path) -> None:
    small, large = with_weights(tmp_path / "s", 4), with_weights(tmp_path / "l", 100)
    ballast = np.ones(60_000_000)  # 480 MB that only this process holds
    peaks = []
    for contestant in (small, large):
        with Process(contestant, QUICK, None) as process:
            process.ask("encoder", batch=1, tokens=16, calls=1)
            peaks.append(process.ask("memory")["peak_bytes"])
    assert peaks[1] - peaks[0] > 90e6
    assert peaks[0] < 300e6 < ballast.nbytes


def test_the_worker_imports_no_more_than_it_needs() -> None:
    code = "import sys, edgeprune.bench.worker; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(found.stdout.split())
    assert "onnxruntime" in imported
    assert not imported & {"pydantic", "rich", "onnx", "tokenizers", "jinja2", "cpuinfo", "torch"}


def contestant(folder: Path) -> Contestant:
    return Contestant.of(Bundle.open(folder))


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    with Process(contestant(encoder_folder(tmp_path)), QUICK, None) as process:
        worker = children()[-1]
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="signal 9, perhaps for want of memory"):
            process.ask("encoder", batch=1, tokens=16, calls=1)


def test_a_model_that_cannot_run_is_reported_and_leaves_no_process(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    with Process(contestant(folder), QUICK, None) as process:
        beyond = {"batch": 1, "tokens": 16, "calls": 1}
        process.ask("encoder", **beyond)
        with pytest.raises(UserError, match="cannot be benchmarked"):
            process.ask("prompt", tokens=4, calls=1)
        process.ask("encoder", **beyond)
    broken = contestant(folder)
    (folder / "model.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(UserError, match="cannot open"):
        Process(broken, QUICK, None)


def test_synthetic_tokens_stay_in_the_vocabulary(tmp_path: Path) -> None:
    """Gather fails beyond its table, which has exactly vocab_size rows."""
    with Process(contestant(encoder_folder(tmp_path)), QUICK, None) as process:
        process.ask("encoder", batch=8, tokens=64, calls=3)
    wrong = encoder_folder(tmp_path / "wrong", vocab_size=len(table()) + 1000)
    with (
        Process(contestant(wrong), QUICK, None) as process,
        pytest.raises(UserError, match="cannot be benchmarked"),
    ):
        process.ask("encoder", batch=8, tokens=64, calls=3)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    encoder = encoder_folder(tmp_path / "e", max_position_embeddings=8)
    decoder = decoder_folder(tmp_path / "d")
    with pytest.raises(UserError, match="nothing to compare"):
        compare(encoder, decoder, QUICK)
    with pytest.raises(UserError, match="takes 8 tokens at most and the benchmark needs 16"):
        measure(encoder, QUICK)
    with pytest.raises(UserError, match="takes 64 tokens at most and the benchmark needs 65"):
        measure(decoder, QUICK.model_copy(update={"tokens": 60}))


def test_a_model_folder_needs_the_build_install_to_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "edgeprune.export", None)
    with pytest.raises(UserError, match=r"pip install 'edgeprune\[build\]'"), opened(tmp_path):
        pass


def test_cores_are_shared_by_all_and_leave_the_first_free() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not pin processes")
    allowed = sorted(os.sched_getaffinity(0))
    assert choose_cores(len(allowed)) is None
    if len(allowed) > 1:
        assert choose_cores(1) == allowed[-1:]
