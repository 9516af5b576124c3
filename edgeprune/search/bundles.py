"""The bundles of a search: trained by its engine, and measured here, one at a time."""

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.record import Comparison
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.pipeline.recipe import Recipe
from edgeprune.search.engine import Engine
from edgeprune.search.journal import Journal
from edgeprune.search.prepare import MARK, Prepared
from edgeprune.search.record import Brief, Found, plain
from edgeprune.search.shape import Shape
from edgeprune.search.trial import (
    Length,
    Trial,
    Tried,
    contents,
    hurried,
    recipe_of,
    try_out,
)

WHOLE = "whole"
"""The name of the original in the plan's formats, nothing cut."""
_SECONDS, _LAUNCHES = 8.0, 4
"""The timing of a bundle that was trained briefly."""


@dataclass(frozen=True)
class Plan:
    """A model to make.

    name: of its folder. predicted: its speedup. length: of its own training. start: the folder of a
    larger model that it goes on from.
    """

    name: str
    shape: Shape
    predicted: float
    length: Length
    start: Path | None


class Bundles:
    """The bundles of one search: each is made once."""

    def __init__(self, prepared: Prepared, engine: Engine, journal: Journal) -> None:
        self._prepared, self._engine, self._journal = prepared, engine, journal
        self._place = prepared.output / MARK / "trials"

    def whole(self) -> Found:
        """The original in the plan's formats, nothing cut."""
        recipe = recipe_of(self._prepared.base, None, Length(), None, brief=False)
        return self._found(WHOLE, None, 1.0, None, 0.0, recipe)

    def long(self, plan: Plan, asked: float | None, minutes: float) -> Found:
        """A model of the front.

        Args:
            asked: its speedup.
            minutes: of training in all, its candidates' among them.
        """
        recipe = self._recipe(plan, brief=False)
        return self._found(plan.name, plan.shape, plan.predicted, asked, minutes, recipe)

    def brief(self, of: str, plans: Mapping[str, Plan]) -> list[Brief]:
        """Candidates for a model, trained briefly, beside each other where the engine can.

        Args:
            of: the model's name.
        """
        waiting = [plan for name, plan in plans.items() if name not in self._journal]
        trials = [self._trial(self._recipe(p, brief=True), self._place / p.name) for p in waiting]
        tried = self._engine.run(trials)
        results = {plan.name: each for plan, each in zip(waiting, tried, strict=True)}
        found = []
        for name, plan in plans.items():
            make = functools.partial(self._brief, of, plan, results)
            found.append(self._journal.once(name, make, Brief.to_json, Brief.model_validate))
            shutil.rmtree(self._place / name, ignore_errors=True)
        return found

    def _recipe(self, plan: Plan, brief: bool) -> Recipe:
        prepared = self._prepared
        return recipe_of(
            prepared.base,
            plan.shape,
            plan.length,
            plan.start,
            brief,
            prepared.group,
            prepared.checkpoint.anatomy.hidden_size,
        )

    def _trial(self, recipe: Recipe, folder: Path) -> Trial:
        answers = self._prepared.output / MARK / "answers"
        return Trial(contents(recipe), str(folder), str(answers.absolute()))

    def _brief(self, of: str, plan: Plan, results: Mapping[str, Tried]) -> Brief:
        speed = self._timed(self._place / plan.name)
        return Brief(
            name=plan.name,
            of=of,
            shape=plain(plan.shape),
            minutes=plan.length.minutes or 0.0,
            predicted=plan.predicted,
            speedup=speed.measures[self._prepared.work].ratio.value,
            held_out=results[plan.name].distance,
            chosen=False,
        )

    def _timed(self, folder: Path) -> Comparison:
        """A trial's bundle beside the original, briefly, and alone on this machine."""
        measure = self._prepared.base.measure
        return compare(
            folder / "bundle",
            folder / "original",
            BenchSettings(
                tokens=measure.tokens,
                batch=measure.batch,
                threads=measure.threads,
                time_limit=min(_SECONDS, measure.seconds),
                launches=min(_LAUNCHES, measure.launches),
            ),
        )

    def _found(
        self,
        name: str,
        shape: Shape | None,
        predicted: float,
        asked: float | None,
        minutes: float,
        recipe: Recipe,
    ) -> Found:
        """A model, built and measured."""
        folder = self._prepared.output / "models" / name

        def make() -> Found:
            trial = self._trial(recipe, folder)
            if not self._engine.alone:  # what is left to do here is to measure
                self._engine.run([self._trial(hurried(recipe), folder)])
            tried = try_out(trial)
            timed, loss = tried.speed.measures[self._prepared.work], tried.loss
            memory = tried.speed.candidate.peak_memory_bytes
            return Found(
                name=name,
                shape=plain(shape) if shape else None,
                minutes=minutes,
                asked=asked,
                predicted=predicted,
                speedup=timed.ratio,
                ms=timed.candidate.median_ms,
                original_ms=timed.baseline.median_ms,
                megabytes=(tried.speed.candidate.model_bytes or 0) / 1e6,
                memory_megabytes=memory / 1e6 if memory else None,
                loss=loss.value,
                loss_interval=loss.interval,
                loss_of=loss.of,
                loss_unit=loss.unit,
                held_out=tried.distance,
                judged_on=tried.judged_on,
            )

        return self._journal.once(name, make, Found.to_json, Found.model_validate)
