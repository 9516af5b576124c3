"""`edgeprune calibrate`: tables of this machine, which the planner then reads."""

import json

import pytest
from click.testing import CliRunner
from tiny_models import make_model

from edgeprune.cli import main
from edgeprune.measure.bench.beside import Where, time_beside
from edgeprune.search.times import break_even, formats
from edgeprune.search.times.settings import BlockSettings
from edgeprune.targets import detect, find
from edgeprune.targets.block_times import kept
from edgeprune.targets.break_even import break_even as sparse_table
from edgeprune.targets.format_times import format_times as dense_table


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def few(monkeypatch):
    """One shape of linears, of one row."""
    for module in (formats, break_even):
        measure = "measure_formats" if module is formats else "measure_break_even"
        whole = getattr(module, measure)
        monkeypatch.setattr(
            f"edgeprune.search.times.calibrate.{measure}",
            lambda target, rounds, whole=whole: whole(target, rounds, ((64, 64),), (1,)),
        )


def _calibrate(*options):
    return CliRunner().invoke(main, ["calibrate", "--rounds", "2", "--json", "-", *options])


def test_tables_are_kept_and_read_instead_of_those_that_ship(cache, few):
    target = detect()
    before = target.format_times, target.break_even
    assert target.own_tables == []
    result = _calibrate("--only", "formats")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    [written] = shown["kept"]
    assert (shown["target"], written["kind"], written["points"]) == (target.name, "formats", 1)
    assert [str(file) for file in target.own_tables] == [written["file"]]
    assert str(cache) in written["file"]
    [point] = target.format_times.points
    assert (point.inputs, point.outputs, point.rows) == (64, 64, 1)
    assert set(point.times) == {"int8", "int8-token", *(f"int4-{n}" for n in (16, 32, 64, 128))}
    assert target.break_even == before[1]
    for other in (each for each in ("arm", "x86-avx2") if each != target.name):
        assert find(other).own_tables == []
    for file in target.own_tables:
        file.unlink()
    assert target.format_times == before[0]


def test_a_table_measured_anew_is_read_anew(cache, few):
    assert _calibrate("--only", "formats").exit_code == 0
    [file] = detect().own_tables
    content = json.loads(file.read_text())
    content["points"][0]["us"] = {"int8": 12345.678}
    assert detect().format_times.points[0].times != {"int8": 12345.678}
    file.write_text(json.dumps(content))
    assert detect().format_times.points[0].times == {"int8": 12345.678}


def test_a_damaged_table_says_so(cache, few):
    assert _calibrate("--only", "formats").exit_code == 0
    [file] = detect().own_tables
    file.write_text('{"target": "x"}')
    with pytest.raises(Exception, match=r"is damaged \('points'\).*edgeprune calibrate"):
        dense_table(detect().name)


def test_sparse_linears_are_timed_where_they_can_run(cache, few):
    result = _calibrate("--only", "break-even")
    if result.exit_code:
        assert "operator library" in result.stderr
        assert detect().own_tables == []
        return
    [point] = sparse_table(detect().name).points
    assert set(point.sparse) == {"int8-4x16", "int8-4x1"}


def test_blocks_are_a_model_s(cache, tmp_path):
    make_model("bert", tmp_path / "model", unequal=False)
    options = ["--only", "blocks", "--tokens", "12"]
    result = _calibrate(*options)
    assert result.exit_code == 2
    assert "name it with --model" in result.stderr
    result = _calibrate("--only", "formats", "--model", str(tmp_path / "model"))
    assert result.exit_code == 2
    assert "--model is for times of blocks" in result.stderr
    result = _calibrate("--form", "int3")
    assert result.exit_code == 2
    assert "no --form 'int3'" in result.stderr


class _Device:
    """In place of a host that ssh reaches: this machine, by another name."""

    def __init__(self, destination, python):
        assert (destination, python) == ("pi@device", "python3")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def where(self, threads):
        return Where(target="arm-dotprod", facts={"processor": "a Pi's", "threads": threads})

    def time_beside(self, files, settings, work):
        return time_beside(files, settings, work)


def test_a_device_s_blocks_are_kept_under_its_own_fingerprint(cache, tmp_path, monkeypatch):
    make_model("bert", tmp_path / "model", unequal=False)
    monkeypatch.setattr("edgeprune.search.times.calibrate.Timer", _Device)
    monkeypatch.setattr("edgeprune.search.times.settings.BlockSettings", _Few)
    options = ["--model", str(tmp_path / "model"), "--tokens", "12", "--remote", "pi@device"]
    result = _calibrate(*options)
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["target"] == "arm-dotprod"
    about = (shown["blocks"]["model"], "int8", "encoder", 12, 1, 1)
    assert kept(*about) is None
    found = kept(*about, _Device("pi@device", "python3").where(1).facts)
    assert found.to_json() == shown["blocks"]
    assert detect().own_tables == []


class _Few(BlockSettings):
    """A few small models, briefly."""

    layers: int = 2
    head_levels: int = 2
    channel_levels: int = 2
    launches: int = 1
    time_limit: float = 0.1


@pytest.mark.parametrize("options", [[], ["--only", "formats", "--model", "x"]])
def test_a_device_s_linears_are_not_timed(options, cache):
    result = _calibrate("--remote", "pi@device", *options)
    assert result.exit_code == 2
    assert "--remote is for times of a model's blocks" in result.stderr
