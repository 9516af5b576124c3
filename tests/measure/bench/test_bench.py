import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import scipy.stats
from bench_runs import QUICK, children, table_text
from onnx_models import decoder_folder, encoder_folder, table
from processes import until
from pydantic import ValidationError
from speeds import make_speed

from edgeprune.base.errors import UserError
from edgeprune.export.opened import open_model
from edgeprune.measure.bench.compare import compare, measure
from edgeprune.measure.bench.noise import CoreWatch, judge, turn_spread
from edgeprune.measure.bench.process import Conversation, Process, choose_cores
from edgeprune.measure.bench.record import Comparison, Ratio, Sweep, read_speed
from edgeprune.measure.bench.rounds import Samples, Turn
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.size import compressed_bytes
from edgeprune.measure.bench.stats import (
    median,
    paired_ratio,
    percentile,
    ratio_of_launches,
    student,
)
from edgeprune.measure.bench.subject import SLOW_FUSIONS, Subject
from edgeprune.measure.bench.worker import by_operator
from edgeprune.runtime.bundle import Bundle


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


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 9, 29, 200])
def test_students_quantile_is_scipys(freedom: int) -> None:
    assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-4)


def test_the_ratio_of_launches_is_the_mean_of_their_logarithms() -> None:
    """Oracle: scipy's interval of the mean of what each launch found."""
    random = np.random.default_rng(5)
    top, bottom = (random.lognormal(0.5, 0.1, (7, 9)) for _ in range(2))
    ratio = ratio_of_launches(top.tolist(), bottom.tolist())
    logs = np.log(np.median(top / bottom, axis=1))
    low, high = scipy.stats.t.interval(0.95, 6, logs.mean(), scipy.stats.sem(logs))
    assert ratio.value == pytest.approx(np.exp(logs.mean()))
    assert (ratio.low, ratio.high) == pytest.approx((np.exp(low), np.exp(high)), rel=1e-4)
    assert (ratio.pairs, ratio.launches) == (63, 7)
    alone = ratio_of_launches(top[:1].tolist(), bottom[:1].tolist())
    assert alone == paired_ratio(top[0], bottom[0]).model_copy(update={"launches": 1})


def test_what_launches_differ_by_is_in_the_interval() -> None:
    """Launches that differ by 1 %, turns by 1 %: turns alone hold the truth too seldom."""
    random, held, naive, runs = np.random.default_rng(6), 0, 0, 300
    for _ in range(runs):
        launch = random.normal(0, 0.01, (6, 1))
        top = np.exp(launch + random.normal(0, 0.01, (6, 20)))
        ratio = ratio_of_launches(top.tolist(), np.ones((6, 20)).tolist())
        held += ratio.low <= 1 <= ratio.high
        plain = paired_ratio(top.ravel(), np.ones(120))
        naive += plain.low <= 1 <= plain.high
    assert held >= runs * (0.95 - 3 * np.sqrt(0.95 * 0.05 / runs))
    assert naive < 0.8 * runs


def test_percentiles_are_numpys() -> None:
    values = [5.0, 1.0, 4.0, 2.0]
    assert median(values) == 3.0
    assert percentile(values, 95) == np.quantile(values, 0.95)


def test_settings_are_bounded_and_misspelt_ones_refused() -> None:
    with pytest.raises(ValidationError):
        BenchSettings(tokens=0)
    with pytest.raises(ValidationError):
        BenchSettings(token=3)  # type: ignore[call-arg]


@pytest.mark.usefixtures("timed")
def test_a_model_that_works_more_is_found_slower(tmp_path: Path) -> None:
    """256 x 256 products: 2 of them against 40, so about 20 times the work."""
    light = encoder_folder(tmp_path / "light", depth=2, width=256)
    heavy = encoder_folder(tmp_path / "heavy", depth=40, width=256)
    result = compare(light, heavy, QUICK)
    found = result.measures["encoder"]
    # Of so few launches the interval is wide, whatever the machine.
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert 5 < found.ratio.value < 60
    assert found.baseline.median_ms > 5 * found.candidate.median_ms
    ours = found.candidate
    assert ours.p99_ms >= ours.p95_ms >= ours.median_ms
    assert ours.texts_per_second == pytest.approx(1000 / ours.median_ms)
    assert ours.tokens_per_second == pytest.approx(QUICK.tokens * ours.texts_per_second)
    assert found.ratio.pairs >= 2 * QUICK.min_rounds
    assert result.candidate.model_bytes == (light / "model.onnx").stat().st_size
    assert set(result.baseline.variants_ms) == {
        "default fusions",
        f"without {' and '.join(SLOW_FUSIONS)}",
    }
    faster = min(result.baseline.variants_ms, key=result.baseline.variants_ms.get)
    assert result.baseline.fusions == faster
    assert found.ratio.launches == QUICK.launches
    assert result.seconds > QUICK.time_limit / 2
    cores = choose_cores(1)
    assert result.cores == (cores and tuple(cores))
    assert result.machine.onnxruntime
    shown = table_text(result)
    assert "x faster (" in shown
    quotient = found.baseline.median_ms / found.candidate.median_ms
    alike = Ratio(value=quotient, low=0.9 * quotient, high=1.1 * quotient)
    assert "medians" not in table_text(with_ratio(result, alike))
    slower = with_ratio(result, Ratio(value=0.5, low=0.4, high=0.8))
    assert "2.00x slower (1.25-2.50)" in table_text(slower)
    assert "the medians' own quotient is" in " ".join(table_text(slower).split())
    swept = " ".join(table_text(Sweep(sweep=(slower, slower))).split())
    assert "In 2 of 2 rows the medians' own quotient is another than the ratio" in swept
    assert max(map(len, shown.splitlines())) <= 80


