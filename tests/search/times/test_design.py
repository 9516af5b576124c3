"""Which small models are timed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model

from edgeprune.search.shape import Shape
from edgeprune.search.times.design import channel_levels, design, head_levels, row
from edgeprune.search.times.settings import BlockSettings


@given(st.integers(1, 5000), st.integers(2, 20), st.sampled_from([1, 16, 64]))
def test_levels_of_channels_rise_to_all_of_them(channels, most, step):
    levels = channel_levels(channels, most, step)
    assert levels == sorted(set(levels))
    assert levels[-1] == channels
    assert len(levels) <= most + 1
    assert all(level % step == 0 for level in levels[:-1])


def test_levels_of_channels_lie_denser_where_there_are_few():
    levels = np.diff(channel_levels(1536, 14, 16))
    assert levels[0] < levels[-1]
    assert (np.diff(levels) >= -16).all()  # but for rounding


@pytest.mark.parametrize(
    ("family", "most", "levels"),
    [
        ("bert", 12, [1, 2, 3, 4]),
        ("bert", 2, [1, 4]),
        ("llama-fused", 12, [2, 4]),  # two key-value heads stay, each with equally many
        ("phi-normed", 12, None),
        ("olmo2-fused", 12, [4]),  # a norm reads all heads together
    ],
)
def test_levels_of_heads_are_those_that_a_model_can_keep(family, most, levels, tmp_path):
    anatomy = make_model(family, tmp_path, unequal=False).anatomy
    part = anatomy.attentions[0]
    if levels is None:  # one query head for each key-value head of a decoder: all stay
        levels = [part.num_heads]
    assert head_levels(anatomy, most) == levels


@pytest.mark.parametrize("family", ["bert", "llama-fused"])
def test_every_level_s_time_follows_from_the_small_models(family, tmp_path):
    anatomy = make_model(family, tmp_path, unequal=False, layers=3).anatomy
    settings = BlockSettings(layers=2, channel_levels=4, step=8)
    shapes = design(anatomy, settings)
    heads, channels = head_levels(anatomy, 12), channel_levels(40, 4, 8)
    assert shapes[-1] == Shape((0, 1, 2), (4, 4, 4), (40, 40, 40))
    assert len(set(shapes)) == len(shapes)
    rows = np.array([row(shape, heads, channels) for shape in shapes])
    assert np.linalg.matrix_rank(rows) == rows.shape[1]


def test_a_line_counts_the_steps_that_a_shape_has_taken():
    shape = Shape((0, 3), (1, 4), (24, 40))
    line = row(shape, [1, 2, 4], [16, 32, 40])
    assert line.tolist() == [1, 2, 1, 1, 0.5 + 1, 1]
