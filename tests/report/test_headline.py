"""The verdict in a line: every kind of it, of records whose figures are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speeds import make_speed, named_by_side

from edgeprune.measure.bench.record import Noise, Ratio
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.measure.record import Measured
from edgeprune.report.headline import headline
from edgeprune.report.pictures.speed_quality import front
from edgeprune.report.points import Point
from edgeprune.report.records import BuildRecord, Known


def record(speedup=(5.8, 5.7, 5.9), lost=(0.6, 0.3, 0.9), require=None, own=True, noisy=False):
    """A build of a classifier that is so much faster and lost so many points of accuracy."""
    speed = named_by_side(make_speed("text-classification"))
    [(work, timed)] = speed.measures.items()
    ratio = Ratio(value=speedup[0], low=speedup[1], high=speedup[2], pairs=9)
    measures = {work: timed.model_copy(update={"ratio": ratio})}
    noise = Noise(
        noisy=noisy, why=("it was busy",) if noisy else (), turn_spread=0.0, others_share=0.0
    )
    speed = speed.model_copy(update={"measures": measures, "noise": noise})
    value = 90.0 - lost[0]
    quality = Evaluation(
        task="classification",
        data="held.csv",
        conditions={"rows": 100},
        values={"accuracy": value},
        interval={"accuracy": (value - 1, value + 1)},
        original={"accuracy": 90.0},
        difference={"accuracy": -lost[0]},
        difference_interval={"accuracy": (-lost[2], -lost[1])},
    )
    measured = Measured(speed=speed, quality=(quality,))
    recipe = {"measure": {"task": "classification" if own else None}, "require": require or {}}
    stages = [{"name": "measure", **measured.to_json()}]
    return BuildRecord("a", {"task": "text-classification", "recipe": recipe, "stages": stages})


REACHED = "5.80x faster, accuracy 0.6 points lower (0.3 to 0.9)"


@pytest.mark.parametrize(
    ("given_", "said", "tone"),
    [
        ({"require": {"drop": 1.0, "speedup": 5.0}}, f"{REACHED}: ship", "better"),
        (
            {"require": {"drop": 0.5}},
            f"{REACHED}: do not ship: classification lost 0.60 of accuracy; 0.5 were allowed",
            "worse",
        ),
        (
            {},
            f"{REACHED}: yours to decide: the recipe says not what it must reach (require)",
            "",
        ),
        (
            {"own": False},
            f"{REACHED}: not yet to be shipped: its own task was not measured (measure.task and "
            "measure.data)",
            "",
        ),
        (
            {"noisy": True, "require": {"drop": 1.0}},
            "5.80x faster (on a noisy machine), accuracy 0.6 points lower (0.3 to 0.9): ship",
            "better",
        ),
        (
            {"speedup": (0.5, 0.4, 0.6)},
            "2.00x slower, accuracy 0.6 points lower (0.3 to 0.9): do not ship: it is not faster "
            "than the original",
            "worse",
        ),
        (
            {"lost": (-0.5, -0.9, 0.2), "require": {"drop": 1.0}},
            "5.80x faster, accuracy 0.5 points higher (-0.2 to 0.9): ship",
            "better",
        ),
    ],
)
def test_each_kind_of_verdict(given_, said, tone):
    found = headline(record(**given_))
    assert (str(found), found.tone) == (said, tone)


VALUES = st.floats(0.1, 10, allow_nan=False)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.booleans())
def test_the_front_is_what_no_other_beats(pairs, lower):
    """Beside the definition, looked up for every pair of points."""
    shown = [Point(str(n), "other", Known.of(x), Known.of(y)) for n, (x, y) in enumerate(pairs)]
    sign = -1 if lower else 1

    def beaten(one: tuple[float, float]) -> bool:
        return any(x >= one[0] and sign * y >= sign * one[1] and (x, y) != one for x, y in pairs)

    expected = sorted({pair for pair in pairs if not beaten(pair)})
    assert [(p.speed.value, p.quality.value) for p in front(shown, lower)] == expected
