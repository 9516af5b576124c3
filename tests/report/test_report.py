"""The report: its numbers against the records, nothing fetched, and what is missing told."""

import json
import math
import os
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from hostile import NAMES
from hypothesis import given
from hypothesis import strategies as st
from justhtml import JustHTML
from speeds import make_speed
from tiny_builds import RECIPE, model_folder, recipe_file, text_file

from edgeprune.base.errors import UserError
from edgeprune.base.escape import one_line
from edgeprune.base.words import known, listed, many, size
from edgeprune.cli import main
from edgeprune.measure.bench.record import Point, Profile, Spent
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.check import checks
from edgeprune.measure.check.figures import measured_as_built, read_figures
from edgeprune.measure.check.settings import Limits
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.measure.inspect import describe, inspect_table
from edgeprune.report.canvas import SERIES, _drawn, _render
from edgeprune.report.figures import comparison, faster
from edgeprune.report.headline import headline
from edgeprune.report.made import made, model_name
from edgeprune.report.others import joined, read_others
from edgeprune.report.pictures.latency import lines
from edgeprune.report.pictures.operators import rows
from edgeprune.report.pictures.speed_quality import speed_quality
from edgeprune.report.pictures.trajectory import variance
from edgeprune.report.points import Point as Shown
from edgeprune.report.points import points
from edgeprune.report.records import Known, Quality, open_record
from edgeprune.report.write import build_page, compare_page, render
from edgeprune.runtime.bundle import Bundle

QUIET = ", profile: false, curve: [], stages: false"
# Everything that a report draws: mixed precision asks for sensitivities.
WHOLE = RECIPE.replace(QUIET, ", curve: [4, 16]").replace(
    "{calibration_samples: 8}",
    "{calibration_samples: 8, weights: mixed, average_bits: 8, group: 16}",
)
UNDRAWN = pytest.mark.usefixtures("undrawn")
DRAWN = {
    "quality-and-speed": 1,
    "latency": 1,
    "operators": 1,
    "layers": 2,
    "formats": 1,
    "sensitivity": 3,
    "prune-channels": 4,
    "prune-heads": 4,
    "training": 2,
}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True, scope="module")
def _pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.report.canvas._drawn", _drawn)
        patch.setattr("edgeprune.report.canvas._render", _render)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One build that records everything."""
    folder = tmp_path_factory.mktemp("report")
    recipe = recipe_file(folder / "tiny.yaml", WHOLE)
    model, text = model_folder(folder / "model"), text_file(folder / "text.txt", 120)
    out = folder / "out"
    done = run("build", recipe, "--model", model, "--data", text, "--output", out)
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Painted and not rendered, which takes longest."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
    monkeypatch.setattr("edgeprune.report.canvas._render", lambda _figure: empty)


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """The build's report alone, to be changed."""
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copyfile(built / "report.json", folder / "report.json")
    return folder


def change(folder: Path, edit: Any) -> dict[str, Any]:
    """Edit report.json by a function of its stages by name."""
    content = json.loads((folder / "report.json").read_text())
    edit({stage["name"]: stage for stage in content["stages"]})
    (folder / "report.json").write_text(json.dumps(content))
    return content


class Page:
    """A page as a browser reads it; refuses what is no valid HTML."""

    def __init__(self, file: Path) -> None:
        self.source = file.read_text(encoding="utf-8")
        self.tree = JustHTML(self.source, collect_errors=True, sanitize=False)
        assert self.tree.errors == []
        # Where a name may be broken is no part of its text.
        self.tree = JustHTML(self.source.replace("<wbr>", ""), sanitize=False)
        self.sections = {each.attrs["id"]: each for each in self.tree.query("section")}

    def text(self, name: str | None = None) -> str:
        found = self.sections[name] if name else self.tree
        return " ".join(found.to_text().split())

    def cells(self, name: str) -> list[list[str]]:
        return [
            [" ".join(cell.to_text().split()) for cell in row.query("td")]
            for row in self.sections[name].query("tr")
        ]


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page(built / "report.html")


@pytest.fixture(scope="module")
def did(built: Path) -> dict[str, Any]:
    content = json.loads((built / "report.json").read_text())
    return {stage["name"]: stage for stage in content["stages"]}


# The page --------------------------------------------------------------------------------------


def test_the_page_is_whole_and_fetches_nothing(page: Page) -> None:
    assert not re.search(r"https?:|//\w|url\((?!#)|@import|<script|<link|<img", page.source)
    known = [each.attrs["id"] for each in page.tree.query("[id]")]
    assert len(known) == len(set(known))
    for attribute in ("href", "clip-path"):
        for element in page.tree.query(f"[{attribute}]"):
            reference = element.attrs[attribute].removeprefix("url(").rstrip(")")
            assert reference.removeprefix("#") in known
    assert len(page.source.encode()) < 500_000


