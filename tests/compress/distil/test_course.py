"""Training by the clock: rates and checks follow the share of the time that has passed."""

import math

import pytest

from edgeprune.base import progress
from edgeprune.compress.distil import course as course_file
from edgeprune.compress.distil.course import course
from edgeprune.compress.distil.settings import DistilSettings
from edgeprune.pipeline.recipe import validate


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        for module in (course_file, progress):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def train(clock: Clock, settings: DistilSettings, step: float, check: float = 0.0):
    """Rows of (seconds at the step's start, rate, checked) of a training."""
    steps = course(settings, "training", settings.minutes)
    began, rows = clock.now, []
    for number in steps:
        rows.append([clock.now - began, steps.rate, False])
        assert number == len(rows)
        clock.now += step
        rows[-1][2] = steps.due()
        clock.now += check * rows[-1][2]
    return rows, clock.now - began


@pytest.mark.parametrize("checks", [1, 3, 7])
def test_the_rate_is_that_of_the_share_of_time(clock, checks):
    settings = DistilSettings(minutes=2, learning_rate=0.01, warmup=0.25, checks=checks)
    rows, took = train(clock, settings, step=0.7)
    assert 120 <= took < 120.7
    for seconds, rate, _ in rows:
        if seconds <= 30:
            assert rate == pytest.approx(0.01 * seconds / 30)
        else:
            half = math.pi / 2 * (seconds - 30) / 90
            assert rate == pytest.approx(0.01 * math.cos(half) ** 2)
    checked = [seconds + 0.7 for seconds, _, due in rows if due]
    assert len(checked) == checks
    for number, at in enumerate(checked, start=1):
        assert 0 <= at - 120 * number / checks < 0.7 + 1e-9
    assert rows[-1][2]  # the last weights are judged


def test_slow_steps_are_each_checked_and_a_check_that_takes_the_rest_ends_it(clock):
    settings = DistilSettings(minutes=1, checks=6)
    rows, _ = train(clock, settings, step=25)
    assert [(seconds, due) for seconds, _, due in rows] == [(0, True), (25, True), (50, True)]
    rows, _ = train(clock, settings, step=1, check=55)
    assert [(seconds, due) for seconds, _, due in rows if due] == [(9, True)]
    assert len(rows) == 10


def test_one_step_is_taken_at_least(clock):
    rows, _ = train(clock, DistilSettings(minutes=0.01), step=90)
    assert [due for *_, due in rows] == [True]


def test_minutes_win_over_steps_in_what_a_recipe_tells():
    for section, length in (
        ({"minutes": 7.5}, "7.5 minutes"),
        ({"minutes": 1}, "1 minute"),
        ({"steps": 12}, "12 steps"),
    ):
        assert validate({"recover": section}, "r").recover.length == length
