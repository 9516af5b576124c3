"""`edgeprune check`: what it finds, what it refuses, and how sure it is."""

import dataclasses
import errno
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner, Result
from hostile import NAMES
from hypothesis import given
from hypothesis import strategies as st
from markup import shape
from onnx import helper
from onnx_models import (
    classifier_folder,
    decoder_folder,
    encoder_folder,
    make_bundle,
    write_json,
)
from speeds import make_speed

from edgeprune.base.errors import UserError
from edgeprune.base.escape import one_line, printable
from edgeprune.cli import main
from edgeprune.measure.bench.compare import compare, measure
from edgeprune.measure.bench.record import Ratio, Side
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import paired_ratio, ratio_of_launches
from edgeprune.measure.check import checks, formats, run
from edgeprune.measure.check.figures import Figures, count_operators, figures_of, read_figures
from edgeprune.measure.check.record import Check
from edgeprune.measure.check.settings import Limits
from edgeprune.runtime.bundle import MANIFEST, Bundle

SOURCE = {"source": {"model": "tiny", "sha256": "a" * 64}}
LIMITS = Limits()


def edgeprune(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def mistake(result: Result) -> str:
    """The one sentence of what could not be measured."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1].removeprefix("edgeprune: ")


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real measurements, of short turns."""
    short = {"turn_seconds": 0.01, "min_rounds": 3, "time_limit": 0.3, "launches": 4}
    for name, real in (("compare", compare), ("measure", measure)):
        monkeypatch.setattr(
            run, name, lambda *args, real=real: real(*args[:-1], args[-1].model_copy(update=short))
        )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    parts = encoder_folder(folder / "parts", depth=12, width=192)
    return make_bundle(folder / "release", parts, **SOURCE)


def found(result: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


# the whole command -------------------------------------------------------------------------------


@pytest.mark.usefixtures("brief", "timed")
def test_a_bundle_beside_itself_passes(bundle: Path, tmp_path: Path) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("the cat\na dog ran far\n")
    options = ("--tokens", 16, "--max-slowdown", "100%", "--max-memory", 20)
    quality = ("--task", "cosine", "--data", texts, "--limit", 1)
    result = edgeprune(
        "check", bundle, "--against", bundle, *options, *quality, "--json", tmp_path / "r"
    )
    assert result.exit_code == 0, result.output
    whole = json.loads((tmp_path / "r").read_text())
    verdicts = {check["name"]: check["verdict"] for check in whole["checks"]}
    assert verdicts == {
        "source model": "pass",
        "graph and data": "pass",
        "operators": "pass",
        "fused operators": "pass",
        "peak memory": "pass",
        "latency": "pass",
        "parity as built": "skipped",
        "cosine quality": "pass",
    }
    assert whole["verdict"] == "pass"
    assert whole["candidate"]["model_bytes"] == Bundle.open(bundle).model_bytes
    assert whole["candidate"]["quality"]["values"]["mean_cosine"] == pytest.approx(1)
    assert "1 of 2 rows, drawn by seed 0" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("brief", "timed")
def test_what_is_worse_is_found_and_named(bundle: Path, tmp_path: Path) -> None:
    """Three times the layers: more bytes, operators and time; and other answers."""
    texts = tmp_path / "t.txt"
    texts.write_text("the cat\na dog ran far\n")
    parts = encoder_folder(tmp_path / "parts", depth=36, width=192)
    heavy = make_bundle(tmp_path / "heavy", parts, **SOURCE)
    quality = ("--task", "cosine", "--data", texts)
    result = edgeprune(
        *("check", heavy, "--against", bundle, "--tokens", 16, *quality, "--format", "json")
    )
    assert result.exit_code == 1, result.output
    checks_ = found(result)
    wrong = {name for name, check in checks_.items() if check["verdict"] == "fail"}
    assert wrong == {"graph and data", "operators", "latency", "cosine quality"} | (
        wrong & {"peak memory"}
    )
    assert checks_["latency"]["interval"][0] > 50
    assert checks_["operators"]["change"] == pytest.approx(100 * (38 / 14 - 1))
    assert checks_["graph and data"]["candidate"] == Bundle.open(heavy).model_bytes
    said = result.stderr.strip().splitlines()[-1]
    assert all(name in said for name in wrong)
    assert checks_["operators"]["why"] == ["by kind: +24 MatMul"]
    assert "MatMul" in checks_["latency"]["why"][0]
    assert checks_["graph and data"]["why"][0].startswith("by tensor: ")
    assert "(new)" in checks_["graph and data"]["why"][0]
    # And the other way round nothing but the answers is worse.
    back = found(edgeprune("check", bundle, "--against", heavy, "--tokens", 16, "--json", "-"))
    assert {check["verdict"] for check in back.values()} == {"pass", "skipped"}
    assert back["quality"]["sentence"] == "not checked: give --task and --data"


@pytest.mark.usefixtures("brief", "timed")
def test_a_saved_result_is_a_baseline(bundle: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    made = edgeprune("check", bundle, "--save", saved, "--tokens", 16)
    assert made.exit_code == 0, made.output
    assert "compared with nothing" in " ".join(made.stdout.split())
    assert [path.name for path in tmp_path.iterdir()] == ["saved.json"]
    again = ("check", bundle, "--against", saved, "--format", "json", "--max-slowdown", 200)
    same = found(edgeprune(*again, "--tokens", 16))
    assert same["latency"]["verdict"] == "pass"
    assert same["operators"]["verdict"] == "pass"
    # Other work, another machine, another runtime.
    for change, words, checked in (
        ({}, "tokens 16 then, 8 now", True),
        ({"processor": "a 6502"}, "processor a 6502 then", True),
        ({"onnxruntime": "1.0"}, "onnxruntime 1.0 then", False),
    ):
        other = json.loads(saved.read_text())
        other["conditions"] |= change
        write_json(tmp_path / "other.json", other)
        arguments = ("check", bundle, "--against", tmp_path / "other.json", "--format", "json")
        tokens = 16 if change else 8
        elsewhere = found(edgeprune(*arguments, "--tokens", tokens))
        for name in ("latency", "peak memory"):
            assert elsewhere[name]["verdict"] == "skipped"
            assert words in elsewhere[name]["sentence"]
        assert elsewhere["graph and data"]["verdict"] == "pass"
        assert (elsewhere["operators"]["verdict"] == "pass") is checked


@pytest.mark.usefixtures("brief")
def test_what_bench_wrote_is_a_baseline(bundle: Path, tmp_path: Path) -> None:
    saved = tmp_path / "bench.json"
    assert (
        edgeprune("bench", bundle, "--tokens", 16, "--time-limit", 0.1, "--json", saved).exit_code
        == 0
    )
    arguments = ("check", bundle, "--against", saved, "--tokens", 16, "--max-slowdown", 200)
    checks_ = found(edgeprune(*arguments, "--format", "json"))
    assert checks_["latency"]["verdict"] == "pass"
    assert checks_["graph and data"]["verdict"] == "pass"
    assert checks_["operators"]["sentence"] == "not checked: the saved result does not count them"
    assert checks_["source model"]["verdict"] == "skipped"


# bad input ---------------------------------------------------------------------------------------


def truncated(folder: Path) -> str:
    model = folder / "onnx/model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    return "model.onnx is damaged: it has"


def altered(folder: Path) -> str:
    model = folder / "onnx/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    return "model.onnx was altered: its SHA-256 is not the manifest's"


def missing(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "config.json is missing"


def no_model(folder: Path) -> str:
    (folder / "onnx/model.onnx").unlink()
    return "onnx/model.onnx is missing"


def from_a_newer_release(folder: Path) -> str:
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | {"format_version": 99})
    return "was written by a newer edgeprune (bundle format 99"


def data_outside(folder: Path) -> str:
    """The data is there, and the manifest agrees, but it lies outside the bundle."""
    path = folder / "onnx/model.onnx"
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../data")
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    (folder.parent / "data").write_bytes(bytes(10_000))
    (folder / MANIFEST).unlink()
    return "wants its data from '../../data', outside its own folder: refused"


@pytest.mark.parametrize(
    "harm", [truncated, altered, missing, no_model, from_a_newer_release, data_outside]
)
@pytest.mark.parametrize("side", ["candidate", "baseline"])
def test_a_bundle_that_is_not_whole_is_refused_by_name(harm, side, bundle, tmp_path) -> None:
    harmed = make_bundle(tmp_path / "harmed", encoder_folder(tmp_path / "parts"), **SOURCE)
    words = harm(harmed)
    ours, theirs = (harmed, bundle) if side == "candidate" else (bundle, harmed)
    sentence = mistake(edgeprune("check", ours, "--against", theirs))
    assert words in sentence
    assert str(harmed) in sentence


def test_a_baseline_of_another_model_says_so(bundle: Path, tmp_path: Path) -> None:
    for name, make, facts, words in (
        ("other", encoder_folder, {"source": {"sha256": "b" * 64}}, "hash bbbbbbbbbbbb"),
        ("classifier", classifier_folder, SOURCE, "it does text-classification"),
        ("decoder", decoder_folder, SOURCE, "it does text-generation"),
    ):
        other = make_bundle(tmp_path / name, make(tmp_path / f"{name}-parts"), **facts)
        sentence = mistake(edgeprune("check", bundle, "--against", other))
        assert "is of another model" in sentence
        assert words in sentence
        assert str(other) in sentence


def figures(**changes: Any) -> Figures:
    """Figures of a made-up model."""
    facts: dict[str, Any] = {
        "name": "m",
        "task": "feature-extraction",
        "source": "a" * 64,
        "model_bytes": 1000,
        "peak_memory_bytes": 1000,
        "speed": {"encoder": {"median_ms": 10.0, "interval_ms": (9.9, 10.1)}},
        "conditions": {"processor": "p", "onnxruntime": "1", "architecture": "x"},
    }
    return Figures.model_validate(facts | changes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read as a saved result"),
        (b"\xff", "cannot be read as a saved result"),
        (b"[" * 100_000, "cannot be read as a saved result"),
        (b"[]", "holds no JSON object"),
        (b"{}", "is not a saved result (name)"),
        (b'{"format_version": 2}', "was saved by a newer edgeprune (format 2"),
        (b'{"sweep": []}', "holds a sweep"),
        (b'{"measures": {}}', "is not a saved result"),
        (figures(source="b" * 64).model_dump_json().encode(), "is of another model"),
        (figures(task="text-generation").model_dump_json().encode(), "is of another model"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(content, words, bundle, tmp_path) -> None:
    (tmp_path / "saved.json").write_bytes(content)
    assert words in mistake(edgeprune("check", bundle, "--against", tmp_path / "saved.json"))


def test_what_cannot_be_done_is_told_before_anything_is_timed(bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "t.txt"
    data.write_text("the cat\n")
    save = tmp_path / "saved.json"
    save.write_text(figures().model_dump_json())
    beside = ("--against", bundle)
    for arguments, words in (
        ((), "Name a baseline with --against"),
        (("--against", tmp_path / "none"), "There is no folder"),
        (("--save", tmp_path / "no" / "f"), "There is no folder"),
        ((*beside, "--max-slowdown", "fast"), "--max-slowdown fast: Input should be per cent"),
        ((*beside, "--max-size", "-1"), "--max-size -1: "),
        ((*beside, "--max-drop", "-1"), "--max-drop -1.0: "),
        ((*beside, "--task", "cosine"), "needs both --task and --data"),
        ((*beside, "--data", data), "needs both --task and --data"),
        ((*beside, "--task", "stz", "--data", data), "Did you mean sts?"),
        (("--against", save, "--task", "cosine", "--data", data), "name it with --original"),
    ):
        assert words in mistake(edgeprune("check", bundle, *arguments)), arguments


# verdicts ----------------------------------------------------------------------------------------


def speed_check(ratio: Ratio, limits: Limits = LIMITS) -> Check:
    return checks.paired_speed(figures(), figures(), {"encoder": ratio}, limits, BenchSettings())[0]


@given(st.floats(0.2, 5), st.floats(1.0001, 1.5), st.floats(1.0001, 1.5), st.floats(0, 50))
def test_speed_fails_only_where_the_whole_interval_lies_beyond(value, below, above, limit) -> None:
    """In times of a call, that the ratio of speeds turns round."""
    ratio = Ratio(value=value, low=value / below, high=value * above, pairs=20)
    check = speed_check(ratio, Limits(max_slowdown=limit))
    least, most = 100 / ratio.high - 100, 100 / ratio.low - 100
    assert check.interval == pytest.approx((least, most))
    assert check.verdict == ("fail" if least > limit else "undecided" if most > limit else "pass")


def test_more_launches_settle_about_as_often_as_it_says() -> None:
    """A model 3 % slower; then as many launches as the advice names, drawn 200 times."""
    sigma, launches = 0.03, 6
    half = 2.571 * sigma / np.sqrt(launches)
    about = Ratio(value=1 / 1.03, low=(1 - half) / 1.03, high=(1 + half) / 1.03)
    check = speed_check(about)
    assert check.verdict == "undecided"
    more = int(check.sentence.split("--launches ")[1].split()[0])
    assert f"{more} launches in place of 6" in check.sentence
    seconds = int(check.sentence.split("--time-limit ")[1].split()[0])
    assert seconds == pytest.approx(more * 20 / 6, abs=4)
    random, settled = np.random.default_rng(0), 0
    for _ in range(200):
        drawn = 1.03 * random.lognormal(0, sigma, more)
        found = ratio_of_launches(np.ones((more, 1)).tolist(), drawn[:, None].tolist())
        settled += speed_check(found).verdict == "pass"
    assert 0.7 < settled / 200 < 0.98


def test_what_time_cannot_settle_says_so() -> None:
    check = speed_check(Ratio(value=1 / 1.05, low=0.9, high=1.0, pairs=20))
    assert "too close to the limit" in check.sentence


@pytest.mark.parametrize(("slowdown", "least", "most"), [(1.0, 0, 2), (1.10, 95, 100)])
def test_false_alarms_are_rare_and_regressions_are_found(slowdown, least, most) -> None:
    """100 runs of 60 pairs whose ratios vary by 6 %, while the machine drifts by a half."""
    random = np.random.default_rng(1)
    failed = 0
    for _ in range(100):
        drift = 1 + 0.5 * random.random(60)
        before = drift * random.lognormal(0, 0.04, 60)
        after = slowdown * drift * random.lognormal(0, 0.04, 60)
        failed += speed_check(paired_ratio(before, after)).verdict == "fail"
    assert least <= failed <= most


@pytest.mark.parametrize(
    ("mine", "its", "limit", "verdict"),
    [(10, 10, 5, "pass"), (11, 10, 5, "fail"), (10.4, 10, 5, "undecided"), (10, 11, 0, "pass")],
)
def test_saved_speed_adds_both_widths(mine, its, limit, verdict) -> None:
    sides = [
        figures(speed={"encoder": {"median_ms": m, "interval_ms": (m * 0.99, m * 1.01)}})
        for m in (mine, its)
    ]
    check = checks.saved_speed(*sides, Limits(max_slowdown=limit))[0]
    assert check.verdict == verdict
    width = check.interval[1] - check.interval[0]
    assert width == pytest.approx(100 * mine / its * 2 * 0.01 * np.sqrt(2), rel=0.01)


def erf_layers(path: Path, depth: int, divisor: float) -> Bundle:
    """Layers of x/2 * (1 + erf(x / divisor)): the runtime fuses them where it is Gelu."""
    folder = encoder_folder(path)
    model = onnx.load(folder / "model.onnx")
    values = {"root": divisor, "one": 1.0, "half": 0.5}
    for name, value in values.items():
        tensor = onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        model.graph.initializer.append(tensor)
    gather, matmul, mask = model.graph.node
    nodes, last = [gather], "h0"
    for i in range(depth):
        nodes += [
            helper.make_node("Div", [last, "root"], [f"d{i}"]),
            helper.make_node("Erf", [f"d{i}"], [f"e{i}"]),
            helper.make_node("Add", [f"e{i}", "one"], [f"a{i}"]),
            helper.make_node("Mul", [last, f"a{i}"], [f"m{i}"]),
            helper.make_node("Mul", [f"m{i}", "half"], [f"g{i}"]),
        ]
        last = f"g{i}"
    matmul.input[0] = last
    nodes += [matmul, mask]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, folder / "model.onnx")
    return Bundle.open(folder)


def test_a_lost_fusion_is_found_and_a_lost_layer_is_none(tmp_path: Path) -> None:
    whole, shallow, broken, shallow_and_broken = (
        figures(operators=count_operators(erf_layers(tmp_path / name, depth, divisor)))
        for name, depth, divisor in (
            ("whole", 4, 2**0.5),
            ("shallow", 3, 2**0.5),
            ("broken", 4, 1.4),
            # Fewer operators than the whole, and yet none is fused.
            ("both", 1, 1.4),
        )
    )
    assert whole.operators.run["Gelu"] == 4
    assert broken.operators.run["Erf"] == 4
    for candidate, expected in (
        (whole, ["pass", "pass"]),
        (shallow, ["pass", "pass"]),
        (broken, ["fail", "fail"]),
        (shallow_and_broken, ["pass", "fail"]),
    ):
        verdicts = [check.verdict for check in checks.operators(candidate, whole, LIMITS)]
        assert verdicts == expected, candidate
    sentence = checks.operators(broken, whole, LIMITS)[1].sentence
    assert "-4 Gelu" in sentence
    assert "+4 Erf" in sentence
    assert [c.verdict for c in checks.operators(whole, broken, LIMITS)] == ["pass", "pass"]


def scored(task: str, **values: float) -> dict[str, Any]:
    return {"task": task, "data": "d", "digest": "1", "values": values}


@pytest.mark.parametrize(
    ("task", "key", "its", "mine", "change"),
    [
        ("sts", "spearman", 86.0, 85.4, -0.6),
        ("classification", "accuracy", 90.0, 89.0, -1.0),
        ("cosine", "mean_cosine", 0.99, 0.98, -1.0),
        ("perplexity", "perplexity", 20.0, 20.2, 1.0),
        ("kl", "kl_nats_per_token", 0.02, 0.03, 1.0),
    ],
)
def test_lost_quality_counts_in_its_own_direction(task, key, its, mine, change) -> None:
    ours = figures(quality=scored(task, **{key: mine}))
    theirs = figures(quality=scored(task, **{key: its}))
    check = checks.quality(ours, theirs, LIMITS)
    assert check.change == pytest.approx(change)
    assert check.verdict == "fail"
    assert checks.quality(theirs, ours, LIMITS).verdict == "pass"
    assert checks.quality(ours, theirs, Limits(max_drop=abs(change))).verdict == "pass"
    as_built = [figures(as_built=[scored(task, **{key: value})]) for value in (mine, its)]
    assert [check.verdict for check in checks.as_built(*as_built, LIMITS)] == ["fail"]


def test_parity_on_other_text_is_not_compared() -> None:
    other = figures(as_built=[scored("cosine", mean_cosine=1.0) | {"digest": "2"}])
    mine = figures(as_built=[scored("cosine", mean_cosine=0.5)])
    assert [c.verdict for c in checks.as_built(mine, other, LIMITS)] == ["skipped"]
    odd = figures(quality=scored("odd", oddness=1.0))
    with pytest.raises(UserError, match="whether more oddness is better"):
        checks.quality(odd, odd, LIMITS)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (None, "has no sts saved"),
        (scored("cosine", mean_cosine=1.0), "has no sts saved"),
        (scored("sts", spearman=1.0) | {"digest": "2"}, "was measured on other data (d)"),
    ],
)
def test_quality_that_was_asked_for_is_saved_or_refused(saved, words) -> None:
    ours = figures(quality=scored("sts", spearman=1.0)).quality
    with pytest.raises(UserError, match="save it again with the same --task") as refused:
        checks.refuse_other_quality(ours, figures(quality=saved))
    assert words in str(refused.value)
    checks.refuse_other_quality(ours, figures(quality=scored("sts", spearman=9.0)))
    checks.refuse_other_quality(None, figures(quality=saved))


def test_a_saved_result_without_the_quality_is_refused_before_anything_is_timed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "t.txt"
    texts.write_text("the cat\na dog ran far\n")
    (tmp_path / "saved.json").write_text(figures().model_dump_json())
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("timed"))
    sentence = mistake(
        edgeprune(
            *("check", bundle, "--against", tmp_path / "saved.json", "--strict"),
            *("--task", "cosine", "--data", texts, "--original", bundle),
        )
    )
    assert "has no cosine saved: save it again with the same --task" in sentence


@pytest.mark.parametrize(
    "harm",
    [
        {"model_bytes": 0},
        {"peak_memory_bytes": 0},
        {"speed": {"encoder": {"median_ms": 0}}},
        {"speed": {"encoder": {"median_ms": float("nan")}}},
        {"speed": {"encoder": {"median_ms": 1, "interval_ms": [0, 1]}}},
        {"speed": {"encoder": {"median_ms": 1, "interval_ms": [-1, 1]}}},
        {"operators": {"written": {}, "run": {}}},
        {"operators": {"written": {}, "run": {"Gather": 0}}},
        {"as_built": [scored("cosine")]},
        {"as_built": [scored("cosine", mean_cosine=float("nan"))]},
    ],
)
def test_saved_figures_that_cannot_be_are_refused(harm, tmp_path) -> None:
    whole = json.loads(figures().model_dump_json())
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(whole | harm))
    with pytest.raises(UserError, match=f"is not a saved result .{next(iter(harm))}"):
        read_figures(file)


@pytest.mark.parametrize("values", [{"other": 1.0}, {"perplexity": 0.0}])
def test_a_saved_score_that_is_missing_or_no_score_is_refused(values) -> None:
    ours = figures(quality=scored("perplexity", perplexity=20.0))
    with pytest.raises(UserError, match="gives no perplexity"):
        checks.quality(ours, figures(quality=scored("perplexity", **values)), LIMITS)


@pytest.mark.parametrize(
    "harm",
    [
        {"stages": 5},
        {"stages": [5]},
        {"stages": [{"name": "measure", "quality": [{"task": "cosine"}]}]},
        {"recipe": 5},
        {"text": 5},
    ],
)
def test_a_manifest_that_is_damaged_is_refused(harm, bundle, tmp_path) -> None:
    harmed = make_bundle(tmp_path / "harmed", encoder_folder(tmp_path / "parts"), **SOURCE, **harm)
    sentence = mistake(edgeprune("check", harmed, "--against", bundle))
    assert f"{harmed / MANIFEST} is damaged ({next(iter(harm))}" in sentence


def test_memory_is_looked_at_again_before_it_fails(bundle: Path, monkeypatch) -> None:
    """A first look that was disturbed; the next ones agree."""
    looks = iter([105, 104, 101, 103])
    monkeypatch.setattr(run, "peak_memory", lambda subject, settings: next(looks))
    first = make_speed("feature-extraction").model_copy(
        update={
            "candidate": Side(name="c", peak_memory_bytes=120),
            "baseline": Side(name="b", peak_memory_bytes=102),
        }
    )
    opened = Bundle.open(bundle)
    again = run._look_at_memory_again(first, opened, opened, None, LIMITS)
    assert again.candidate.peak_memory_bytes == 104
    assert again.baseline.peak_memory_bytes == 101
    assert run._look_at_memory_again(again, opened, opened, None, LIMITS) == again
    assert next(looks, None) is None


def test_every_limit_names_the_option_that_sets_it() -> None:
    larger = figures(
        model_bytes=1100,
        peak_memory_bytes=1100,
        operators={"written": {}, "run": {"MatMul": 3}},
        quality=scored("sts", spearman=1.0),
    )
    theirs = figures(
        operators={"written": {}, "run": {"MatMul": 2}}, quality=scored("sts", spearman=9.0)
    )
    slower = Ratio(value=0.5, low=0.4, high=0.6, pairs=20)
    failed = {
        "max_size": checks.size(larger, theirs, LIMITS),
        "max_memory": checks.memory(larger, theirs, LIMITS),
        "max_operators": checks.operators(larger, theirs, LIMITS)[0],
        "max_slowdown": speed_check(slower),
        "max_drop": checks.quality(larger, theirs, LIMITS),
    }
    assert set(failed) == set(Limits.model_fields)
    for setting, check in failed.items():
        assert check.verdict == "fail"
        assert f"is allowed (--{setting.replace('_', '-')})" in check.sentence


def test_saved_figures_that_were_read_are_those_that_were_written(
    bundle: Path, tmp_path: Path
) -> None:
    result = make_speed("feature-extraction")
    opened = Bundle.open(bundle)
    fresh = figures_of(
        opened,
        "m",
        result.model_copy(
            update={"candidate": result.candidate.model_copy(update={"task": opened.task})}
        ),
        "candidate",
        None,
    )
    file = tmp_path / "saved.json"
    fresh.write(file)
    assert read_figures(file) == fresh
    assert list(json.loads(file.read_text())) == list(Figures.model_fields)
    assert json.loads(file.read_text())["quality"] is None


# formats and exit codes --------------------------------------------------------------------------


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> run.Outcome:
    """An outcome with a check of each verdict, or without the failure."""
    ours, theirs = figures(name="a|b/<new>"), figures(name="old_one")
    found_ = [
        checks.size(figures(model_bytes=1100), theirs, LIMITS),
        checks.memory(ours, theirs, LIMITS),
        speed_check(Ratio(value=1 / 1.03, low=0.93, high=1.0, pairs=20)),
        checks.quality(ours, theirs, LIMITS),
    ]
    outcome = run.Outcome(ours, theirs, found_, LIMITS, ["turns differed by 9 %"])
    monkeypatch.setattr(run, "check", lambda *_: outcome)
    return outcome


@pytest.mark.parametrize(
    ("kept", "strict", "code"),
    [
        (("fail", "pass", "undecided", "skipped"), False, 1),
        (("pass", "undecided", "skipped"), False, 0),
        (("pass", "undecided", "skipped"), True, 1),
        (("pass", "skipped"), True, 0),
    ],
)
def test_exit_codes_and_junit(kept, strict, code, canned, monkeypatch) -> None:
    checks_ = [check for check in canned.checks if check.verdict in kept]
    outcome = dataclasses.replace(canned, checks=checks_)
    monkeypatch.setattr(run, "check", lambda *_: outcome)
    arguments = ["check", "x", "--against", "y", *(["--strict"] if strict else [])]
    result = edgeprune(*arguments, "--format", "junit")
    assert result.exit_code == code
    assert result.stderr.startswith("edgeprune: ") == bool(code)
    suite = ElementTree.fromstring(result.stdout.encode())
    wrong = ["fail", "undecided"] if strict else ["fail"]
    failed = [check for check in checks_ if check.verdict in wrong]
    assert [case.get("name") for case in suite.iter("testcase")] == [
        check.name for check in checks_
    ]
    messages = [failure.get("message") for failure in suite.iter("failure")]
    assert messages == [check.sentence for check in failed]
    assert suite.get("failures") == str(len(failed))
    passed = sum(check.verdict == "pass" for check in checks_)
    assert suite.get("skipped") == str(len(checks_) - len(failed) - passed)


def test_markdown_is_a_table_whatever_the_names(canned: run.Outcome) -> None:
    result = edgeprune("check", "x", "--against", "y", "--format", "markdown")
    lines = result.stdout.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(canned.checks)
    assert {row.count("|") for row in rows} == {7}
    assert "❌ fail" in rows[2]
    names, _, noisy = lines[-3:]
    assert "a\\|b/\\<new\\>" in names
    assert noisy == "A noisy machine: turns differed by 9 %."
    assert "give --task and --data" in result.stdout.replace("\\", "")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup_in_any_format(name: str, canned: run.Outcome) -> None:
    def named(name: str) -> run.Outcome:
        ours, theirs = (
            each.model_copy(update={"name": name}) for each in (canned.candidate, canned.baseline)
        )
        named_checks = [
            check.model_copy(update={"name": name, "sentence": f"{name} is slower."})
            for check in canned.checks
        ]
        return dataclasses.replace(
            canned, candidate=ours, baseline=theirs, checks=named_checks, disturbed=[name]
        )

    def read(name: str) -> tuple[list[str], list[str]]:
        kinds, texts = shape(formats.markdown(named(name)))
        # A blank at a name's end is kept as one where more follows.
        return kinds, [
            text.replace(one_line(name), "NAME").replace("NAME .", "NAME.") for text in texts
        ]

    assert read(name) == read("innocent")
    suite = ElementTree.fromstring(formats.junit(named(name), strict=True).encode())
    cases = list(suite.iter("testcase"))
    assert [case.get("name") for case in cases] == [printable(name)] * len(canned.checks)
    said = [each.get("message") or each.text for case in cases for each in case]
    assert [each.split() for each in said] == [printable(f"{name} is slower.").split()] * len(cases)
    assert json.loads(formats.as_json(named(name)))["candidate"]["name"] == name


def test_text_names_what_needs_words_at_80_columns(canned: run.Outcome) -> None:
    result = edgeprune("check", "x", "--against", "y")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "launches in place of 6" in " ".join(result.stdout.split())
    assert "+10.0 %" in result.stdout
    assert "A noisy machine: turns differed by 9 %." in result.stdout
    saved = json.loads(formats.as_json(canned))
    assert (saved["verdict"], saved["disturbed"]) == ("fail", canned.disturbed)


@pytest.mark.parametrize("form", ["text", "json", "junit", "markdown"])
def test_the_verdict_says_what_was_not_checked(
    form: str, canned: run.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity = checks.as_built(figures(), figures(), LIMITS)
    outcome = dataclasses.replace(canned, checks=[canned.checks[1], canned.checks[3], *parity])
    monkeypatch.setattr(run, "check", lambda *_: outcome)
    result = edgeprune("check", "x", "--against", "y", "--format", form)
    shown = " ".join(result.stdout.split())
    assert "Nothing that was checked became worse than allowed" in shown
    assert "quality and parity as built not checked" in shown


def test_what_was_compared_with_nothing_did_not_pass(canned: run.Outcome) -> None:
    outcome = dataclasses.replace(canned, baseline=None, checks=[])
    assert outcome.verdict == "skipped"
    for form in formats.FORMATS.values():
        assert "compared with nothing" in form(outcome, False)


def test_medians_that_contradict_the_paired_ratio_get_a_word(
    canned: run.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Medians of 10 and 11 ms, 10 % apart, and pairs that differ by 1 %."""
    slower = {"encoder": {"median_ms": 11.0, "interval_ms": (10.9, 11.1)}}
    ours, theirs = figures(speed=slower), figures()
    ratio = Ratio(value=1 / 1.01, low=1 / 1.02, high=1.0, pairs=20)
    [check] = checks.paired_speed(ours, theirs, {"encoder": ratio}, LIMITS, BenchSettings())
    assert check.verdict == "pass"
    assert "the medians alone differ by +10.0 %" in check.note
    assert speed_check(ratio).note == ""
    # Within a wide interval, but the other way.
    wide = Ratio(value=1.02, low=0.9, high=1.1, pairs=20)
    other_way = {"encoder": {"median_ms": 10.3, "interval_ms": (10.2, 10.4)}}
    [other] = checks.paired_speed(
        figures(speed=other_way), theirs, {"encoder": wide}, LIMITS, BenchSettings()
    )
    assert "the medians alone differ by +3.0 %" in other.note
    outcome = dataclasses.replace(canned, checks=[check])
    monkeypatch.setattr(run, "check", lambda *_: outcome)
    for form in ("text", "json", "junit", "markdown"):
        result = edgeprune("check", "x", "--against", "y", "--format", form)
        assert "medians alone differ" in " ".join(result.stdout.split()), form


def test_figures_are_read_as_they_were_saved(tmp_path: Path) -> None:
    saved = figures(quality=scored("sts", spearman=1.0), operators={"written": {}, "run": {"A": 1}})
    run.save(saved, tmp_path / "f")
    assert read_figures(tmp_path / "f") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_was_measured_is_printed_though_it_cannot_be_saved(
    canned: run.Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "f")

    monkeypatch.setattr(run, "save", full)
    result = edgeprune("check", "x", "--against", "y", "--save", tmp_path / "f")
    assert result.exit_code == 2
    assert "The disk is full" in result.stderr
    assert "+10.0 %" in result.stdout


def test_a_place_that_cannot_be_saved_in_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "check", lambda *_: pytest.fail("measured"))
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in mistake(edgeprune("check", "x", "--save", tmp_path / "pipe"))
    (tmp_path / "f").write_text("before")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may all
    for option, file, words in (
        ("--save", "new", "may not be written"),
        ("--json", "new", "may not be written"),
        ("--save", "f", "nothing may be written in"),
    ):
        arguments = ("check", "x", "--against", "y", option, tmp_path / file)
        assert words in mistake(edgeprune(*arguments)), arguments
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "f"}


def test_a_link_to_a_saved_result_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    run.save(figures(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read_figures(tmp_path / "real") == figures()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="not a regular file"):
        run.save(figures(), tmp_path / "circle")


# the workflow ------------------------------------------------------------------------------------


def test_the_workflow_runs_commands_that_there_are() -> None:
    """Its scripts are bash, and what they ask of edgeprune exists."""
    root = Path(__file__).parents[3]
    workflow = yaml.safe_load((root / "deploy/github-actions/edgeprune.yml").read_text())
    scripts = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    used = set()
    for script in scripts:
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
        for line in script.replace("\\\n", " ").splitlines():
            if found_ := re.match(r"\s*edgeprune (\w+)(.*)", line):
                command = main.commands[found_[1]]
                known = {name for parameter in command.params for name in parameter.opts}
                assert set(re.findall(r" (--[\w-]+)", found_[2])) <= known
                used.add(found_[1])
                if found_[1] == "check":
                    assert {"--task", "--data", "--original"} <= set(found_[2].split())
    assert used == {"build", "check"}