def test_every_picture_is_there_with_a_label(page: Page) -> None:
    found = {name: len(each.query("svg")) for name, each in page.sections.items()}
    assert {name: count for name, count in found.items() if count} == DRAWN
    assert all(svg.attrs["aria-label"] for svg in page.tree.query("svg"))


def test_colours_are_the_pages_variables(page: Page) -> None:
    """So that a drawing follows light and dark."""
    drawn = "".join(svg.to_html() for svg in page.tree.query("svg"))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    used = set(re.findall(r"var\(--([\w-]+)\)", drawn))
    light, dark = page.source.split("@media (prefers-color-scheme: dark)")[:2]
    for variable in used:
        assert f"--{variable}:" in light
        assert f"--{variable}:" in dark
    assert {"ink", "muted", "grid", "original", "series-1"} <= used
    assert len(SERIES) == len(set(SERIES))


def test_the_numbers_are_the_records(page: Page, did: dict[str, Any]) -> None:
    table = {row[0]: row[1:] for row in page.cells("result") if row}
    speed = did["measure"]["speed"]
    times = speed["measures"]["encoder"]
    ratio = times["ratio"]
    assert table["latency, median"] == [
        *(
            f"{times[side]['median_ms']:.2f} ms "
            f"({times[side]['interval_ms'][0]:.2f} to {times[side]['interval_ms'][1]:.2f})"
            for side in ("baseline", "candidate")
        ),
        str(faster(Known(ratio["value"], ratio["low"], ratio["high"]))).replace(
            ")", "; a noisy machine)" if speed["noise"]["noisy"] else ")"
        ),
    ]
    its, mine = (speed[side]["model_bytes"] for side in ("baseline", "candidate"))
    assert table["graph and data"] == [
        f"{its / 1e3:.1f} kB",
        f"{mine / 1e3:.1f} kB",
        f"{its / mine:.1f}x smaller",
    ]
    quality = did["measure"]["quality"][0]
    low, high = quality["interval"]["mean_cosine"]
    value, ends = known(quality["values"]["mean_cosine"], low, high)
    assert table["mean cosine (held-out text), to the original"][1] == f"{value} ({ends})"

    stages = {row[0]: row for row in page.cells("stages") if row}
    assert list(stages) == list(did)
    for name, stage in did.items():
        assert stages[name][2] == f"{stage['seconds']:,.1f}"
    assert f"{did['load']['parameters']:,}" in stages["load"][1]

    kept = [row for row in page.cells("layers") if row]
    assert kept == [
        [str(layer), str(heads), str(channels)]
        for layer, (heads, channels) in enumerate(
            zip(did["cut"]["heads"], did["cut"]["channels"], strict=True)
        )
    ]
    assert f"{sum(did['cut']['channels'])} of {sum(did['load']['channels'])} kept" in page.source

    entries = did["quantize"]["plan"]["entries"]
    tensors = {row[0]: row for row in page.cells("formats") if len(row) == 6}
    assert [(row[2], row[3]) for row in tensors.values()] == [
        (entry["format"], str(entry["bits"])) for entry in entries
    ]
    costs = {row[0]: row[1:] for row in page.cells("sensitivity") if row}
    assert costs == {
        name: [f"{cost:.3g}" for cost in each.values()]
        for name, each in did["quantize"]["costs"].items()
    }

    for pool in did["prune"]["pools"]:
        updates = [row for row in page.cells(f"prune-{pool['pattern']}") if row]
        assert [(row[0], row[3], row[4]) for row in updates] == [
            (str(step["step"]), f"{step['budget']:.5f}", f"{step['beta']:.3f}")
            for step in pool["trajectory"]
        ]
    operators = {row[0]: row[1:] for row in page.cells("operators") if row}
    profile = speed["profile"]["encoder"]
    name, most = next(iter(profile["baseline"]["operators"].items()))
    assert operators[name][0] == f"{most['ms']:.3f}"