def with_ratio(result: Comparison, ratio: Ratio) -> Comparison:
    """The same with another ratio of encoding."""
    measures = {"encoder": result.measures["encoder"].model_copy(update={"ratio": ratio})}
    return result.model_copy(update={"measures": measures})


def test_a_result_that_was_read_is_the_one_that_was_written(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"profile": True, "counters": True, "compressed": True})
    encoder, decoder = encoder_folder(tmp_path / "e"), decoder_folder(tmp_path / "d")
    for result in (compare(encoder, encoder, settings), measure(decoder, QUICK)):
        written = json.dumps(result.to_json())
        read = read_speed(json.loads(written), tmp_path / "r.json", "")
        assert read == result
        assert type(read) is type(result)
        assert json.dumps(read.to_json()) == written
    assert list(result.to_json()) == [
        "settings", "cores", "machine", "noise", "seconds", "candidate", "measures",
    ]  # fmt: skip
    assert list(result.to_json()["measures"]) == ["prompt", "decode"]


@pytest.mark.parametrize(
    ("harm", "place"),
    [
        (lambda found: found["settings"].pop("tokens"), "settings: tokens is missing"),
        (lambda found: found["candidate"].update(name=None), "candidate.name: "),
        (lambda found: found["measures"]["encoder"].pop("ratio"), "measures.encoder.ratio: "),
        (lambda found: found["measures"]["encoder"]["candidate"].update(median_ms=0), "median_ms"),
        (lambda found: found["measures"].clear(), "measures: "),
        (
            lambda found: found["measures"]["encoder"]["baseline"].pop("texts_per_second"),
            "the whole: times of encoder without texts a second",
        ),
    ],
)
def test_a_damaged_result_is_refused_in_a_sentence(
    harm: Callable[[Any], object], place: str, tmp_path: Path
) -> None:
    content = make_speed("feature-extraction").to_json()
    content["settings"]["of a newer version"] = 1
    assert read_speed(content, tmp_path, "") == make_speed("feature-extraction")
    harm(content)
    with pytest.raises(UserError, match=re.escape(place)):
        read_speed(content, tmp_path / "r.json", "measure it anew")


@pytest.mark.usefixtures("timed")
def test_a_model_beside_itself_is_as_fast(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", depth=20, width=256)
    found = compare(folder, folder, QUICK.model_copy(update={"launches": 4}))
    ratio = found.measures["encoder"].ratio
    assert 0.8 < ratio.value < 1.25


def test_a_decoder_is_timed_for_prompt_and_decoding_apart(tmp_path: Path) -> None:
    result = measure(decoder_folder(tmp_path), QUICK)
    prompt, decode = result.measures["prompt"], result.measures["decode"]
    assert result.baseline is None
    assert prompt.candidate.tokens_per_second == pytest.approx(
        QUICK.tokens * 1000 / prompt.candidate.median_ms
    )
    assert decode.candidate.tokens_per_second == pytest.approx(1000 / decode.candidate.median_ms)
    assert prompt.candidate.first_token_ms == prompt.candidate.median_ms
    # Two turns a round, each of decode_steps calls.
    assert decode.candidate.calls % (2 * QUICK.decode_steps) == 0
    assert max(map(len, table_text(result).splitlines())) <= 80


def test_a_decoder_answers_a_batch_side_by_side(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"batch": 3})
    result = measure(decoder_folder(tmp_path), settings)
    for kind, tokens in (("prompt", QUICK.tokens), ("decode", 1)):
        speed = result.measures[kind].candidate
        expected = 3 * tokens * 1000 / speed.median_ms
        assert speed.tokens_per_second == pytest.approx(expected)


def test_compressed_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path, depth=3, width=64)
    result = measure(folder, QUICK.model_copy(update={"compressed": True}))
    content = (folder / "model.onnx").read_bytes()
    assert result.candidate.compressed_bytes == len(zlib.compress(content, 6))
    assert "zlib level 6" in table_text(result)
    assert "compressed_bytes" not in measure(folder, QUICK).to_json()["candidate"]


