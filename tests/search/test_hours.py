"""A search's hours: kept whatever its parts take, by a clock that the test turns."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.measure.bench.record import Ratio
from edgeprune.search import run
from edgeprune.search.choice import Candidate
from edgeprune.search.hours import Hours
from edgeprune.search.journal import Journal
from edgeprune.search.record import Brief, Found, plain
from edgeprune.search.settings import SearchRunSettings, Wish
from edgeprune.search.shape import Shape

WHOLE = 90.0
"""Seconds in which the whole model is built and measured."""


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def found(name: str, speed: float, minutes: float = 0.0) -> Found:
    return Found(
        name=name,
        shape=None,
        minutes=minutes,
        asked=speed,
        predicted=speed,
        speedup=Ratio(value=speed, low=speed, high=speed),
        ms=30 / speed,
        original_ms=30.0,
        megabytes=20.0,
        memory_megabytes=80.0,
        loss=0.0,
        loss_interval=None,
        loss_of="spearman",
        loss_unit="",
        held_out=0.1,
    )


class Bundles:
    """Bundles that take their time on the clock: around a training, and for it."""

    def __init__(self, journal: Journal, clock: Clock, around: float, together: int) -> None:
        self.journal, self.clock, self.around, self.together = journal, clock, around, together
        self.trained: list[float] = []
        self.made: list[str] = []

    def long(self, plan, asked, minutes):
        def make():
            self.clock.now += WHOLE + self.around + 60 * plan.length.minutes
            self.trained.append(plan.length.minutes)
            self.made.append(plan.name)
            return found(plan.name, asked, minutes)

        return self.journal.once(plan.name, make, Found.to_json, Found.model_validate)

    def brief(self, of, plans):
        length = next(iter(plans.values())).length.minutes
        rounds = -(-len(plans) // self.together)
        self.clock.now += rounds * (self.around + 60 * length)
        self.trained += [length] * len(plans)
        return [
            Brief(
                name=name,
                of=of,
                shape=plain(plan.shape),
                minutes=length,
                predicted=1.0,
                speedup=1.0,
                held_out=0.1,
                chosen=False,
            )
            for name, plan in plans.items()
        ]


class Choosing:
    """Three depths for every goal; switching takes as long as it is let."""

    fastest = 100.0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def candidates(self, goal):
        shapes = [Shape(tuple(range(n)), (4,) * n, (8,) * n) for n in (3, 2, 1)]
        return [Candidate(shape, 0.1, 1.0, 1.0) for shape in shapes]

    def switched(self, name, goal, candidate, enough):
        for _ in range(60):
            if enough():
                break
            self.clock.now += 1.5
        return candidate

    def again(self, name, goal, best, enough):
        return best


def searched(tmp_path, monkeypatch, hours, clock, around=30.0, together=1, wish=None):
    """A search of a front; its record's arguments, and its bundles."""
    journal = Journal(tmp_path / "journal.json", clock)
    given = SearchRunSettings(hours=hours)
    prepared = SimpleNamespace(wish=wish or Wish(), settings=given)
    bundles = Bundles(journal, clock, around, together)

    def whole():
        clock.now += WHOLE
        return found("whole", 3.0)

    first = journal.once("whole", whole, Found.to_json, Found.model_validate)
    counted = Hours(given, journal, together)
    counted.whole_took(journal.took("whole"))
    speeds = SimpleNamespace(
        predicted=lambda shape: 5.0,
        learn=lambda shape, speed: None,
        table=SimpleNamespace(error=0.0),
    )
    written = []
    monkeypatch.setattr(run, "write", lambda *args: written.append(args))
    run.Search(prepared, journal, bundles, speeds, counted, first).run(Choosing(clock))
    _, models, _, _, _, finished, over = written[-1]
    return models, finished, over, bundles


@given(
    hours=st.floats(0.05, 8),
    around=st.floats(0, 90),
    together=st.integers(1, 4),
    speeds=st.lists(st.floats(4, 90), min_size=1, max_size=6, unique=True),
)
@settings(max_examples=80, deadline=None)
def test_it_ends_by_its_hours(tmp_path_factory, hours, around, together, speeds):
    """What stands around a training is no longer than the whole model took, or as it was before."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(1000.0)
        folder = tmp_path_factory.mktemp("hours")
        models, finished, over, bundles = searched(
            folder, patch, hours, clock, around, together, Wish(speedup=tuple(speeds))
        )
    assert clock.now - 1000.0 <= max(3600 * hours, WHOLE) + 1e-6
    assert finished != over
    assert finished == (len(models) == 1 + len(speeds))
    assert all(minutes > 0 for minutes in bundles.trained)


def test_training_has_what_building_and_measuring_leave_of_the_hours(tmp_path, monkeypatch):
    clock = Clock()
    models, finished, _, bundles = searched(tmp_path, monkeypatch, 2.0, clock)
    assert finished
    assert len(models) == 5
    around = WHOLE + 4 * (WHOLE + 30 + 3 * (30 + 90))  # 90: shapes near each candidate
    assert 60 * sum(bundles.trained) == pytest.approx(7200 - around, rel=0.02)
    longs = [each.minutes for each in models[1:]]
    assert max(longs) < 1.25 * min(longs)


def test_with_few_hours_there_are_fewer_models_not_untrained_ones(tmp_path, monkeypatch):
    clock = Clock()
    models, finished, over, bundles = searched(tmp_path, monkeypatch, 0.3, clock)
    assert (finished, over) == (False, True)
    assert 1 < len(models) < 5
    assert 60 * sum(bundles.trained) >= 0.3 * (clock.now - WHOLE)


def test_with_more_hours_it_goes_on_from_what_it_has(tmp_path, monkeypatch):
    first, _, over, _ = searched(tmp_path, monkeypatch, 0.3, Clock())
    assert over
    clock = Clock(500.0)  # another day's
    second, finished, _, bundles = searched(tmp_path, monkeypatch, 2.0, clock)
    assert finished
    assert second[: len(first)] == first
    assert bundles.made == [each.name for each in second[len(first) :]]
    assert clock.now - 500.0 <= 7200


def test_candidates_that_train_together_train_longer(tmp_path, monkeypatch):
    wish, briefly = Wish(speedup=(9,)), []
    for together in (1, 4):
        folder = tmp_path / str(together)
        folder.mkdir()
        *_, bundles = searched(folder, monkeypatch, 1.0, Clock(), together=together, wish=wish)
        briefly.append(bundles.trained[0])
    assert briefly[1] > 2 * briefly[0]
