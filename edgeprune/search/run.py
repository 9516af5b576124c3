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
that a smaller one goes on from what they have learned.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.base.words import duration
from edgeprune.compress.recover.row import RECOVER
from edgeprune.pipeline.keep import MARK as STAGES
from edgeprune.pipeline.keep import locked
from edgeprune.pipeline.keys import code_digest, digest
from edgeprune.search.bundles import Bundles, Plan
from edgeprune.search.choice import Candidate
from edgeprune.search.choosing import Choosing
from edgeprune.search.engine import Engine
from edgeprune.search.goals import Goal, next_goal
from edgeprune.search.journal import Journal
from edgeprune.search.measured import measured_losses, measured_times
from edgeprune.search.prepare import MARK, Prepared
from edgeprune.search.record import Brief, Found, SearchRecord, shape_of
from edgeprune.search.shape import Shape
from edgeprune.search.speeds import Speeds
from edgeprune.search.whole import Whole
from edgeprune.search.written import write

_OVERHEAD = 3.0
"""Minutes that a model takes beside its training: built, measured, and its candidates too."""


def search(prepared: Prepared, engine: Engine) -> SearchRecord:
    """Search until there are enough models; what was found is written after every one.

    Raises:
        UserError: another search is using the folder, or no shape keeps a limit.
    """
    folder = prepared.output / MARK
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        journal = Journal(folder / f"{_key(prepared)[:12]}.json")
        return _Search(prepared, engine, journal).run()


def _key(prepared: Prepared) -> str:
    """The key of a search's decisions: all that they depend on."""
    code = code_digest([f"{__name__}:search"])
    return digest(prepared.common, prepared.wish, prepared.settings, code)


class _Search:
    def __init__(self, prepared: Prepared, engine: Engine, journal: Journal) -> None:
        self._prepared, self._journal = prepared, journal
        self._bundles = Bundles(prepared, engine, journal)
        self._models: list[Found] = []
        self._trials: list[Brief] = []
        table = measured_times(prepared)
        self._say("the original in the formats of the plan")
        self._whole = self._bundles.whole()
        learns = prepared.settings.steps is None
        self._speeds = Speeds(table, self._whole.speedup.value, learns)

    def run(self) -> SearchRecord:
        prepared, whole = self._prepared, self._whole
        self._models.append(whole)
        self._write(finished=False)
        self._say("losses of levels")
        model = Whole(prepared)
        losses = measured_losses(prepared, model)
        choosing = Choosing(prepared, self._journal, self._speeds, losses, model, whole)
        while goal := next_goal(
            prepared.wish, prepared.settings, whole, choosing.fastest, self._models[1:]
        ):
            self._models.append(self._make(goal, len(self._models), choosing))
            self._write(finished=False)
        return self._write(finished=True)

    def _say(self, what: str) -> None:
        left = 3600 * self._prepared.settings.hours - self._journal.seconds
        say(f"[search] {what}; about {duration(max(0.0, left))} left")

    def _make(self, goal: Goal, number: int, choosing: Choosing) -> Found:
        """A model for a goal: candidates trained briefly, the best of them long."""
        wanted = "smallest loss" if goal.speedup is None else f"{goal.speedup:.3g}x"
        name = f"{number}-{wanted.replace(' ', '-')}"
        self._say(f"model {number}: {wanted}")
        minutes = self._journal.once(f"{name} minutes", lambda: self._minutes(number))
        chosen = choosing.candidates(goal)
        if not chosen:
            raise UserError(choosing.impossible(goal))
        start = self._start(chosen)
        settings = self._prepared.settings
        few = [choosing.switched(name, goal, each) for each in chosen[: settings.candidates]]
        share = settings.brief if len(few) > 1 else 0.0
        if share:
            best = self._best_of(name, few, minutes, share / len(few), start)
            best = choosing.again(name, goal, best)
            self._mark(name, best)
        else:
            best = few[0]
        plan = self._plan(name, best, minutes, 1 - share, self._start([best]))
        found = self._bundles.long(plan, goal.speedup, minutes)
        self._speeds.learn(best.shape, found.speedup.value)
        return found

    def _plan(
        self, name: str, candidate: Candidate, minutes: float, share: float, start: Path | None
    ) -> Plan:
        """A model that gets a share of a training."""
        steps = self._prepared.settings.steps
        return Plan(
            name,
            candidate.shape,
            self._speeds.predicted(candidate.shape),
            share * minutes,
            None if steps is None else max(1, round(share * steps)),
            start,
        )

    def _best_of(
        self,
        of: str,
        few: Sequence[Candidate],
        minutes: float,
        share: float,
        start: Path | None,
    ) -> Candidate:
        """The candidate that loses least after a brief training; the times of all are learned."""
        named = {f"{of}-{len(each.shape.layers)}-layers": each for each in few}
        plans = {
            name: self._plan(name, each, minutes, share, start) for name, each in named.items()
        }
        trials = self._bundles.brief(of, plans)
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

    def _minutes(self, number: int) -> float:
        """Minutes of training for the next model: an even share of the time that is left."""
        settings, wish = self._prepared.settings, self._prepared.wish
        planned = len(wish.speedup) or (1 if wish.latency or wish.megabytes or wish.memory else 0)
        planned = settings.points - 1 if wish.max_drop or not planned else planned
        left = 60 * settings.hours - self._journal.seconds / 60
        return max(0.0, left / max(1, planned - number + 1) - _OVERHEAD)

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

    def _write(self, finished: bool) -> SearchRecord:
        error, seconds = self._speeds.table.error, self._journal.seconds
        return write(self._prepared, self._models, self._trials, error, seconds, finished)


def _holds(larger: Shape, smaller: Shape) -> bool:
    """Whether the smaller shape can be cut out of the larger one."""
    widths = dict(zip(larger.layers, zip(larger.heads, larger.channels, strict=True), strict=True))
    return all(
        layer in widths and widths[layer][0] >= heads and widths[layer][1] >= channels
        for layer, heads, channels in zip(
            smaller.layers, smaller.heads, smaller.channels, strict=True
        )
    )
