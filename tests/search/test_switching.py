"""Level switching against enumeration, and shapes stitched together against models that are cut."""

import itertools

import numpy as np
import pytest
import torch
from calibration_batches import batches_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_model

from edgeprune.compress.calibrate.gates import CHANNELS
from edgeprune.compress.cut.depth import references
from edgeprune.compress.cut.surgery import keep_channels, keep_heads, keep_layers
from edgeprune.search.blocks import blocks_of
from edgeprune.search.costs import Budget, Costs
from edgeprune.search.levels import lost
from edgeprune.search.shape import Shape
from edgeprune.search.stitched import Stitched
from edgeprune.search.switching import switched

TIMES = Costs(0.1, 0.2, lambda heads: 0.05 * heads, lambda channels: 0.02 * channels)
SIZES = Costs(10.0, 1.0, lambda heads: 4.0 * heads, lambda channels: 1.0 * channels)
LEVELS = {"heads": (1, 2, 3, 4), "channels": (2, 4, 6, 8)}


STATISTICS, JUDGED = batches_of(3), batches_of(2, seed=50)


def levels(kind, layer):
    return LEVELS[kind]


def every_shape(layers):
    for heads in itertools.product(LEVELS["heads"], repeat=len(layers)):
        for channels in itertools.product(LEVELS["channels"], repeat=len(layers)):
            yield Shape(layers, heads, channels)


@given(seed=st.integers(0, 999), limit=st.floats(0.6, 1.3), bytes_left=st.floats(24, 60))
@settings(max_examples=40, deadline=None)
def test_it_keeps_the_budget_and_is_no_worse_than_its_start(seed, limit, bytes_left):
    rng = np.random.default_rng(seed)
    losses = {shape: rng.random() for shape in every_shape((0, 3))}
    budget = Budget(limit, bytes_left)
    fitting = [
        shape for shape in losses if TIMES.of(shape) <= limit and SIZES.of(shape) <= bytes_left
    ]
    if not fitting:
        return
    start = fitting[0]
    asked: list[Shape] = []

    def loss(shape):
        asked.append(shape)
        return losses[shape]

    found = switched(start, levels, TIMES, SIZES, budget, loss, 15, np.random.default_rng(seed))
    assert losses[found] == min(losses[shape] for shape in asked)
    assert asked[0] == start
    assert len(asked) == len(set(asked)) <= 16
    assert set(asked) <= set(fitting)
    again = switched(start, levels, TIMES, SIZES, budget, loss, 15, np.random.default_rng(seed))
    assert again == found


def test_a_loss_that_falls_evenly_is_followed_to_the_best_of_all():
    """Two blocks of one layer: whatever the start, the best that fits is found."""
    budget = Budget(0.55)

    def loss(shape):
        return (4 - shape.heads[0]) ** 2 + 3 * (8 - shape.channels[0]) ** 2

    fitting = [shape for shape in every_shape((1,)) if TIMES.of(shape) <= budget.seconds]
    best = min(fitting, key=loss)
    for start in fitting:
        rng = np.random.default_rng(0)
        assert switched(start, levels, TIMES, SIZES, budget, loss, 60, rng) == best


@pytest.fixture(scope="module", params=["bert", "llama"])
def stitched(request, tmp_path_factory):
    model = make_model(request.param, tmp_path_factory.mktemp(request.param), unequal=False)
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    blocks = blocks_of(model, STATISTICS)
    yield request.param, Stitched(model, blocks), blocks, tmp_path_factory
    after = model.module.state_dict()  # it is left as it was
    assert all(torch.equal(state[name], after[name]) for name in state)


def test_a_stitched_shape_is_the_model_that_is_cut_so(stitched):
    """Layers, heads and channels really removed, and each linear's compensated weights put in."""
    family, made, blocks, factory = stitched
    cut = make_model(family, factory.mktemp("cut"), unequal=False)
    whole = references(cut, JUDGED)
    heads = blocks[0].step
    shape = Shape((1,), (heads,), (8,))
    found = made.loss(shape, JUDGED, made.references(JUDGED))
    with torch.no_grad():
        for block in blocks:
            if block.layer not in shape.layers:
                continue
            linear = cut.linear(block.linear)
            kept = 8 if block.kind == CHANNELS else heads
            left = len(block.columns) - kept // block.step
            weight, bias = block.without(linear.weight, linear.bias, left)
            linear.weight.copy_(weight)
            if linear.bias is not None:
                linear.bias.copy_(bias)
            units = sorted(set(range(len(block.columns))) - set(block.gone.order[:left].tolist()))
            if block.kind == CHANNELS:
                keep_channels(cut, block.layer, units)
            elif block.step == 1:
                keep_heads(cut, block.layer, units)
    keep_layers(cut, shape.layers)
    assert abs(found) > 1e-3
    assert lost(cut, JUDGED, whole) == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_nothing_cut_loses_nothing(stitched):
    _, made, blocks, _ = stitched
    heads = len(blocks[0].columns) * blocks[0].step
    shape = Shape((0, 1), (heads, heads), (len(blocks[1].columns),) * 2)
    assert made.loss(shape, JUDGED, made.references(JUDGED)) == pytest.approx(0.0, abs=1e-6)
