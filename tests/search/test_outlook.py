"""More training's gain: a power law through two trainings."""

import pytest

from edgeprune.measure.bench.record import Ratio
from edgeprune.search.outlook import outlook, with_twice_the_training
from edgeprune.search.record import Brief, Found, SearchRecord

SHAPE = {"layers": [0], "heads": [2], "channels": [16]}


def record(brief_loss=0.2, long_loss=0.1, brief_minutes=2.0, others=1, minutes=32.0, chosen=True):
    """A model trained for `minutes` in all, its candidates' among them."""
    trials = tuple(
        Brief(
            name=f"a-{number}",
            of="a",
            shape=SHAPE,
            minutes=brief_minutes,
            predicted=5.0,
            speedup=5.0,
            held_out=brief_loss + number,
            chosen=chosen and number == 0,
        )
        for number in range(others + 1)
    )
    found = Found(
        name="a",
        shape=SHAPE,
        minutes=minutes,
        asked=5.0,
        predicted=5.0,
        speedup=Ratio(value=5.0, low=4.9, high=5.1, pairs=9, launches=3),
        ms=1.0,
        original_ms=5.0,
        megabytes=1.0,
        memory_megabytes=None,
        loss=1.0,
        loss_interval=None,
        loss_of="spearman",
        loss_unit="",
        held_out=long_loss,
    )
    return SearchRecord(
        model="m",
        text="t",
        wish={},
        settings={},
        machine={},
        table_error=0.0,
        models=(found,),
        trials=trials,
        best="a",
        verdict=(),
        seconds=1.0,
        finished=True,
    )


@pytest.mark.parametrize("power", [-0.1, -0.5, -1.0])
def test_a_power_law_is_continued(power):
    """28 minutes, 14 times the brief training's 2: of t^p the double has 2^p."""
    made = record(brief_loss=0.1 * 14**-power, long_loss=0.1)
    minutes, left = with_twice_the_training(made, made.models[0])
    assert minutes == pytest.approx(56)
    assert left == pytest.approx(0.1 * 2**power)
    assert "twice the training, 56 minutes" in outlook(made, made.models[0])


@pytest.mark.parametrize(
    "given",
    [
        {"chosen": False},
        {"long_loss": 0.3},  # the longer training lost more
        {"minutes": 6.0},  # no longer than the brief one
        {"brief_minutes": 0.0},
        {"long_loss": 0.0},
    ],
)
def test_what_tells_nothing_is_not_continued(given):
    made = record(**given)
    assert with_twice_the_training(made, made.models[0]) is None
    assert outlook(made, made.models[0]) is None
