"""Times of levels from the times of whole models."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model

from edgeprune.search.shape import Shape
from edgeprune.search.times.correct import corrected
from edgeprune.search.times.design import channel_levels, design, head_levels, row
from edgeprune.search.times.fit import fit, non_negative
from edgeprune.search.times.predict import predict
from edgeprune.search.times.settings import BlockSettings
from edgeprune.targets.block_times import BlockTimes, Level


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 12))
def test_non_negative_least_squares_are_scipy_s(seed, unknowns, more):
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((unknowns + more, unknowns))
    wanted = draw.standard_normal(unknowns + more)
    found = non_negative(rows, wanted)
    assert (found >= 0).all()
    _, least = scipy.optimize.nnls(rows, wanted)
    assert np.linalg.norm(rows @ found - wanted) == pytest.approx(least, abs=1e-9)


HEADS, CHANNELS = [1, 2, 3, 4], [8, 16, 24, 40]


def _seconds(shape: Shape) -> float:
    """A made-up machine, on which all adds up."""
    return 1e-4 + sum(
        2e-4 + 5e-5 * heads + 2e-6 * channels
        for heads, channels in zip(shape.heads, shape.channels, strict=True)
    )


@pytest.fixture
def shapes(tmp_path) -> list[Shape]:
    anatomy = make_model("bert", tmp_path, unequal=False, layers=3).anatomy
    settings = BlockSettings(layers=2, channel_levels=4, step=8)
    assert (head_levels(anatomy, 12), channel_levels(40, 4, 8)) == (HEADS, CHANNELS)
    return design(anatomy, settings)


def test_times_that_add_up_are_found(shapes):
    found = fit(shapes, [_seconds(shape) for shape in shapes], HEADS, CHANNELS)
    other = Shape((0, 2), (3, 1), (20, 40))
    assert row(other, HEADS, CHANNELS) @ found == pytest.approx(_seconds(other), rel=1e-3)


def test_noise_is_averaged_and_more_never_takes_less(shapes):
    draw = np.random.default_rng(0)
    times = [_seconds(shape) * draw.normal(1, 0.03) for shape in shapes]
    found = fit(shapes, times, HEADS, CHANNELS)
    assert (found >= 0).all()
    other = Shape((0, 1, 2), (2, 4, 1), (24, 12, 36))
    assert row(other, HEADS, CHANNELS) @ found == pytest.approx(_seconds(other), rel=0.06)


def table(**other: object) -> BlockTimes:
    """That machine's table."""
    return BlockTimes(
        model="m",
        format="int8",
        work="encoder",
        tokens=128,
        batch=1,
        threads=1,
        rest=100.0,
        layer=266.0,
        heads=tuple(Level(count=n, us=50.0 * (n - 1)) for n in HEADS),
        channels=tuple(Level(count=n, us=2.0 * (n - 8)) for n in CHANNELS),
        layers=3,
        whole=_seconds(Shape((0, 1, 2), (4,) * 3, (40,) * 3)) * 1e6,
        error=0.0,
        machine={},
        **other,
    )


def test_a_model_s_time_is_the_sum_of_its_blocks():
    for shape in (Shape((1,), (1,), (8,)), Shape((0, 2), (3, 2), (21, 37))):
        assert predict(table(), shape) == pytest.approx(_seconds(shape))


def test_beyond_the_ends_the_line_goes_on():
    shape = Shape((0,), (4,), (4,))
    assert predict(table(), shape) == pytest.approx(_seconds(Shape((0,), (4,), (8,))))  # not below
    assert predict(table(), Shape((0,), (8,), (40,))) == pytest.approx(
        _seconds(Shape((0,), (8,), (40,)))
    )


def test_instructions_are_no_seconds():
    shape = Shape((0,), (1,), (8,))
    assert predict(table(unit="instructions"), shape) == pytest.approx(366.0)


SHAPES = [
    Shape((0,), (1,), (8,)),
    Shape((0, 1, 2), (1, 1, 1), (40, 40, 40)),
    Shape((0, 1, 2), (4, 4, 4), (8, 8, 8)),
    Shape((0, 2), (4, 3), (40, 16)),
    Shape((0, 1), (2, 2), (24, 8)),
]


def test_built_models_correct_the_table():
    """Heads are a third slower than measured, and many models tell so."""

    def slower(shape: Shape) -> float:
        return _seconds(shape) + sum(5e-5 / 3 * (heads - 1) for heads in shape.heads)

    many = corrected(table(), [(shape, slower(shape)) for shape in SHAPES * 40])
    assert many.factors.heads == pytest.approx(4 / 3, rel=0.02)
    assert many.factors.channels == pytest.approx(1, abs=0.03)
    other = Shape((0, 1, 2), (3, 4, 2), (16, 24, 40))
    assert predict(many, other) == pytest.approx(slower(other), rel=0.005)
    assert len(many.built) == len(SHAPES) * 40
    again = corrected(many, [])
    assert again.factors == many.factors


def test_one_built_model_moves_the_table_towards_it_and_none_does_nothing():
    assert corrected(table(), []) == table()
    [shape] = SHAPES[3:4]
    found = corrected(table(), [(shape, 1.1 * _seconds(shape))])
    ratio = predict(found, shape) / _seconds(shape)
    assert 1.05 < ratio < 1.1
    assert predict(corrected(found, [(shape, 1.1 * _seconds(shape))]), shape) > ratio * _seconds(
        shape
    )
