"""The real command on a tiny model: what it writes, what it resumes, what it refuses."""

import contextlib
import itertools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from tiny_builds import model_folder, recipe_file, text_file

from edgeprune.cli import main
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.runtime.bundle import Bundle
from edgeprune.search import engine, measured
from edgeprune.search.choosing import MARGIN
from edgeprune.search.prepare import prepare
from edgeprune.search.record import SearchRecord
from edgeprune.search.speeds import Speeds
from edgeprune.search.times.measure import model_name
from edgeprune.search.trial import try_out
from edgeprune.targets import NAMES, detect
from edgeprune.targets.block_times import BlockTimes, Level

RECIPE = """
name: tiny
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
recover: {checks: 2, precision: float32}
vocabulary: {min_count: 40}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.2, launches: 1, profile: false, curve: [], stages: false}
"""
ELSEWHERE = next(name for name in NAMES if name not in ("auto", detect().name))
QUICK = ["--steps", "12", "--candidates", "2"]


def table(model: Path) -> BlockTimes:
    """Times as they might have been measured: channels take nearly all of it."""
    anatomy = open_checkpoint(str(model)).anatomy
    part = anatomy.attentions[0]
    return BlockTimes(
        model=model_name(anatomy),
        format="int8",
        work="encoder",
        tokens=12,
        batch=1,
        threads=1,
        rest=10.0,
        layer=20.0,
        heads=(Level(count=1, us=0.0), Level(count=part.num_heads, us=30.0)),
        channels=(Level(count=1, us=0.0), Level(count=40, us=100.0)),
        layers=len(anatomy.blocks),
        whole=10.0 + len(anatomy.blocks) * 150.0,
        error=0.01,
        machine={},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    model = model_folder(folder / "model", pieces=True)
    text_file(folder / "text.txt", 80)
    recipe_file(folder / "recipe.yaml", RECIPE)
    table(model).keep()
    return folder


def search(place: Path, output: str, *more: str):
    given = ["search", str(place / "recipe.yaml"), "--model", str(place / "model")]
    given += ["--data", str(place / "text.txt"), "--output", str(place / output)]
    return CliRunner().invoke(main, [*given, *more])


def half_as_long_is_twice_as_fast(patch: pytest.MonkeyPatch) -> None:
    """A tiny model in INT8 is no faster, and its times are noise."""
    patch.setattr(Speeds, "original", 320e-6)
    patch.setattr(Speeds, "learn", lambda self, shape, speedup: None)


@pytest.fixture(scope="module")
def found(place):
    with pytest.MonkeyPatch.context() as patch:
        half_as_long_is_twice_as_fast(patch)
        result = search(place, "out", "--speedup", "2.2", *QUICK)
        again = search(place, "out", "--speedup", "2.2", *QUICK)
    return result, again


def test_a_search_leaves_bundles_a_record_and_a_page(place, found):
    result, _ = found
    assert result.exit_code in (0, 1), result.output  # a tiny model's speed is noise
    record = SearchRecord.read(place / "out" / "search.json", "")
    assert [each.name for each in record.models] == ["whole", "1-2.2x"]
    assert record.finished
    for each in record.models:
        assert (place / "out" / "models" / each.name / "bundle" / "edgeprune.json").is_file()
    made = record.models[1]
    assert made.predicted == pytest.approx(2.2 * MARGIN, rel=0.15)
    assert made.shape is not None
    assert 1 <= len(made.shape["layers"]) <= 2
    assert {trial.of for trial in record.trials} == {"1-2.2x"}
    assert sum(trial.chosen for trial in record.trials) == 1
    assert (place / "out" / "best" / "edgeprune.json").is_file()
    assert "<html" in (place / "out" / "search.html").read_text()


def test_tokens_that_the_text_does_not_use_leave_every_model(place, found):
    whole = json.loads((place / "model" / "config.json").read_text())["vocab_size"]
    configs = sorted(place.glob("out/models/*/bundle/config.json"))
    sizes = {json.loads(each.read_text())["vocab_size"] for each in configs}
    assert len(configs) == 2
    assert len(sizes) == 1
    assert sizes.pop() < whole


def test_the_manifest_of_a_model_has_the_shape_that_the_record_has(place, found):
    record = SearchRecord.read(place / "out" / "search.json", "")
    manifest = json.loads(
        (place / "out" / "models" / "1-2.2x" / "bundle" / "edgeprune.json").read_text()
    )
    stage = next(stage for stage in manifest["stages"] if stage["name"] == "shape")
    assert stage["layers"] == record.models[1].shape["layers"]
    assert stage["heads"] == record.models[1].shape["heads"]
    assert stage["channels"] == record.models[1].shape["channels"]


def test_the_same_command_takes_what_there_is(place, found):
    first, again = found
    assert again.exit_code == first.exit_code
    assert "[search] losses of levels" in again.stderr
    assert "recover" not in again.stderr  # nothing was built


def built(place: Path, output: str, hours: str):
    """What a build for a speed of 2.2 says, and the command without that speed."""
    given = ["build", str(place / "recipe.yaml"), "--model", str(place / "model")]
    given += ["--data", str(place / "text.txt"), "--output", str(place / output)]
    result = CliRunner().invoke(main, [*given, "--speedup", "2.2", "--hours", hours])
    assert result.exit_code in (0, 1), result.stderr
    record = SearchRecord.read(place / output / "search.json", "")
    assert record.wish["speedup"] == [2.2]
    assert record.settings["hours"] == float(hours)
    assert Bundle.open(place / output / "best").task == "feature-extraction"
    return result, given


def test_a_build_with_a_speed_is_a_search_for_it(place, found, monkeypatch):
    """The same one: it takes what the search has made."""
    half_as_long_is_twice_as_fast(monkeypatch)

    def few_steps(*given):
        *same, settings, output = given
        brief = settings.model_copy(update={"steps": 12, "candidates": 2})
        return prepare(*same, brief, output)

    monkeypatch.setattr("edgeprune.search.prepare.prepare", few_steps)
    result, given = built(place, "out", "2")
    assert "recover" not in result.stderr
    for more, why in ((["--speedup", "2", "--dry-run"], "leave one"), (["--hours", "1"], "add --")):
        refused = CliRunner().invoke(main, [*given, *more])
        assert refused.exit_code == 2
        assert why in refused.stderr


@pytest.mark.slow
def test_a_build_with_a_speed_takes_its_hours(place, monkeypatch):
    half_as_long_is_twice_as_fast(monkeypatch)
    result, _ = built(place, "built", "0.03")
    assert "recover" in result.stderr


def test_a_search_whose_hours_are_over_ends_with_what_it_has_and_says_so(place):
    result = search(place, "over", "--speedup", "40", "--hours", "0.0001")
    assert result.exit_code == 1  # not so fast
    told = " ".join(result.stdout.split())
    assert "hours were over after 0 models beside the whole one" in told
    assert "with more --hours the same command goes on" in told
    assert (place / "over" / "best" / "edgeprune.json").is_file()
    record = SearchRecord.read(place / "over" / "search.json", "")
    assert record.hours_over
    assert not record.finished


def test_rays_client_is_asked_for_before_a_cluster_is(place, monkeypatch):
    """Ray itself comes without what speaks ray://."""
    monkeypatch.setitem(sys.modules, "edgeprune.search.cluster", SimpleNamespace(cluster=None))
    monkeypatch.setitem(sys.modules, "grpc", None)
    result = search(place, "refused", "--cluster", "ray://head:10001")
    assert result.exit_code == 2
    assert "package grpc" in result.stderr
    assert "[cluster]" in result.stderr


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--max-drop", "1"], "name one with --task"),
        (["--speedup", "0.5"], "more than 1"),
        (["--speedup", "3", "--latency", "2ms"], "give one of the two"),
        (["--latency", "soon"], "is no number of ms"),
        (["--task", "sts"], "give both"),
        (["--work", "decode"], "this model's work is encoder"),
        (["--on", ELSEWHERE], f"this machine is no {ELSEWHERE}"),
        (["--workers", "2", "--cluster", "here:1"], "give one"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(place, given, why):
    result = search(place, "refused", *given)
    assert result.exit_code == 2
    assert why in result.stderr
    assert not (place / "refused").exists()


def test_data_that_is_trained_on_cannot_judge(place):
    lines = (place / "text.txt").read_text().splitlines()
    rows = [
        {"text": a, "text_pair": b, "score": n % 5}
        for n, (a, b) in enumerate(itertools.pairwise(lines))
    ]
    file = place / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    result = search(place, "refused", "--task", "sts", "--eval", str(file))
    assert result.exit_code == 2
    assert "are in the text that is trained on" in result.stderr


def test_a_folder_of_something_else_is_left_alone(place):
    (place / "other").mkdir()
    (place / "other" / "mine.txt").write_text("mine")
    result = search(place, "other")
    assert result.exit_code == 2
    assert "holds something other than a search" in result.stderr
    assert [file.name for file in (place / "other").iterdir()] == ["mine.txt"]


def test_a_folder_whose_search_is_somebody_elses_is_left_alone(place):
    for name in ("search", "best"):
        (place / "project" / name).mkdir(parents=True)
        (place / "project" / name / "mine.py").write_text("mine")
    result = search(place, "project")
    assert result.exit_code == 2
    assert "holds something other than a search" in result.stderr
    assert (place / "project" / "best" / "mine.py").read_text() == "mine"
    assert (place / "project" / "search" / "mine.py").read_text() == "mine"


def test_what_was_trained_elsewhere_is_timed_here(place, monkeypatch):
    seen = []

    class Elsewhere:
        alone, together = False, 1

        def run(self, trials):
            seen.extend(trials)
            return [try_out(trial) for trial in trials]

    monkeypatch.setattr(engine, "engine", lambda *_: contextlib.nullcontext(Elsewhere()))
    result = search(place, "elsewhere", "--megabytes", "1000")
    assert result.exit_code == 0, result.output
    [trial] = seen
    assert trial.recipe["measure"]["seconds"] == 1.0
    bundle = place / "elsewhere" / "models" / "whole" / "bundle"
    stages = json.loads((bundle / "edgeprune.json").read_text())["stages"]
    measure = next(stage for stage in stages if stage["name"] == "measure")
    assert measure["speed"]["settings"]["time_limit"] == 0.2  # the recipe's, in this process
    found = SearchRecord.read(place / "elsewhere" / "search.json", "").models[0]
    assert found.ms == measure["speed"]["measures"]["encoder"]["candidate"]["median_ms"]


def test_losses_are_kept_for_the_next_search(place, found, monkeypatch):
    monkeypatch.setattr(measured, "measure_losses", lambda *_: pytest.fail("measured again"))
    (kept,) = (place / "out" / "search").glob("losses-*.json")
    (place / "next" / "search").mkdir(parents=True)
    shutil.copy(kept, place / "next" / "search")
    result = search(place, "next", "--megabytes", "1000", *QUICK)
    assert result.exit_code == 0, result.output