def test_every_stage_that_was_measured_stands_beside_the_result(
    page: Page, did: dict[str, Any]
) -> None:
    rows = {row[0]: row[1:] for row in page.cells("quality-and-speed") if row}
    names = ["after cut, float32", "after recover, float32", "before rewriting, float32"]
    assert list(rows) == ["original", *names, "result"]
    stages = did["measure"]["stages"]
    assert [stage["name"] for stage in stages] == ["cut", "recover", "export"]
    for name, stage in zip(names, stages, strict=True):
        ratio = stage["speed"]["measures"]["encoder"]["ratio"]
        assert rows[name][0].startswith(f"{ratio['value']:.2f}x")
        value = stage["quality"][0]["values"]["mean_cosine"]
        shown, ends = known(value, *stage["quality"][0]["interval"]["mean_cosine"])
        assert rows[name][1] == f"{shown} ({ends})"
    # The models differ: a stage that was measured twice would have its answers twice.
    assert len({stage["quality"][0]["values"]["mean_cosine"] for stage in stages}) == len(stages)
    # Rounding and fusing change little of what the smaller shapes answer.
    assert abs(value - did["measure"]["quality"][0]["values"]["mean_cosine"]) < 0.05


def test_neighbours_of_held_out_text_are_told(page: Page, did: dict[str, Any]) -> None:
    near = did["measure"]["neighbours"]
    assert near["conditions"]["texts"] >= 12
    assert not {"bundle", "against"} & near.keys()  # folders of this machine
    shown = f"{near['values']['overlap_at_10'] / 10:.1f} at the mean"
    assert f"measured on held-out text: of a text's ten nearest by the original, {shown}" in (
        page.text("result")
    )


def test_the_curve_is_of_the_lengths_that_were_asked_for(did: dict[str, Any]) -> None:
    curve = did["measure"]["curve"]
    assert [point["settings"]["tokens"] for point in curve] == [4, 16]
    for point in curve:
        times = point["measures"]["encoder"]
        # A few rounds on a busy machine: the pairs' median need not be near that of the medians.
        assert 0 < times["ratio"]["low"] <= times["ratio"]["value"] <= times["ratio"]["high"]
        for side in ("baseline", "candidate"):
            low, high = times[side]["interval_ms"]
            assert low <= times[side]["median_ms"] <= high


def test_what_was_not_measured_is_listed(page: Page) -> None:
    text = page.text("not-measured")
    for words in ("Any other processor", "own task", "no peer", "4, 12 and 16 tokens", "Energy"):
        assert words in text
    assert "between original and result" not in text


# Rewriting and missing records -----------------------------------------------------------------


def test_a_report_is_written_anew_from_its_records(built: Path, copy: Path) -> None:
    done = run("report", copy)
    assert done.exit_code == 0, done.stderr
    assert (copy / "report.html").read_text() == (built / "report.html").read_text()
    assert str(copy / "report.html") in done.stdout


