"""The dry run: the answer first, with what is known before a build and nothing that is not."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from prospects import build_of, left_by
from tiny_builds import RECIPE, model_folder, recipe_file, text_file
from tiny_models import (
    DECODERS,
    EMITTED_DECODERS,
    ENCODERS,
    FUSED_DECODERS,
    MIXTURES,
    ODD_DECODERS,
    POST_NORMED,
    make_model,
)

from edgeprune.cli import main
from edgeprune.model.checkpoint import Checkpoint, open_checkpoint
from edgeprune.pipeline import builds
from edgeprune.pipeline.preview import Expected
from edgeprune.pipeline.preview import expected as expected_of
from edgeprune.pipeline.recipe import Recipe, read_recipe, validate
from edgeprune.targets import find
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(model_folder(tmp_path_factory.mktemp("encoder"), "bert")))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(model_folder(tmp_path_factory.mktemp("decoder"), "llama")))


def expected(recipe: Recipe, checkpoint: Checkpoint) -> Expected:
    return expected_of(build_of(recipe, checkpoint), {})


def units(checkpoint: Checkpoint, recipe: object) -> tuple[int, int, int]:
    """Layers, channels and query heads of what the shapes hold after a cut."""
    left = left_by(validate({"cut": {}, **recipe}, "r"), checkpoint).anatomy  # type: ignore[dict-item]
    heads = sum(left.shape(b.attention.query)[0] // b.attention.head_dim for b in left.blocks)
    channels = sum(left.shape(b.feed_forward.down)[1] for b in left.blocks)
    for block in left.blocks:
        up, down = left.shape(block.feed_forward.up), left.shape(block.feed_forward.down)
        assert up[0] == down[1]
        assert left.shape(block.attention.query)[0] == left.shape(block.attention.output)[1]
    return len(left.blocks), channels, heads


@given(st.floats(0, 0.9), st.floats(0, 0.9))
def test_exactly_what_is_asked_for_leaves_the_shapes(encoder, decoder, channels, heads) -> None:
    for checkpoint in (encoder, decoder):
        anatomy = checkpoint.anatomy
        layers, whole, every = units(checkpoint, {})
        assert whole == sum(part.channels for part in anatomy.feed_forwards)
        cut = {"channels": channels, "heads": heads}
        _, left, kept = units(checkpoint, {"cut": cut})
        assert left == whole - round(channels * whole)
        shared = anatomy.shared_key_value_heads
        groups = anatomy.blocks[0].attention.num_key_value_heads if shared else 1
        assert kept == every - groups * round(heads * (every // groups))
        assert units(checkpoint, {"cut": {"layers": 1}})[0] == layers - 1


@pytest.mark.parametrize(
    "family",
    [
        *(*ENCODERS, *DECODERS, *FUSED_DECODERS, *EMITTED_DECODERS, *ODD_DECODERS),
        *(*MIXTURES, *POST_NORMED, "albert"),
    ],
)
def test_every_family_has_a_title_and_a_size(family: str, tmp_path: Path) -> None:
    make_model(family, tmp_path, unequal=False)
    checkpoint = open_checkpoint(str(tmp_path))
    whole = sum(part.channels for part in checkpoint.anatomy.feed_forwards)
    found = expected(validate({"cut": {"channels": 0.25}, "quantize": {}}, "r"), checkpoint)
    assert found.made.title.endswith(", cut and in INT8")
    assert [(part.gone, part.total) for part in found.made.removed] == [
        (round(0.25 * whole), whole)
    ]
    [size, plain] = re.findall(r"([\d.]+) kB", dict(found.facts)["size"])
    assert float(size) < float(plain) / 2


def test_sizes_are_those_after_the_cut(encoder) -> None:
    whole = dict(expected(validate({"quantize": {}}, "r"), encoder).facts)["size"]
    recipe = validate({"cut": {"channels": 0.5}, "quantize": {}}, "r")
    cut = dict(expected(recipe, encoder).facts)["size"]
    assert whole.split(", from ")[1] == cut.split(", from ")[1]
    assert float(cut.split()[1]) < float(whole.split()[1])


def test_training_by_the_clock_is_told_in_minutes(encoder) -> None:
    shape = {"channels": [9, 20], "steps": 30}
    recipe = validate({"shape": shape, "recover": {"minutes": 7.5, "hidden_weight": 0}}, "r")
    found = expected(recipe, encoder)
    assert "30 steps and 7.5 minutes of distillation" in found.made.sentence
    told = [line for stage, line in found.stages if stage in ("shape", "recover")]
    assert told[0] == "29 of 80 channels stay"
    assert "30 steps of distillation between" in told[1]
    assert told[2].startswith("7.5 minutes of distillation, learning rate 0.0003")


def test_what_cannot_be_known_is_named(encoder) -> None:
    recipe = validate({"vocabulary": {}, "quantize": {"weights": "mixed"}}, "r")
    facts = dict(expected(recipe, encoder).facts)
    assert "less the vocabulary's rows that leave and what becomes int4" in facts["size"]
    assert facts["not known"].startswith("time, memory, speed and quality: no build with these")
    assert not {"time", "speed", "linears"} & set(facts)


def test_time_is_told_only_where_it_was_measured_with_these_settings(encoder, decoder) -> None:
    known = dict(expected(read_recipe("encoder"), encoder).facts)
    row = builds.read()["encoder"]
    assert known["time"] == f"about {row.minutes} minutes to build"
    assert known["memory"] == f"up to {row.gigabytes} GB while building"
    assert known["speed"].startswith(f"{row.speed['encoder'][0]:.2f}x faster (")
    assert row.model in known["as with"]
    assert "not known" not in known
    for name, overrides in (("encoder", ["recover.steps=9"]), ("decoder-int4", [])):
        facts = dict(expected(read_recipe(name, overrides), decoder).facts)
        assert "not known" in facts
        assert "time" not in facts
    assert builds.built(read_recipe("encoder", ["measure.tokens=16"])) is not None


def test_the_time_of_linears_is_the_tables(encoder) -> None:
    """Summed by hand over the linears that a cut leaves."""
    recipe = validate({"target": "x86-avx512-vnni", "cut": {"channels": 0.5}, "quantize": {}}, "r")
    left = left_by(recipe, encoder).anatomy
    table = find("x86-avx512-vnni").format_times
    total = 0.0
    for name in left.block_linears():
        outputs, inputs = left.shape(name)
        total += table.microseconds("int8", inputs, outputs, 128)
    told = dict(expected(recipe, encoder).facts)["linears"]
    assert told.startswith(f"about {total / 1000:.3g} ms of a call of 128 tokens, one thread")
    assert "linears" not in dict(expected(validate({"cut": {}}, "r"), encoder).facts)


@given(st.lists(st.floats(0.1, 99), min_size=1, max_size=8))
def test_the_time_left_follows_the_pace_so_far(stages) -> None:
    """Every stage takes twice what it took then, and so does what is left."""
    known = {str(place): before for place, before in enumerate(stages)}
    pace = builds.Pace(known)
    assert pace.left(list(known)) == pytest.approx(sum(known.values()))
    for place, seconds in known.items():
        pace.took(place, 2 * seconds)
        assert pace.left(list(known)) == pytest.approx(2 * sum(known.values()))
    assert pace.left([*known, "another"]) is None
    assert builds.Pace({}).left(["load"]) is None


def test_what_is_known_of_recipes_is_what_the_benchmark_has(tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "recipes.jsonl"
    rows = {row["name"]: row for row in map(json.loads, results.read_text().splitlines())}
    builds.write(rows, tmp_path / "measured.json")
    assert (tmp_path / "measured.json").read_text() == builds.MEASURED.read_text()


def test_a_model_has_a_name_from_within_its_folder(
    encoder: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(encoder.folder)
    made = expected(read_recipe("encoder"), open_checkpoint(".")).made
    assert made.model == encoder.folder.name


def test_the_answer_stands_first_and_settings_are_asked_for(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "tiny.yaml", RECIPE)
    model, text = model_folder(tmp_path / "model"), text_file(tmp_path / "t.txt")
    command = ["build", recipe, "--model", model, "--data", text, "--dry-run"]
    done = CliRunner().invoke(main, list(map(str, [*command, "--output", tmp_path / "out"])))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) < 40
    assert lines[0] == "model, cut and in INT8"
    assert " ".join(" ".join(lines[1:3]).split()).startswith(
        "50 % of the feed-forward channels and 50 % of the attention heads removed, 14 steps of"
    )
    assert any(line.startswith("size") and "kB" in line for line in lines[:6])
    assert not (tmp_path / "out").exists()


def test_a_stage_is_named_by_what_it_would_do(encoder, tmp_path: Path) -> None:
    data = TextSettings(data=str(text_file(tmp_path / "t.txt")))
    text = open_text(data, "sentences", 0)
    recipe = validate({"cut": {"channels": 0.5}, "quantize": {}}, "r")
    found = expected_of(build_of(recipe, encoder, text), {"quantize": ["a look"]}).stages
    assert ("load", text.line) in found
    assert [line for stage, line in found if stage == "quantize"][-1] == "a look"
    [line] = [line for _, line in found if "(int8," in line]
    weights = sum(
        rows * columns
        for rows, columns in map(
            left_by(recipe, encoder).anatomy.shape, encoder.anatomy.block_linears()
        )
    )
    assert f"{weights:,} weights become 8-bit" in line
