"""The shape that loses least within a time, against every shape there is."""

import itertools
import math

import pytest

from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.search.choice import candidates, levels_of
from edgeprune.search.costs import Budget, Costs
from edgeprune.search.losses import Curve, Layers, LevelLoss, Losses

TIMES = Costs(0.1, 0.2, lambda heads: 0.05 * heads, lambda channels: 0.0003 * channels)
SIZES = Costs(1000.0, 10.0, lambda heads: 40.0 * heads, lambda channels: 1.0 * channels)


def curve(layer: int, kind: str, units: int, scale: float) -> Curve:
    kept = tuple(range(units, 0, -1))
    errors = tuple(scale * (1 - n / units) ** 2 for n in kept)
    measured = [
        LevelLoss(kept=n, loss=scale * (1 - n / units) ** 1.5) for n in (units // 2, units // 4)
    ]
    return made(layer, kind, kept, errors, *measured)


def made(layer: int, kind: str, kept, errors, *measured: LevelLoss) -> Curve:
    found = {"layer": layer, "kind": kind, "units": kept[0], "step": 1, "kept": kept}
    return Curve(**found, errors=errors, measured=measured)


LOSSES = Losses(
    heads=tuple(curve(layer, HEADS, 4, 0.1 * (1 + layer)) for layer in range(3)),
    channels=tuple(curve(layer, CHANNELS, 8, 0.3 / (1 + layer)) for layer in range(3)),
    layers=tuple(
        Layers(kept=kept, loss=loss)
        for kept, loss in (((0, 1, 2), 0.0), ((0, 2), 0.2), ((1, 2), 0.25), ((2,), 0.6))
    ),
)


def every_shape(layers):
    widths = list(itertools.product(range(1, 5), levels_of(LOSSES.channels[0])))
    for chosen in itertools.product(widths, repeat=len(layers)):
        loss = sum(
            LOSSES.heads[layer].loss(h) + LOSSES.channels[layer].loss(c)
            for layer, (h, c) in zip(layers, chosen, strict=True)
        )
        time = TIMES.rest + sum(TIMES.layer + TIMES.heads(h) + TIMES.channels(c) for h, c in chosen)
        size = SIZES.rest + sum(SIZES.layer + SIZES.heads(h) + SIZES.channels(c) for h, c in chosen)
        yield loss, time, size


@pytest.mark.parametrize("seconds", [0.6, 0.8, 1.0, 1.3])
def test_every_depth_has_the_best_of_all_its_shapes(seconds):
    found = {len(c.shape.layers): c for c in candidates(LOSSES, TIMES, SIZES, Budget(seconds))}
    for depth in (1, 2, 3):
        sets = [each for each in LOSSES.layers if len(each.kept) == depth]
        fitting = [
            each.loss + loss
            for each in sets
            for loss, time, _ in every_shape(each.kept)
            if time <= seconds
        ]
        if not fitting:
            assert depth not in found
            continue
        assert found[depth].loss == pytest.approx(min(fitting))
        assert found[depth].seconds <= seconds + 1e-9
    losses = [each.loss for each in candidates(LOSSES, TIMES, SIZES, Budget(seconds))]
    assert losses == sorted(losses)


def test_bytes_are_kept_beside_the_time():
    free = candidates(LOSSES, TIMES, SIZES, Budget(1.3))[0]
    least = 1000 + 3 * 10 + 3 * 40
    limit = (free.bytes + least) / 2
    for each in candidates(LOSSES, TIMES, SIZES, Budget(1.3, limit)):
        assert each.bytes <= limit
        assert each.seconds <= 1.3


def test_what_cannot_be_had_has_no_candidate():
    assert candidates(LOSSES, TIMES, SIZES, Budget(0.3)) == []
    assert candidates(LOSSES, TIMES, SIZES, Budget(None, 900.0)) == []


def test_a_loss_passes_through_its_measurements_and_never_rises_with_more_units():
    one = curve(0, CHANNELS, 16, 0.5)
    for level in one.measured:
        assert one.loss(level.kept) == pytest.approx(level.loss)
    losses = [one.loss(kept) for kept in range(16, 0, -1)]
    assert losses[0] == 0
    assert losses == sorted(losses)


def test_levels_of_many_channels_are_multiples_of_sixteen_up_to_all_of_them():
    kept, errors = tuple(range(1500, 0, -1)), tuple(map(float, range(1500)))
    wide = made(0, CHANNELS, kept, errors, LevelLoss(kept=750, loss=1.0))
    levels = levels_of(wide)
    assert all(level % 16 == 0 for level in list(levels)[:-1])
    assert list(levels)[-1] == 1500
    assert 40 <= len(list(levels)) <= 50


def test_levels_whose_outputs_are_not_finite_are_not_chosen():
    broken = [LevelLoss(kept=6, loss=0.1), LevelLoss(kept=4, loss=None)]
    kept, errors = tuple(range(8, 0, -1)), tuple(0.1 * n for n in range(8))
    heads = curve(0, HEADS, 4, 0.1)
    one = made(0, CHANNELS, kept, errors, *broken)
    assert [math.isfinite(one.loss(n)) for n in range(1, 9)] == [False] * 4 + [True] * 4
    layers = (Layers(kept=(0,), loss=0.0),)
    losses = Losses(heads=(heads,), channels=(one,), layers=layers)
    for seconds in (0.32, 0.36, 0.5):
        for each in candidates(losses, TIMES, SIZES, Budget(seconds)):
            assert each.shape.channels[0] > 4