@UNDRAWN
def test_a_bundle_has_its_report_too(built: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(built / "bundle", bundle)
    done = run("report", bundle, "--output", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    assert (
        Page(tmp_path / "page.html").sections.keys() == Page(built / "report.html").sections.keys()
    )


@UNDRAWN
def test_a_build_that_recorded_less_says_so(copy: Path) -> None:
    def older(stages: dict[str, Any]) -> None:
        for key in ("heads", "channels"):
            del stages["load"][key]
        measured = stages["measure"]
        del measured["curve"], measured["stages"], measured["speed"]["profile"]
        for found in measured["speed"]["measures"]["encoder"].values():
            if isinstance(found, dict):
                found.pop("interval_ms", None)
        for found in measured["quality"]:
            del found["interval"]
        plan = stages["quantize"]["plan"]
        plan["bits"] = 8
        for entry in plan["entries"]:
            for key in set(entry) - {"name", "role", "shape", "format", "tied_to"}:
                del entry[key]
        del stages["quantize"]["costs"]
        del stages["measure"]["speed"]["noise"]

    content = change(copy, older)
    del content["recipe"]["measure"]["curve"], content["recipe"]["measure"]["profile"]
    (copy / "report.json").write_text(json.dumps(content))
    done = run("report", copy)
    assert done.exit_code == 0, done.stderr
    page = Page(copy / "report.html")
    for name in ("latency", "operators"):
        assert "Not recorded by this build." in page.text(name)
        assert page.sections[name].query("svg") == []
    assert "sizes: not recorded by this build" in page.text("layers")
    assert "not recorded" in page.text("formats")
    assert "stages between original and result" in page.text("not-measured")


@UNDRAWN
def test_stages_that_did_not_run_are_no_failure(copy: Path) -> None:
    content = json.loads((copy / "report.json").read_text())
    ran = ("load", "original", "export", "rewrite", "measure")
    content["stages"] = [stage for stage in content["stages"] if stage["name"] in ran]
    (copy / "report.json").write_text(json.dumps(content))
    assert run("report", copy).exit_code == 0
    page = Page(copy / "report.html")
    gone = {"layers", "formats", "sensitivity", "prune-channels", "prune-heads", "training"}
    assert gone.isdisjoint(page.sections)
    assert all(link.attrs["href"][1:] in page.sections for link in page.tree.query("nav a"))
    assert "Nothing removed, nothing trained, weights in float32." in page.text()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds neither report.json nor edgeprune.json"),
        ("{", "is not valid JSON"),
        ("[]", "records no measurement"),
        ('{"stages": []}', "records no measurement"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"recipe": 5}', "is damaged (recipe: "),
        ('{"recipe": {"require": {"speedup": "x"}}}', "is damaged (recipe.require.speedup: "),
        ('{"source": 5}', "is damaged (source: "),
        ('{"stages": 5}', "is damaged (stages: "),
        ('{"stages": [5]}', "is damaged (stages.0: "),
        ('{"source": {"model": "m"}, "stages": [{"name": "measure"}]}', "(stages.0: seconds: "),
        (
            '{"stages": [{"name": "load", "seconds": 1, "peak_megabytes": 1, "parameters": "x"}]}',
            "(stages.0: parameters: Input should be a valid integer): copy the build again",
        ),
    ],
)
def test_a_folder_without_a_build_is_refused(
    content: str | None, sentence: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    done = run("report", tmp_path)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not (tmp_path / "report.html").exists()


@UNDRAWN
def test_other_mistakes_are_told(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    for arguments, sentence in (
        ([tmp_path / "nowhere"], "no folder"),
        ([copy / "report.json"], "Name the folder of a build"),
        ([copy, tmp_path / "other.json"], "is not a result that a report can show"),
        ([copy, "--output", tmp_path / "none" / "x.html"], "There is no folder"),
    ):
        done = run("report", *arguments)
        assert done.exit_code == 2
        assert sentence in done.stderr


def damaged(found: dict[str, Any], *keys: Any) -> dict[str, Any]:
    """A copy with 5 in the place of something inside."""
    found = json.loads(json.dumps(found))
    *way, last = keys
    inner = found
    for key in way:
        inner = inner[key]
    inner[last] = 5
    return found


@UNDRAWN
def test_a_damaged_result_is_refused_by_the_place(
    copy: Path, did: dict[str, Any], tmp_path: Path
) -> None:
    speed = did["measure"]["speed"]
    quality = did["measure"]["quality"][0] | {"bundle": "b"}
    alone = {key: value for key, value in speed.items() if key != "baseline"}
    file = tmp_path / "result.json"
    for content, place in (
        ({"measures": {}}, "settings"),
        ({"sweep": 5}, "the whole"),
        ({"sweep": [alone, damaged(alone, "candidate")]}, "candidate"),
        (damaged(speed, "candidate", "name"), "candidate.name"),
        (damaged(speed, "measures", "encoder", "ratio"), "measures.encoder.ratio"),
        (damaged(speed, "measures", "encoder", "baseline"), "measures.encoder.baseline"),
        (damaged(speed, "profile", "encoder"), "profile.encoder"),
        ({"values": {}, "bundle": "b"}, "task"),
        (damaged(quality, "values"), "values"),
        (damaged(quality, "bundle"), "bundle"),
        (damaged(quality, "interval", "mean_cosine"), "interval.mean_cosine"),
        (damaged(quality, "data"), "data"),
        (quality | {"values": {"mean_cosine": "high"}}, "values.mean_cosine"),
        (quality | {"original": {"mean_cosine": 1.0}}, "the whole"),
    ):
        file.write_text(json.dumps(content))
        done = run("report", copy, file)
        assert done.exit_code == 2, content
        assert f"{file} is damaged ({place}: " in done.stderr


@UNDRAWN
def test_a_page_replaces_files_alone_and_follows_links(copy: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run("report", copy, "--output", tmp_path / "pipe")
    assert done.exit_code == 2
    assert "is not a regular file" in done.stderr
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("real.html")
    assert run("report", copy, "--output", tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert Page(tmp_path / "real.html").sections


def test_the_preview_copies_the_recipe_and_names_paths_as_they_are(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.pipeline import terminal
    from edgeprune.pipeline.recipe import read_recipe

    monkeypatch.setattr(terminal._console, "_width", 40)
    text = "word " * 30
    recipe = recipe_file(tmp_path / "tiny.yaml", f"{WHOLE}\ndescription: {text}\n")
    out = tmp_path / "out [v2] [/x] :smile:"
    model, data = model_folder(tmp_path / "model"), text_file(tmp_path / "t [old].txt")
    arguments = ("build", recipe, "--model", model, "--data", data, "--output", out, "--dry-run")
    brief, done = run(*arguments), run(*arguments, "--all")
    assert done.exit_code == 0, done.stderr
    for shown_ in (brief, done):
        assert shown_.stdout.splitlines()[0] == "model, cut and in INT8 and INT4"
        assert shown_.stdout.splitlines()[-1].endswith(f"{out}.")
    assert "calibration_samples" not in brief.stdout
    shown = read_recipe(str(recipe), []).to_yaml().splitlines()
    printed = done.stdout.splitlines()
    assert [line for line in shown if line not in printed and "package:" not in line] == []
    # A long path is broken where it has a space.
    assert str(data).replace(" ", "") in "".join(done.stdout.split())


def test_without_the_drawing_library_a_sentence_says_so(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("report", copy)
    assert done.exit_code == 2
    assert "pip install '.[report]'" in done.stderr


def elements(folder: Path, name: str) -> list[str]:
    """The elements of the page of a build all of whose names are this one, which it shows."""
    content = json.loads((folder / "report.json").read_text())
    content["source"]["model"] = content["text"]["source"] = name
    content["recipe"] |= {"name": name, "description": name}
    for stage in content["stages"]:
        for quality in stage.get("quality", []):
            quality["data"] = name
        for number, entry in enumerate(stage.get("plan", {}).get("entries", [])):
            entry["name"] = f"{name}{number}"
    (folder / "report.json").write_text(json.dumps(content))
    assert run("report", folder).exit_code == 0
    page = Page(folder / "report.html")
    assert one_line(model_name(name)) in page.text()
    return [each.name for each in page.tree.query("*")]


@UNDRAWN
def test_text_of_others_is_text(copy: Path) -> None:
    """Names from elsewhere are shown, not run, and change nothing around them."""
    innocent = elements(copy, "innocent")
    for start in range(0, len(NAMES), 8):
        names = " ".join(NAMES[start : start + 8])
        assert elements(copy, names) == innocent, names


def test_text_of_others_is_text_in_drawings(copy: Path) -> None:
    evil = "<script>alert('$x$')</script>&amp;]]>\x1b\x00\ud800"
    assert elements(copy, evil) == elements(copy, "x" * len(evil))


def test_every_name_stands_in_the_picture() -> None:
    names = ["_hidden", "$x^2$", "a\nb", "<b>&amp;", "\x1b[1m"]
    shown = [Shown(name, "other", Known.of(1.0), Known.of(2.0)) for name in names]
    quality = Quality.of(Evaluation(task="t", data="d", conditions={}, values={"score": 2.0}))
    drawn = ElementTree.fromstring(speed_quality("name", shown, quality, "encoder"))
    texts = [" ".join(each.itertext()).strip() for each in drawn.iter("text")]
    assert set(map(one_line, names)) <= set(texts)


@UNDRAWN
def test_the_title_and_the_verdict_stand_first(built: Path, copy: Path) -> None:
    """They are of the model and its measurement; the recipe's own words are nowhere."""
    content = json.loads((copy / "report.json").read_text())
    content["recipe"] |= {
        "description": "For quality close to the original's.",
        "require": {"speedup": 1e6, "cosine": 0.0, "megabytes": None, "drop": None},
    }
    (copy / "report.json").write_text(json.dumps(content))
    assert run("report", copy).exit_code == 0
    page = Page(copy / "report.html")
    record = open_record(copy)
    [heading] = page.tree.query("h1")
    assert heading.to_text() == made(record).title == "model, cut and in INT8 and INT4"
    [verdict] = page.tree.query(".verdict")
    assert verdict.to_text() == str(headline(record))
    assert "do not ship: the model is " in verdict.to_text()
    assert "worse" in verdict.attrs["class"]
    assert next(iter(page.sections)) == "required"
    rows = {row[0]: row[1:] for row in page.cells("required") if row}
    assert rows["speed"][0] == "at least 1000000x as fast"
    assert [row[-1] for row in rows.values()] == ["missed", "met"]
    assert "close to the original's" not in page.text("result")
    facts = " ".join(page.tree.query(".facts")[0].to_text().split())
    assert content["built"]["at"] in facts
    assert record.speed.machine.processor in facts
    [command] = page.tree.query(".facts code")
    assert command.to_text() == content["built"]["command"]
    assert command.to_text().startswith("edgeprune build recipe.yaml --model model --data text.txt")
    [verdict] = Page(built / "report.html").tree.query(".verdict")
    assert verdict.to_text() == str(headline(open_record(built)))


def test_a_slower_result_is_shown_as_a_loss(copy: Path) -> None:
    def slower(stages: dict[str, Any]) -> None:
        found = stages["measure"]["speed"]["measures"]["encoder"]
        found["ratio"].update(value=0.75, low=0.74, high=0.76)

    change(copy, slower)
    assert run("report", copy).exit_code == 0
    page = Page(copy / "report.html")
    assert "1.33x slower" in page.text("result")
    assert page.sections["result"].query(".worse")[0].to_text() == "1.33x slower"
    speed = page.tree.query(".tile")[0]
    assert "slower" in speed.to_text()
    assert len(speed.query(".worse")) == 1
    assert "slower" in page.sections["quality-and-speed"].query("svg")[0].to_text()


# Peers -----------------------------------------------------------------------------------------


@pytest.fixture
def peer(did: dict[str, Any], tmp_path: Path) -> tuple[str, Path, Path]:
    """The exported graph as another model: its name, and files of its speed and quality."""
    *_, stage = did["measure"]["stages"]
    name = stage["speed"]["candidate"]["name"]
    files = tmp_path / "speed.json", tmp_path / "quality.json"
    for file, found in zip(files, (stage["speed"], stage["quality"][0]), strict=True):
        file.write_text(json.dumps(found))
    return name, *files


def test_a_peer_stands_in_the_picture(
    built: Path, peer: tuple[str, Path, Path], tmp_path: Path
) -> None:
    name, speed, quality = peer
    assert run("report", built, speed, quality, "--output", tmp_path / "page.html").exit_code == 0
    page = Page(tmp_path / "page.html")
    table = {row[0]: row[1:] for row in page.cells("quality-and-speed") if row}
    ratio = json.loads(speed.read_text())["measures"]["encoder"]["ratio"]
    found = json.loads(quality.read_text())
    shown, _ = known(found["values"]["mean_cosine"], *found["interval"]["mean_cosine"])
    assert table[name][0].startswith(f"{ratio['value']:.2f}x")
    assert table[name][1].startswith(shown)
    assert "no peer" not in page.text("not-measured")
    [drawing] = page.sections["quality-and-speed"].query("svg")
    assert name[-30:] in drawing.to_text()


@UNDRAWN
@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda speed, quality: speed.pop("baseline"), "timed alone"),
        (lambda speed, quality: speed["settings"].update(tokens=99), "timed at 99 tokens"),
        (lambda speed, quality: speed["machine"].update(processor="Z80"), "timed on Z80"),
        (lambda speed, quality: speed["baseline"].update(model_bytes=1), "beside another model"),
        (lambda speed, quality: quality.update(task="retrieval"), "measured by retrieval"),
        (lambda speed, quality: quality.update(conditions={"texts": 3}), "on other data"),
        (lambda speed, quality: quality.update(bundle="else"), "its quality was not measured"),
    ],
)
def test_what_cannot_be_compared_is_told_apart(
    edit: Any, sentence: str, built: Path, peer: tuple[str, Path, Path], tmp_path: Path
) -> None:
    found = [json.loads(file.read_text()) for file in peer[1:]]
    edit(*found)
    files = []
    for number, content in enumerate(found):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    record, others = joined(open_record(built), built, read_others(files))
    at = {point.name: point for point in points(record, others, "encoder")}
    assert sentence in at[peer[0]].why
    assert at[peer[0]].speed is None or at[peer[0]].quality is None


@pytest.mark.parametrize("known", ["by its place", "by its graph"])
def test_what_was_measured_of_the_bundle_later_joins_its_own_figures(
    known: str, built: Path, copy: Path, tmp_path: Path
) -> None:
    change(copy, lambda stages: stages["measure"]["speed"].pop("profile"))
    shutil.copytree(built / "bundle", copy / "bundle")
    found = json.loads((built / "report.json").read_text())["stages"][-1]
    speed = found["speed"]
    if known == "by its place":
        speed["candidate"] |= {"name": str(copy / "bundle"), "graph": None}
    else:  # as it was called in another folder
        speed["candidate"]["name"] = "some/bundle"
        speed["candidate"]["graph"] = Bundle.open(copy / "bundle").graph_sha256
    speed["settings"]["tokens"] = 48
    (tmp_path / "profile.json").write_text(json.dumps(speed))
    assert run("report", copy, tmp_path / "profile.json").exit_code == 0
    page = Page(copy / "report.html")
    assert len(page.sections["operators"].query("svg")) == 1
    assert "48" in page.sections["latency"].query("svg")[0].to_text()
    assert [row[0] for row in page.cells("quality-and-speed") if row][-1] == "result"


# Several builds --------------------------------------------------------------------------------


@UNDRAWN
def test_several_builds_stand_on_one_page(built: Path, copy: Path, tmp_path: Path) -> None:
    content = json.loads((copy / "report.json").read_text())
    measured = content["stages"][-1]
    measured["speed"]["measures"]["encoder"]["ratio"].update(value=3.5, low=3.25, high=3.75)
    content["recipe"]["prune"]["sparsity"] = 0.75
    content["recipe"]["recover"] = None
    content["text"]["digest"] = "another"
    (copy / "report.json").write_text(json.dumps(content))
    assert run("report", built, copy, "--output", tmp_path / "page.html").exit_code == 0
    page = Page(tmp_path / "page.html")
    table = {row[0]: row for row in page.cells("builds") if row}
    assert list(table) == ["out", "copy"]
    assert table["copy"][1] == "3.50x (3.25 to 3.75)"
    size_of = content["stages"][-1]["speed"]["candidate"]["model_bytes"]
    assert table["copy"][2] == f"{size_of / 1e6:.1f}"
    settings = {row[0]: row[1:] for row in page.cells("recipes") if row}
    assert settings == {"prune.sparsity": ["0.5", "0.75"], "recover": ["on", "none"]}
    text = page.text("caution")
    assert "the text that they learned from" in text
    assert "the processor" not in text
    assert len(page.sections["pictures"].query("svg")) == 3
    beside = {row[0]: row[1:] for row in page.cells("beside") if row}
    mine, its = ({row.what: row for row in comparison(open_record(each))} for each in (built, copy))
    assert list(beside) == list(mine) == list(its)
    for what, row in mine.items():
        other = its[what]
        shown = (row.original, row.result, row.change, other.result, other.change)
        assert beside[what] == [str(each) for each in shown]


@UNDRAWN
def test_builds_of_the_same_name_are_told_apart(built: Path, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "deeper" / "out"
    shutil.copytree(copy, other)
    assert run("report", built, other, "--output", tmp_path / "page.html").exit_code == 0
    names = [row[0] for row in Page(tmp_path / "page.html").cells("builds") if row]
    assert names == [str(built), str(other)]


@UNDRAWN
def test_builds_of_different_tasks_are_refused(built: Path, copy: Path) -> None:
    content = json.loads((copy / "report.json").read_text())
    (copy / "report.json").write_text(json.dumps(content | {"task": "text-generation"}))
    done = run("report", built, copy)
    assert done.exit_code == 2
    assert "one page compares builds of one task" in done.stderr


# Numbers ---------------------------------------------------------------------------------------


def test_the_paired_interval_stands_around_the_original() -> None:
    found = {
        "task": "perplexity",
        "data": "a/b.txt",
        "conditions": {},
        "values": {"perplexity": 44.0},
        "interval": {"perplexity": [30.0, 60.0]},
        "original": {"perplexity": 42.0},
        "difference": {"perplexity": 2.0},
        "difference_interval": {"perplexity": [1.5, 3.5]},
    }
    quality = Quality.of(Evaluation.model_validate(found))
    assert quality.beside == Known(44.0, 43.5, 45.5)
    unpaired = Evaluation.model_validate(found | {"difference_interval": {}})
    assert Quality.of(unpaired).beside == Known(44.0, 30.0, 60.0)
    assert quality.data == "b.txt"


def test_the_variance_is_that_of_the_trend() -> None:
    assert variance({"deviation": 0.5, "trend": 4.0}) == 4.0
    assert variance({"cv": 0.5, "trend": 4.0, "gate": 1.0}) == 4.0  # of the first release
    assert variance({"deviation": None, "trend": 4.0}) == 0.0


def test_operators_beyond_the_shown_are_summed() -> None:
    operators = {f"Op{n}": Spent(ms=float(n), share=0.0, count=1.0) for n in range(1, 13)}
    profile = Profile(run_ms=156.0, operators=operators, outside_share=0.5)
    found = dict(rows({"candidate": profile}))
    assert list(found)[:2] == ["Op12", "Op11"]
    assert found["4 others"] == {"candidate": 1.0 + 2.0 + 3.0 + 4.0}
    assert found["between operators"] == {"candidate": 78.0}
    assert math.fsum(each["candidate"] for each in found.values()) == 156.0


def test_a_sweep_of_two_settings_makes_a_line_of_each() -> None:
    swept = [
        Point(
            settings=BenchSettings(tokens=tokens, batch=batch),
            measures=make_speed("feature-extraction").measures,
        )
        for tokens in (8, 32)
        for batch in (1, 4)
    ]
    found = [
        (key, stays, [getattr(point.settings, key) for point in line])
        for key, stays, line in lines(swept)
    ]
    assert found == [
        ("tokens", "batch 1, threads 1", [8, 32]),
        ("tokens", "batch 4, threads 1", [8, 32]),
        ("batch", "tokens 8, threads 1", [1, 4]),
        ("batch", "tokens 32, threads 1", [1, 4]),
    ]


@given(
    st.floats(-1e4, 1e4).filter(lambda value: value == 0 or abs(value) > 1e-9),
    *[st.floats(1e-9, 1e3)] * 2,
)
def test_a_value_is_shown_inside_its_interval(value, below, above) -> None:
    shown, ends = known(value, value - below, value + above)
    low, high = map(float, ends.split(" to "))
    assert low <= float(shown) <= high
    assert low < high
    assert len({len(text.partition(".")[2]) for text in (shown, *ends.split(" to "))}) == 1


def test_values_and_intervals_have_the_same_decimals() -> None:
    assert known(0.9928, 0.9926, 0.9930) == ("0.99280", "0.99260 to 0.99300")
    assert known(0.999998, 0.999997, 0.999999) == ("0.9999980", "0.9999970 to 0.9999990")
    assert known(86.6412, 85.12, 87.93) == ("86.64", "85.12 to 87.93")
    assert known(-0.08, -0.33, 0.17, "+") == ("-0.0800", "-0.3300 to +0.1700")
    assert known(1.0, 1.0, 1.0) == ("1", "")


def test_words() -> None:
    assert [size(count) for count in (999, 1000, 16_874_031, 2_500_000_000)] == [
        "999 bytes",
        "1.0 kB",
        "16.9 MB",
        "2.5 GB",
    ]
    assert [many(1, "tensor"), many(2000, "tensor")] == ["1 tensor", "2,000 tensors"]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["", "a", "a, b and c"]


# Damaged records ----------------------------------------------------------------------------------

HARMS = (None, "x", "", 0, -1, 1e30, 3.5, True, [], {}, [1], {"a": 1}, ["x"], [None], math.nan)


def harmed(content: Any, chance: random.Random) -> Any:
    """A copy with one place deleted, or holding something else; alike places count as one."""
    places: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}

    def walk(value: Any, place: tuple[Any, ...]) -> None:
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in inside:
            kind = tuple("#" if isinstance(part, int) else part for part in (*place, key))
            places.setdefault(kind, []).append((*place, key))
            if isinstance(inner, dict | list):
                walk(inner, (*place, key))

    walk(content, ())
    *outer, last = chance.choice(places[chance.choice(sorted(places, key=str))])
    harmed = json.loads(json.dumps(content))
    holder = harmed
    for key in outer:
        holder = holder[key]
    if chance.random() < 0.25:
        del holder[last]
    else:
        holder[last] = chance.choice(HARMS)
    return harmed


def test_a_damaged_record_is_a_page_or_one_sentence(
    built: Path, tmp_path: Path, undrawn: None
) -> None:
    content = json.loads((built / "report.json").read_text())
    refusals = 0
    for seed in range(30):
        (tmp_path / "report.json").write_text(json.dumps(harmed(content, random.Random(seed))))
        try:
            record = open_record(tmp_path)
        except UserError as refused:
            refusals += "is damaged" in str(refused) and "\n" not in str(refused)
            continue
        assert render(build_page(record)), seed
        compare_page([record, record])
    assert refusals > 5


def test_damaged_manifests_and_saved_figures_are_one_sentence(built: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(built / "bundle", tmp_path / "bundle")
    manifest = json.loads((bundle / "edgeprune.json").read_text())
    saved = {
        "name": "x",
        "task": "feature-extraction",
        "model_bytes": 5,
        "peak_memory_bytes": 6,
        "speed": {"encoder": {"median_ms": 1.0, "interval_ms": [0.9, 1.1]}},
        "operators": {"written": {"MatMul": 3}, "run": {"MatMul": 2}},
        "quality": {"task": "sts", "data": "d", "digest": "x", "values": {"spearman": 5.0}},
        "conditions": {"processor": "p", "tokens": 16},
    }
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(saved))
    ours = read_figures(file)

    def manifest_of(chance: random.Random) -> None:
        (bundle / "edgeprune.json").write_text(json.dumps(harmed(manifest, chance)))
        opened = Bundle.open(bundle)
        assert opened.task
        assert opened.max_length is None or opened.max_length > 0
        measured_as_built(opened)
        inspect_table(describe(bundle))

    def saved_of(chance: random.Random) -> None:
        file.write_text(json.dumps(harmed(saved, chance)))
        its, limits = read_figures(file), Limits()
        checks.refuse_another_model(ours.identity, its.identity)
        checks.saved_speed(ours, its, limits)
        checks.operators(ours, its, limits)
        checks.quality(ours, its, limits)

    for use in (manifest_of, saved_of):
        refusals = []
        for seed in range(150):
            try:
                use(random.Random(seed))
            except UserError as refused:
                refusals.append(str(refused))
        assert len(refusals) > 5
        assert not [said for said in refusals if "\n" in said]
