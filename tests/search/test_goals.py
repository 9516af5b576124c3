"""The models that a search makes next, from what was asked and what it has."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.measure.bench.record import Ratio
from edgeprune.search.goals import front, missed, next_goal
from edgeprune.search.record import Found
from edgeprune.search.settings import SearchRunSettings, Wish


def found(speed: float, lost: float = 0.0, megabytes: float = 20.0, memory: float = 80.0) -> Found:
    return Found(
        name=f"{speed:g}",
        shape=None,
        minutes=0.0,
        asked=None,
        predicted=speed,
        speedup=Ratio(value=speed, low=0.98 * speed, high=1.02 * speed),
        ms=30 / speed,
        original_ms=30.0,
        megabytes=megabytes,
        memory_megabytes=memory,
        loss=lost,
        loss_interval=(lost - 0.2, lost + 0.2),
        loss_of="spearman",
        loss_unit="",
        held_out=lost,
    )


WHOLE = found(3.0)


def goals(wish: Wish, answer, settings=None, fastest=60.0):
    """The speedups of all goals, each answered by a model."""
    made, asked = [], []
    while goal := next_goal(wish, settings or SearchRunSettings(), WHOLE, fastest, made):
        asked.append(goal)
        made.append(answer(goal))
        assert len(made) < 20
    return asked, made


def test_a_front_goes_from_the_whole_model_to_the_fastest_in_equal_ratios():
    asked, _ = goals(Wish(), lambda goal: found(goal.speedup))
    speeds = [goal.speedup for goal in asked]
    assert len(speeds) == 4
    assert speeds[-1] == pytest.approx(40)
    ratios = [b / a for a, b in zip([3.0, *speeds], speeds, strict=False)]
    assert ratios == pytest.approx([ratios[0]] * 4)


@given(st.floats(1.5, 10), st.floats(1.01, 200), st.integers(1, 11))
def test_a_front_rises_from_the_slowest(slowest, fastest, count):
    speeds = front(slowest, fastest, count)
    assert len(speeds) == count
    assert slowest < speeds[0]
    assert all(a < b for a, b in itertools.pairwise(speeds))


def test_speeds_that_are_asked_for_are_made_in_order_and_those_the_whole_model_has_are_not():
    asked, _ = goals(Wish(speedup=(10, 2.5, 7)), lambda goal: found(goal.speedup))
    assert [goal.speedup for goal in asked] == [7, 10]


def test_a_latency_is_a_speedup_of_the_original():
    asked, _ = goals(Wish(latency=3.0), lambda goal: found(goal.speedup))
    assert [goal.speedup for goal in asked] == [10]


def test_a_size_alone_has_no_limit_of_time():
    (goal,), _ = goals(Wish(megabytes=15), lambda goal: found(5, megabytes=14))
    assert goal.speedup is None
    assert goal.bytes == 15e6


def test_a_size_that_the_whole_model_has_needs_no_other():
    assert next_goal(Wish(megabytes=25), SearchRunSettings(), WHOLE, 60.0, []) is None


def test_memory_limits_what_the_graph_may_have():
    (goal,), _ = goals(Wish(memory=70), lambda goal: found(5))
    assert goal.bytes == pytest.approx(10e6)  # 60 MB are not the graph's


def test_the_fastest_within_a_loss_is_found_between_the_last_good_and_the_first_bad():
    def lost(speed):  # a point is lost at 9x
        return (speed / 9) ** 2

    wish = Wish(max_drop=1.2)  # the interval is 0.2 wide to either side
    settings = SearchRunSettings(points=12)
    _, made = goals(wish, lambda goal: found(goal.speedup, lost(goal.speedup)), settings)
    inside = [each.speedup.value for each in made if not missed(each, wish)]
    assert 9 / 1.12 < max(inside) <= 9


def test_nothing_more_is_made_where_the_whole_model_loses_too_much():
    assert next_goal(Wish(max_drop=0.1), SearchRunSettings(), WHOLE, 60.0, []) is None


def test_a_limit_is_kept_by_the_whole_interval():
    assert missed(found(10.0), Wish(speedup=(10,)))
    assert not missed(found(10.3), Wish(speedup=(10,)))
    assert missed(found(5, lost=0.9), Wish(max_drop=1))
    assert not missed(found(5, lost=0.7), Wish(max_drop=1))


@pytest.mark.parametrize("lost", [0.05, 0.15])
def test_rows_too_few_to_show_a_loss_are_told_with_those_that_would(lost):
    """Half an interval is 0.2 on 100 rows, and 0.1 on four times as many."""
    few = found(5, lost=lost).model_copy(update={"judged_on": ("pairs", 100)})
    (line,) = missed(few, Wish(max_drop=0.1))
    assert line.endswith("; 100 pairs tell losses apart by 0.2, and 0.1 needs about 400")


def test_rows_that_show_that_too_much_is_lost_are_enough():
    clear = found(5, lost=0.5).model_copy(update={"judged_on": ("pairs", 100)})
    (line,) = missed(clear, Wish(max_drop=0.1))
    assert "pairs" not in line


def test_the_fastest_within_a_loss_is_no_slower_than_the_latency():
    (first, *_), _ = goals(Wish(max_drop=5, latency=2), lambda goal: found(goal.speedup, lost=9))
    assert first.speedup == 15


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"speedup": (0.5,)}, "more than 1"),
        ({"speedup": (5,), "latency": 3}, "both limit the time"),
        ({"speedup": (5, 7), "max_drop": 1}, "one speedup at most"),
    ],
)
def test_limits_that_contradict_are_refused(limits, why):
    with pytest.raises(ValueError, match=why):
        Wish(**limits)


def test_a_measure_needs_its_data():
    with pytest.raises(ValueError, match="give both"):
        SearchRunSettings(task="sts")
