"""The shape that loses least within a time, against every shape there is."""

import itertools

import pytest

from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.search.choice import Budget, Costs, candidates, levels_of
from edgeprune.search.losses import Curve, Layers, Losses

TIMES = Costs(0.1, 0.2, lambda heads: 0.05 * heads, lambda channels: 0.0003 * channels)
SIZES = Costs(1000.0, 10.0, lambda heads: 40.0 * heads, lambda channels: 1.0 * channels)


def curve(layer: int, kind: str, units: int, scale: float) -> Curve:
    kept = tuple(range(units, 0, -1))
    errors = tuple(scale * (1 - n / units) ** 2 for n in kept)
    measured = {n: scale * (1 - n / units) ** 1.5 for n in (units // 4, units // 2)}
    return Curve(layer, kind, units, 1, kept, errors, measured)


LOSSES = Losses(
    tuple(curve(layer, HEADS, 4, 0.1 * (1 + layer)) for layer in range(3)),
    tuple(curve(layer, CHANNELS, 8, 0.3 / (1 + layer)) for layer in range(3)),
    (Layers((0, 1, 2), 0.0), Layers((0, 2), 0.2), Layers((1, 2), 0.25), Layers((2,), 0.6)),
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
    for kept, loss in one.measured.items():
        assert one.loss(kept) == pytest.approx(loss)
    losses = [one.loss(kept) for kept in range(16, 0, -1)]
    assert losses[0] == 0
    assert losses == sorted(losses)


def test_levels_of_many_channels_are_multiples_of_sixteen_up_to_all_of_them():
    wide = Curve(0, CHANNELS, 1500, 1, tuple(range(1500, 0, -1)), tuple(range(1500)), {750: 1.0})
    levels = levels_of(wide)
    assert all(level % 16 == 0 for level in list(levels)[:-1])
    assert list(levels)[-1] == 1500
    assert 40 <= len(list(levels)) <= 50