def test_compression_reads_every_chunk_of_every_file(tmp_path: Path) -> None:
    """Chunks end where they end, not where the file does."""
    parts = [np.random.default_rng(i).bytes(size) for i, size in enumerate((0, 1 << 20, 1_500_001))]
    files = []
    for index, part in enumerate(parts):
        files.append(tmp_path / str(index))
        files[-1].write_bytes(part)
    assert compressed_bytes(files) == sum(len(zlib.compress(part, 6)) for part in parts)


def turns(*seconds: float) -> list[Turn]:
    return [Turn([each], [each / 2]) for each in seconds]


def test_noise_is_told_by_the_spread_of_turns_and_by_others() -> None:
    steady = Samples([turns(1.0, 1.01, 0.99, 1.0, 1.02)])
    # Quartiles of 1 to 5 are 2 and 4.
    changing = Samples([turns(3.0, 1.0), turns(2.0, 5.0, 4.0)])
    assert turn_spread([steady, changing]) == pytest.approx(2 / 3)
    assert not judge(turn_spread([steady]), 0.01).noisy
    assert not judge(turn_spread([steady]), None).noisy
    assert judge(0.2, 0.0).why == ("turns differed by 20% between quartiles",)
    assert judge(0.0, 0.31).why == ("other programs took 31% of the cores' time",)
    assert judge(0.2, 0.31).noisy


def busy() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def worked(process: subprocess.Popen[bytes]) -> float:
    """Seconds of a core."""
    return float(psutil.Process(process.pid).cpu_times().user)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
def test_a_stranger_on_the_core_is_seen_and_an_own_process_is_not() -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    with busy() as stranger, busy() as own:
        try:
            for process in (stranger, own):
                os.sched_setaffinity(process.pid, {core})
            until(lambda: min(worked(stranger), worked(own)) > 0)
            without = CoreWatch([core], [stranger.pid, own.pid])
            watch = CoreWatch([core], [own.pid])
            started, before = time.monotonic(), worked(stranger)
            until(lambda: worked(stranger) > before + 0.5)
            seen = watch.others_share()
            rest = without.others_share()
            took = worked(stranger) - before
            passed = time.monotonic() - started
        finally:
            stranger.kill()
            own.kill()
    # What else runs here, both watches count.
    assert seen is not None
    assert rest is not None
    assert seen - rest == pytest.approx(took / passed, abs=0.06)


def test_a_noisy_machine_is_said_in_the_table(tmp_path: Path) -> None:
    result = measure(encoder_folder(tmp_path), QUICK)
    noise = ["turn_spread", "others_share", "limit", "noisy", "why"]
    assert list(result.to_json()["noise"]) == noise
    noisy, quiet = (
        table_text(result.model_copy(update={"noise": judge(spread, 0.0)}))
        for spread in (0.2, 0.01)
    )
    assert "A noisy machine: turns differed by 20%" in noisy
    assert "noisy machine" not in quiet


