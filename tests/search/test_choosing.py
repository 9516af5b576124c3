"""The choice of shapes for a goal: what no shape reaches is told with what one can."""

from types import SimpleNamespace

import pytest

from edgeprune.search import choosing
from edgeprune.search.choosing import Choosing
from edgeprune.search.costs import Costs
from edgeprune.search.goals import Goal
from edgeprune.search.losses import Curve, Layers, LevelLoss, Losses

TIMES = Costs(0.1, 0.2, lambda heads: 0.05 * heads, lambda channels: 0.0003 * channels)
SIZES = Costs(1000.0, 10.0, lambda heads: 40.0 * heads, lambda channels: 1.0 * channels)


def curve(kind: str, units: int) -> Curve:
    return Curve(
        layer=0,
        kind=kind,
        units=units,
        step=1,
        kept=(units, 1),
        errors=(0.0, 1.0),
        measured=(LevelLoss(kept=1, loss=0.5),),
    )


LOSSES = Losses(
    heads=(curve("heads", 4),),
    channels=(curve("channels", 8),),
    layers=(Layers(kept=(0,), loss=0.0),),
)
ORIGINAL = 4.0


@pytest.fixture
def made(monkeypatch) -> Choosing:
    """One layer of 1 head and 1 channel takes 0.3503 s and 1,051 bytes; the original 4 s."""
    monkeypatch.setattr(choosing, "sizes_of", lambda prepared, whole: SIZES)
    speeds = SimpleNamespace(
        original=ORIGINAL,
        times=TIMES,
        predicted=lambda shape: ORIGINAL / TIMES.of(shape),
        table=SimpleNamespace(channels=[SimpleNamespace(count=1)]),
    )
    whole = SimpleNamespace(megabytes=2e-3, memory_megabytes=80.0)
    prepared = SimpleNamespace(wish=SimpleNamespace(memory=70.0), may_trim=True)
    return Choosing(prepared, None, speeds, LOSSES, None, whole)


@pytest.mark.parametrize(
    ("goal", "of", "no"),
    [
        (
            Goal(50, None),
            "50x as fast: the smallest (layers 1, heads 1,",
            "so small",
        ),
        (Goal(None, 900.0), "so small that its graph has 0.0009 MB: the", "as fast and"),
        (Goal(5, 900.0), "so small that its graph has 0.0009 MB: the", "5x as fast and"),
        (
            Goal(50, 900.0),
            "50x as fast and so small that its graph has 0.0009 MB: the",
            "5x as f: ",
        ),
        (Goal(None, -3e6), "so small that its graph has 0 MB: the", "as fast and"),
    ],
)
def test_a_goal_that_no_shape_reaches_names_its_limit_and_the_nearest(made, goal, of, no):
    assert made.candidates(goal) == []
    told = made.impossible(goal)
    assert f"No shape of this model is {of}" in told
    assert no not in told
    assert "11.4x as fast with 0.00105 MB" in told
    assert "a front ends at 9.71x" in told
    assert ("vocabulary.min_count=1" in told) == (goal.bytes is not None)
    assert ("about 80 MB of memory beside the graph" in told) == (goal.bytes is not None)
