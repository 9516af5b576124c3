"""The shape of a compressed model."""

import pytest

from edgeprune.search.shape import Shape


def test_a_shape_is_compared_by_value_and_can_be_a_key():
    assert {Shape((0, 2), (4, 12), (448, 1536)): 1}[Shape((0, 2), (4, 12), (448, 1536))] == 1


@pytest.mark.parametrize(
    ("layers", "heads", "channels", "said"),
    [
        ((0, 1), (4,), (64, 64), "for each"),
        ((), (), (), "keeps a layer"),
        ((0,), (0,), (64,), "keeps a layer"),
        ((0,), (1,), (0,), "keeps a layer"),
        ((1, 1), (4, 4), (64, 64), "rise"),
        ((2, 1), (4, 4), (64, 64), "rise"),
    ],
)
def test_what_is_no_shape_is_refused(layers, heads, channels, said):
    with pytest.raises(ValueError, match=said):
        Shape(layers, heads, channels)
