"""A search: losses and times measured, shapes chosen, trained, built and measured beside the
original.

    output/
      best/          the bundle that answers the wish
      models/NAME/   each model of the front as a build of its own: bundle, report, manifest
      search.html, search.json
      search/        what was measured and decided; a search that was stopped goes on from it

For every model: the best shape of each depth by predicted loss within the time (choice.py), the
best few trained briefly, the best of these by held-out text trained long. Its time is measured when
it is brief, and corrects the table of times before the long training. Larger models come first, so
that a smaller one goes on from what they have learned. Each has a share of the hours (hours.py).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.base.words import duration
from edgeprune.compress.recover.row import RECOVER
from edgeprune.pipeline.keep import MARK as STAGES
from edgeprune.pipeline.keep import locked
from edgeprune.pipeline.keys import code_digest, digest
from edgeprune.search.bundles import WHOLE, Bundles, Plan
from edgeprune.search.choice import Candidate
from edgeprune.search.choosing import Choosing
from edgeprune.search.engine import Engine
from edgeprune.search.goals import Goal, next_goal, planned
from edgeprune.search.hours import Hours, Share
from edgeprune.search.journal import Journal
from edgeprune.search.measured import measured_losses, measured_times
from edgeprune.search.prepare import MARK, Prepared
from edgeprune.search.record import Brief, Found, SearchRecord, shape_of
from edgeprune.search.shape import Shape
from edgeprune.search.speeds import Speeds
from edgeprune.search.trial import Length
from edgeprune.search.whole import Whole
from edgeprune.search.written import write


def search(
    prepared: Prepared, engine: Engine, clock: Callable[[], float] = time.monotonic
) -> SearchRecord:
    """Search until there are enough models or the hours are over; what was found is written after
    every model.

    Args:
        clock: by which the hours are counted, in seconds.

    Raises:
        UserError: another search is using the folder, or no shape keeps a limit.
    """
    folder = prepared.output / MARK
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        journal = Journal(folder / f"{_key(prepared)[:12]}.json", clock)
        table = measured_times(prepared)
        say("[search] the original in the formats of the plan")
        bundles = Bundles(prepared, engine, journal)
        whole = bundles.whole()
        hours = Hours(prepared.settings, journal, engine.together)
        hours.whole_took(journal.took(WHOLE))
        speeds = Speeds(table, whole.speedup.value, learns=prepared.settings.steps is None)
        going = Search(prepared, journal, bundles, speeds, hours, whole)
        going.write(finished=False)
        if hours.left <= 0:
            return going.write(finished=False, hours_over=True)
        say(f"[search] losses of levels; {duration(hours.left)} left")
        model = Whole(prepared)
        losses = measured_losses(prepared, model)
        return going.run(Choosing(prepared, journal, speeds, losses, model, whole))


def _key(prepared: Prepared) -> str:
    """The key of a search's decisions: all that they depend on. The hours are not in it, since a
    search goes on with more of them: the time of each model is a decision of its own."""
    code = code_digest([f"{__name__}:search"])
    settings = prepared.settings.model_dump_json(exclude={"hours"})
    return digest(prepared.common, prepared.wish, settings, code)


class Search:
    """The models of a search, made one after the other."""

    def __init__(
        self,
        prepared: Prepared,
        journal: Journal,
        bundles: Bundles,
        speeds: Speeds,
        hours: Hours,
        whole: Found,
    ) -> None:
        """whole: the original in the plan's formats, nothing cut."""
        self._prepared, self._journal, self._bundles = prepared, journal, bundles
        self._speeds, self._hours = speeds, hours
        self._models = [whole]
        self._trials: list[Brief] = []

    def run(self, choosing: Choosing) -> SearchRecord:
        """Make models until there are enough, or the hours are over."""
        wish, settings = self._prepared.wish, self._prepared.settings
        whole = self._models[0]
        while goal := next_goal(wish, settings, whole, choosing.fastest, self._models[1:]):
            found = self._make(goal, len(self._models), choosing)
            if found is None:
                return self.write(finished=False, hours_over=True)
            self._models.append(found)
            self.write(finished=False)
        return self.write(finished=True)

    def write(self, finished: bool, hours_over: bool = False) -> SearchRecord:
        """Write the models that there are; returns the record."""
        error, seconds = self._speeds.table.error, self._journal.seconds
        models, trials = self._models, self._trials
        return write(self._prepared, models, trials, error, seconds, finished, hours_over)

    def _make(self, goal: Goal, number: int, choosing: Choosing) -> Found | None:
        """A model for a goal: candidates trained briefly, the best of them long. None where the
        hours do not hold it."""
        wanted = "smallest loss" if goal.speedup is None else f"{goal.speedup:.3g}x"
        name = f"{number}-{wanted.replace(' ', '-')}"
        chosen = choosing.candidates(goal)
        if not chosen:
            raise UserError(choosing.impossible(goal))
        settings, hours, now = self._prepared.settings, self._hours, self._journal
        models = max(1, planned(self._prepared.wish, settings) - number + 1)
        most = min(settings.candidates, len(chosen)) if settings.brief else 1
        share = now.once_there(
            f"{name} share",
            lambda: hours.share(models, most),
            Share.to_json,
            Share.model_validate,
        )
        if share is None:
            return None
        of = (
            f"{duration(hours.left)} left, {duration(share.until - now.seconds)} of it for this one"
        )
        say(f"[search] model {number}: {wanted}; {'kept' if name in now else of}")
        until = math.inf if settings.steps else hours.switching_until(share)

        def enough() -> bool:
            return now.seconds >= until

        few = [choosing.switched(name, goal, c, enough) for c in chosen[: share.candidates]]
        given, part, briefly = share, 1.0, 0.0
        best = few[0]
        if len(few) > 1:
            part -= settings.brief
            each = now.once(f"{name} brief minutes", lambda: hours.brief_minutes(given))
            best = self._best_of(name, few, self._length(each, settings.brief / len(few)), chosen)
            best = choosing.again(name, goal, best, enough)
            self._mark(name, best)
            briefly = each * len(few)
        minutes = now.once_there(f"{name} minutes", lambda: hours.long_minutes(given, models))
        if minutes is None:
            return None
        plan = self._plan(name, best, self._length(minutes, part), self._start([best]))
        trained = plan.length.minutes or 0.0
        found = self._bundles.long(plan, goal.speedup, trained and trained + briefly)
        hours.long_took(now.took(name), trained)
        self._speeds.learn(best.shape, found.speedup.value)
        return found

    def _length(self, minutes: float, part: float) -> Length:
        """Minutes, or a part of the steps where training is counted so."""
        steps = self._prepared.settings.steps
        if steps is None:
            return Length(minutes)
        return Length(steps=max(1, round(part * steps)))

    def _plan(self, name: str, candidate: Candidate, length: Length, start: Path | None) -> Plan:
        predicted = self._speeds.predicted(candidate.shape)
        return Plan(name, candidate.shape, predicted, length, start)

    def _best_of(
        self, of: str, few: Sequence[Candidate], length: Length, chosen: Sequence[Candidate]
    ) -> Candidate:
        """The candidate that loses least after a brief training; the times of all are learned.

        Args:
            chosen: all that go on from the same larger model.
        """
        named = {f"{of}-{len(each.shape.layers)}-layers": each for each in few}
        start = self._start(chosen)
        plans = {name: self._plan(name, each, length, start) for name, each in named.items()}
        journal, entry = self._journal, f"{of} briefs"
        began = journal.seconds
        trials = self._bundles.brief(of, plans)
        took = journal.once(entry, lambda: journal.seconds - began)
        self._hours.briefs_took(took, len(few), length.minutes or 0.0)
        self._trials += trials
        for trial in trials:
            self._speeds.learn(named[trial.name].shape, trial.speedup)
        best = min(trials, key=lambda trial: trial.held_out)
        return replace(named[best.name], loss=best.held_out)

    def _mark(self, of: str, best: Candidate) -> None:
        """Mark the trial whose layers were chosen."""
        layers = list(best.shape.layers)
        self._trials = [
            trial.model_copy(update={"chosen": True})
            if trial.of == of and trial.shape["layers"] == layers
            else trial
            for trial in self._trials
        ]

    def _start(self, chosen: Sequence[Candidate]) -> Path | None:
        """The folder of the smallest model that was trained and holds all of these shapes."""
        for found in reversed(self._models):
            if found.shape is None:
                continue
            larger = shape_of(found.shape)
            if all(_holds(larger, each.shape) for each in chosen):
                stages = self._prepared.output / "models" / found.name / STAGES
                return next(iter(sorted(stages.glob(f"{RECOVER.name}-*"))), None)
        return None


def _holds(larger: Shape, smaller: Shape) -> bool:
    """Whether the smaller shape can be cut out of the larger one."""
    widths = dict(zip(larger.layers, zip(larger.heads, larger.channels, strict=True), strict=True))
    return all(
        layer in widths and widths[layer][0] >= heads and widths[layer][1] >= channels
        for layer, heads, channels in zip(
            smaller.layers, smaller.heads, smaller.channels, strict=True
        )
    )