def test_the_profile_shares_the_time_out_among_operators(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", depth=7, width=512)
    lighter = encoder_folder(tmp_path / "l", depth=3, width=512)
    settings = QUICK.model_copy(update={"profile": True, "tokens": 64})
    sides = compare(lighter, folder, settings).profile["encoder"]
    for side, depth in (("candidate", 3), ("baseline", 7)):
        operators = sides[side].operators
        assert operators["MatMul"].count == depth
        assert next(iter(operators)) == "MatMul"  # nothing else in the graph works
        assert operators["MatMul"].share > 0.5
        inside = sum(entry.ms for entry in operators.values())
        outside = sides[side].outside_share * sides[side].run_ms
        assert inside + outside == pytest.approx(sides[side].run_ms)
    alone = measure(decoder_folder(tmp_path / "d"), QUICK.model_copy(update={"profile": True}))
    assert set(alone.profile) == {"prompt", "decode"}
    assert alone.profile["decode"]["candidate"].operators["CumSum"].count == 1
    shown = table_text(alone)
    assert "CumSum" in shown
    assert "between operators" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_profile_is_summed_over_the_last_runs_and_counts_what_is_inside_a_loop_once() -> None:
    def node(operator: str, start: int, lasts: int, name: str = "x_kernel_time") -> dict[str, Any]:
        args = {"op_name": operator}
        return {"cat": "Node", "name": name, "ts": start, "dur": lasts, "args": args}

    def run(start: int, lasts: int) -> dict[str, Any]:
        return {"cat": "Session", "name": "model_run", "ts": start, "dur": lasts, "args": {}}

    events = [
        *(node("Add", 1, 500), run(0, 900)),
        node("Add", 1001, 20, "/encoder/layer.3/output/Add_kernel_time"),
        *(node("Mul", 1030, 50), node("Loop", 1025, 60), run(1000, 100)),
        *(node("Add", 2001, 40), node("Add", 2050, 5, "x_fence_before"), run(2000, 200)),
    ]
    assert by_operator(events, 2) == {
        "run_ms": pytest.approx(0.15),
        "operators": {
            "Add": {"ms": pytest.approx(0.03), "count": 1},
            "Mul": {"ms": pytest.approx(0.025), "count": 0.5},
        },
        "layers": {"3": pytest.approx(0.01), "": pytest.approx(0.045)},
    }


def with_weights(folder: Path, megabytes: int) -> Subject:
    return Subject.of(
        Bundle.open(encoder_folder(folder, depth=megabytes // 4, width=1024)), str(folder)
    )


def test_peak_memory_is_the_models_own_and_not_the_parents(tmp_path: Path) -> None:
    small, large = with_weights(tmp_path / "s", 4), with_weights(tmp_path / "l", 100)
    ballast = np.ones(60_000_000)  # 480 MB that only this process holds
    peaks = []
    for subject in (small, large):
        with Process(subject, QUICK, None) as process:
            process.ask("encoder", batch=1, tokens=16, calls=1)
            peaks.append(process.ask("memory")["peak_bytes"])
    assert peaks[1] - peaks[0] > 90e6
    assert peaks[0] < 300e6 < ballast.nbytes


def test_the_worker_imports_no_more_than_it_needs() -> None:
    code = "import sys, edgeprune.measure.bench.worker; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(found.stdout.split())
    assert "onnxruntime" in imported
    assert not imported & {"pydantic", "rich", "onnx", "tokenizers", "jinja2", "cpuinfo", "torch"}


def subject(folder: Path) -> Subject:
    return Subject.of(Bundle.open(folder))


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    before = children()
    with Process(subject(encoder_folder(tmp_path)), QUICK, None) as process:
        [worker] = set(children()) - set(before)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="signal 9, perhaps for want of memory"):
            process.ask("encoder", batch=1, tokens=16, calls=1)


@pytest.mark.parametrize("deaf", ["", "import os; os.close(1); "])
def test_a_program_that_says_nothing_is_ended(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.measure.bench.process._HELLO_SECONDS", 0.5)
    silent = (sys.executable, "-c", f"{deaf}import time; time.sleep(60)")
    before = children()
    with pytest.raises(UserError, match=r"did not answer hello within 0.5 seconds"):
        Conversation("silent", silent)
    assert children() == before


def test_a_model_that_cannot_run_is_reported_and_leaves_no_process(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    with Process(subject(folder), QUICK, None) as process:
        beyond = {"batch": 1, "tokens": 16, "calls": 1}
        process.ask("encoder", **beyond)
        with pytest.raises(UserError, match="cannot be benchmarked"):
            process.ask("prompt", batch=1, tokens=4, calls=1)
        process.ask("encoder", **beyond)
    broken = subject(folder)
    (folder / "model.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(UserError, match="cannot open"):
        Process(broken, QUICK, None)


def test_synthetic_tokens_stay_in_the_vocabulary(tmp_path: Path) -> None:
    """Gather fails beyond its table, which has exactly vocab_size rows."""
    with Process(subject(encoder_folder(tmp_path)), QUICK, None) as process:
        process.ask("encoder", batch=8, tokens=64, calls=3)
    wrong = encoder_folder(tmp_path / "wrong", vocab_size=len(table()) + 1000)
    with (
        Process(subject(wrong), QUICK, None) as process,
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
    monkeypatch.setitem(sys.modules, "edgeprune.export.trace", None)
    with pytest.raises(UserError, match=r"pip install '\.\[build\]'"), open_model(tmp_path):
        pass


def test_launches_go_over_all_cores_and_leave_the_first_for_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed = {2, 3, 5, 6, 7}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    assert [choose_cores(2, launch) for launch in range(6)] == [
        [6, 7], [6, 7], [3, 5], [3, 5], [6, 7], [6, 7],
    ]  # fmt: skip
    assert [choose_cores(1, launch) for launch in (0, 2, 4, 6, 8)] == [[7], [6], [5], [3], [2]]
    assert choose_cores(5, 3) is None


def test_cores_are_shared_by_all_and_leave_the_first_free() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not pin processes")
    allowed = sorted(os.sched_getaffinity(0))
    assert choose_cores(len(allowed)) is None
    if len(allowed) > 1:
        assert choose_cores(1) == allowed[-1:]


def test_one_launch_is_not_spread():
    """It would be said to hold for an hour, and hold for its own seconds."""
    with pytest.raises(ValidationError, match="spread is the time between launches"):
        BenchSettings(spread=3600.0, launches=1)
    assert BenchSettings(spread=3600.0, launches=2).spread == 3600.0
