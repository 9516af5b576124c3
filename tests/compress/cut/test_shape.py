"""Shaping: the shape is reached exactly in rounds, and the best units stay."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from calibration_batches import make_batches
from hypothesis import given
from hypothesis import strategies as st
from prospects import facts_of, left_by
from pydantic import ValidationError
from tiny_models import make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.shape import cut_to, rounds, run, units_of
from edgeprune.compress.cut.shape_row import SHAPE
from edgeprune.compress.cut.shape_settings import ShapeSettings
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.store import load_model, save_model
from edgeprune.model.units import parameters
from edgeprune.pipeline.recipe import validate

QUICK = {"steps": 4, "rounds": 3, "samples": 5, "precision": "float32"}


def context_of(original, windows: bool):
    """The part of a build's context that the stage reads."""
    return SimpleNamespace(
        original=original,
        output=original.folder,
        seed=0,
        calibration=lambda _samples: make_batches(windows),
        batches=lambda _purpose: itertools.cycle(make_batches(windows, seed=4)),
        held_out=lambda: make_batches(windows, seed=5),
    )


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=4),
    st.integers(1, 6),
)
def test_most_leaves_early_and_the_last_round_is_the_shape(units, count):
    """Share gone after round k of n: 1 - (1 - k/n)^2, to half a unit."""
    goal, there = [u for u, _ in units], [u + more for u, more in units]
    settings = ShapeSettings(channels=goal, rounds=count, steps=9)
    shapes = rounds(settings, {HEADS: [3] * len(goal), CHANNELS: there})
    if goal == there:
        assert shapes == []
        return
    assert shapes[-1] == {HEADS: [3] * len(goal), CHANNELS: goal}
    assert len(shapes) == count
    for number, shape in enumerate(shapes, start=1):
        for left, wanted, has in zip(shape[CHANNELS], goal, there, strict=True):
            gone = (1 - (1 - number / count) ** 2) * (has - wanted)
            assert abs(has - left - gone) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("family", "heads"),
    [("bert", [1, 3]), ("classifier", [2, 4]), ("llama", [1, 2]), ("gpt2", []), ("modernbert", [])],
)
def test_the_shape_is_reached_exactly_and_read_again(family, heads, tmp_path):
    original = make_model(family, tmp_path / "hf", unequal=False, layers=3)
    settings = ShapeSettings(layers=(0, 2), heads=heads, channels=(8, 17), **QUICK)
    context = context_of(original, original.anatomy.causal)
    did = run(context, tmp_path / "hf", tmp_path / "out", settings)
    again = load_model(tmp_path / "out")
    assert again.layers == did.layers == [0, 2]
    assert units_of(again)[CHANNELS] == did.channels == [8, 17]
    assert units_of(again)[HEADS] == (heads or [original.anatomy.head_units[k] for k in (0, 2)])
    assert len(did.rounds) == 3
    assert [row.step for row in did.checks] == [2, 4]
    # The dry run foretold how large it is.
    recipe = validate({"shape": settings.model_dump()}, "r")
    foretold = left_by(recipe, open_checkpoint(str(tmp_path / "hf"))).anatomy
    assert parameters(foretold) == parameters(again.anatomy)


def test_it_goes_on_from_a_smaller_model(tmp_path):
    original = make_model("bert", tmp_path / "hf", unequal=False, layers=3)
    context = context_of(original, False)
    first = ShapeSettings(layers=(0, 2), channels=(20, 20), **QUICK)
    run(context, tmp_path / "hf", tmp_path / "one", first)
    second = ShapeSettings(layers=(2,), heads=(2,), channels=(9,), **QUICK)
    did = run(context, tmp_path / "one", tmp_path / "two", second)
    assert (did.layers, did.heads, did.channels) == ([2], [2], [9])
    own = load_model(tmp_path / "two").channels
    assert set(own[0]) <= set(load_model(tmp_path / "one").channels[1])  # the original's numbers
    for settings, words in (
        (ShapeSettings(layers=(1,), **QUICK), "names layer 1, and the model has the layers 0, 2"),
        (ShapeSettings(channels=(9, 21), **QUICK), "keeps 21 in the kept layer 1, which has 20"),
    ):
        with pytest.raises(UserError, match=words):
            run(context, tmp_path / "one", tmp_path / "three", settings)


def test_layers_alone_leave_without_a_round(tmp_path):
    original = make_model("bert", tmp_path / "hf", unequal=False, layers=3)
    settings = ShapeSettings(layers=(1, 2), **QUICK)
    did = run(context_of(original, False), tmp_path / "hf", tmp_path / "out", settings)
    assert (did.layers, did.rounds, did.checks) == ([1, 2], [], None)
    assert did.heads == [4, 4]
    theirs = dict(original.module.named_parameters())
    for name, mine in load_model(tmp_path / "out").module.named_parameters():
        moved = name.replace("layer.1.", "layer.2.").replace("layer.0.", "layer.1.")
        torch.testing.assert_close(mine, theirs[moved], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_units_of_the_highest_scores_stay(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=False)
    batches = make_batches(model.anatomy.causal)
    scores = unit_scores(model, batches, [HEADS, CHANNELS], "fisher", seed=7)
    size = model.anatomy.head_units[0]
    cut_to(model, {HEADS: [1, size], CHANNELS: [5, 40]}, batches, seed=7)
    best = int(scores[HEADS][0].argmax())
    assert [head % size for head in model.heads[0]] == [best] * len(model.heads[0])
    assert sorted(model.channels[0]) == sorted(scores[CHANNELS][0].topk(5).indices.tolist())
    assert model.channels[1] == list(range(40))


def test_pruned_weights_are_not_filled(tmp_path):
    original = make_model("bert", tmp_path / "hf", unequal=False)
    masks = {"encoder.layer.0.output.dense": torch.ones(32, 40, dtype=torch.uint8)}
    save_model(original, tmp_path / "pruned", masks)
    with pytest.raises(UserError, match="has pruned weights, which training would fill"):
        run(
            context_of(original, False),
            tmp_path / "pruned",
            tmp_path / "out",
            ShapeSettings(channels=(9, 9), **QUICK),
        )


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("bert", {"layers": [0, 3]}, "names layer 3, and the model has the layers 0, 1, 2"),
        ("bert", {"layers": [0, 1], "heads": [2]}, "names 1 number, and 2 layers are kept"),
        ("bert", {"channels": [9, 41, 9]}, "keeps 41 in the kept layer 1, which has 40"),
        ("llama", {"heads": [3, 1, 1]}, "keeps 3 in the kept layer 0, which has 2"),
        ("olmo2", {"heads": [1, 1, 1]}, "norms the queries of all its heads together"),
        ("modernbert", {"layers": [1, 2]}, "The first layer stays.*name 0 among shape.layers"),
        ("albert", {"layers": [0]}, "run 2 times with the same weights, and layers of the shape"),
        ("mixtral", {"channels": [9, 9, 9]}, "mixtures of experts, which the shape stage"),
    ],
)
def test_what_does_not_fit_is_refused(family, settings, words, tmp_path):
    make_model(family, tmp_path / "hf", unequal=False, layers=3)
    recipe = validate({"shape": settings}, "r")
    facts = facts_of(recipe, open_checkpoint(str(tmp_path / "hf")))
    with pytest.raises(UserError, match=words):
        SHAPE.refuse(recipe.settings["shape"], facts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs layers, heads or channels"),
        ({"layers": (2, 0)}, "once each, in their order"),
        ({"channels": (0,)}, "greater than or equal to 1"),
        ({"channels": (5,), "steps": 2, "rounds": 4}, "there are 3 trainings between"),
    ],
)
def test_settings_that_say_nothing_sensible_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        ShapeSettings(**settings)


@pytest.mark.parametrize("other", ["prune", "cut"])
def test_one_stage_decides_what_leaves(other):
    recipe = {"shape": {"channels": [9]}, "prune": {"pattern": "4x4"}, "cut": {}}
    with pytest.raises(UserError, match=f"shape and {other} both decide what leaves"):
        validate({name: recipe[name] for name in ("shape", other)}, "r")


def test_a_smaller_model_is_cut_further_with_the_layers_numbers_of_the_original(tmp_path):
    original = make_model("bert", tmp_path / "hf", unequal=False, layers=3)
    context = context_of(original, False)
    first = ShapeSettings(layers=(0, 2), heads=(3, 3), channels=(20, 18), **QUICK)
    run(context, tmp_path / "hf", tmp_path / "first", first)
    start = str(tmp_path / "first")
    second = ShapeSettings(start=start, layers=(2,), heads=(1,), channels=(9,), **QUICK)
    did = run(context, tmp_path / "hf", tmp_path / "second", second)
    assert (did.layers, did.heads, did.channels) == ([2], [1], [9])
    larger = load_model(tmp_path / "first")
    assert set(load_model(tmp_path / "second").channels[0]) <= set(larger.channels[1])
    more = ShapeSettings(start=start, layers=(2,), channels=(19,), **QUICK)
    with pytest.raises(UserError, match="keeps 19 in the kept layer 0, which has 18"):
        run(context, tmp_path / "hf", tmp_path / "third", more)
    gone = ShapeSettings(start=start, layers=(1,), **QUICK)
    with pytest.raises(UserError, match="layer 1, and the model has the layers 0, 2"):
        run(context, tmp_path / "hf", tmp_path / "fourth", gone)


def test_the_key_follows_the_model_that_it_starts_from(tmp_path):
    original = make_model("bert", tmp_path / "hf", unequal=False, layers=2)
    save_model(original, tmp_path / "start")
    settings = ShapeSettings(start=str(tmp_path / "start"), layers=(0,))
    before = list(SHAPE.reads(settings, None))
    assert before == list(SHAPE.reads(settings, None)) != []
    with torch.no_grad():
        original.module.embeddings.word_embeddings.weight[0, 0] += 1
    save_model(original, tmp_path / "start")
    assert list(SHAPE.reads(settings, None)) != before
    assert list(SHAPE.reads(ShapeSettings(layers=(0,)), None)) == []


def test_a_start_that_is_no_stage_of_a_build_is_refused(tmp_path):
    make_model("bert", tmp_path / "hf", unequal=False, layers=2)
    recipe = validate({"shape": {"layers": [0], "start": str(tmp_path)}}, "r")
    facts = facts_of(recipe, open_checkpoint(str(tmp_path / "hf")))
    with pytest.raises(UserError, match="holds no model that a stage"):
        SHAPE.refuse(recipe.shape, facts)
