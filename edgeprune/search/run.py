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

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.base.words import duration
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS
from edgeprune.compress.recover.row import RECOVER
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.record import Comparison
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.pipeline.keep import MARK as STAGES
from edgeprune.pipeline.keep import locked
from edgeprune.pipeline.keys import code_digest, digest
from edgeprune.pipeline.recipe import Recipe
from edgeprune.search.choice import Budget, Candidate, Costs, candidates, levels_of
from edgeprune.search.engine import Engine
from edgeprune.search.goals import Goal, missed, next_goal
from edgeprune.search.journal import Journal
from edgeprune.search.losses import Losses, blocks_of
from edgeprune.search.measured import (
    Texts,
    measured_losses,
    measured_times,
    sizes_of,
    times_of,
    whole_model,
)
from edgeprune.search.page import write_page
from edgeprune.search.prepare import BEST, MARK, Prepared
from edgeprune.search.record import Brief, Found, SearchRecord, plain, shape_of
from edgeprune.search.shape import Shape
from edgeprune.search.stitched import Stitched
from edgeprune.search.switching import switched
from edgeprune.search.times.correct import corrected
from edgeprune.search.times.predict import predict
from edgeprune.search.trial import (
    Length,
    Trial,
    Tried,
    contents,
    hurried,
    recipe_of,
    try_out,
)
from edgeprune.targets.block_times import BlockTimes

_MARGIN = 1.03
"""A model is aimed at so much more than the speed asked for, so that its interval lies beyond."""
_OVERHEAD = 3.0
"""Minutes that a model takes beside its training: built, measured, and its candidates too."""
_BRIEF_SECONDS, _BRIEF_LAUNCHES = 8.0, 4
_MICROSECONDS = 1e-6


def search(prepared: Prepared, engine: Engine) -> SearchRecord:
    """Search until there are enough models; what was found is written after every one.

    Raises:
        UserError: another search is using the folder, or no shape keeps a limit.
    """
    folder = prepared.output / MARK
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        going = _Search(prepared, engine, Journal(folder / f"{_key(prepared)[:12]}.json"))
        return going.run()


def _key(prepared: Prepared) -> str:
    """The key of a search's decisions: all that they depend on."""
    code = code_digest([f"{__name__}:search"])
    return digest(prepared.common, prepared.wish, prepared.settings, code)


@dataclass
class _Search:
    prepared: Prepared
    engine: Engine
    journal: Journal

    def __post_init__(self) -> None:
        self.models: list[Found] = []
        self.trials: list[Brief] = []
        self.table: BlockTimes = measured_times(self.prepared)

    # What is measured once ----------------------------------------------------------------------

    @cached_property
    def losses(self) -> Losses:
        """Losses of levels and of sets of layers."""
        return measured_losses(self.prepared)

    @cached_property
    def _stitched(self) -> tuple[Stitched, Texts]:
        """Shapes as they stand before training, and text to measure them on."""
        with whole_model(self.prepared) as (model, texts):
            return Stitched(model, list(blocks_of(model, texts.statistics, "levels"))), texts

    @cached_property
    def whole(self) -> Found:
        """The original in the plan's formats, nothing cut."""
        recipe = recipe_of(self.prepared.base, None, Length(), None, brief=False)
        return self._found("whole", None, 0.0, None, 1.0, recipe)

    # The search ---------------------------------------------------------------------------------

    def run(self) -> SearchRecord:
        self._say("the original in the formats of the plan")
        self.models.append(self.whole)
        self._write(finished=False)
        self._say("losses of levels")
        assert self.losses.layers
        while goal := next_goal(
            self.prepared.wish,
            self.prepared.settings,
            self.whole,
            self._fastest(),
            self.models[1:],
        ):
            self.models.append(self._make(goal, len(self.models)))
            self._write(finished=False)
        return self._write(finished=True)

    def _say(self, what: str) -> None:
        left = 3600 * self.prepared.settings.hours - self.journal.seconds
        say(f"[search] {what}; about {duration(max(0.0, left))} left")

    def _make(self, goal: Goal, number: int) -> Found:
        """A model for a goal: candidates trained briefly, the best of them long."""
        wanted = "smallest loss" if goal.speedup is None else f"{goal.speedup:.3g}x"
        name = f"{number}-{wanted.replace(' ', '-')}"
        self._say(f"model {number}: {wanted}")
        minutes = self.journal.once(f"{name} minutes", lambda: self._minutes(number))
        chosen = self._candidates(goal)
        if not chosen:
            raise UserError(self._impossible(goal))
        start = self._start(chosen)
        settings = self.prepared.settings
        few = [self._switched(name, goal, each) for each in chosen[: settings.candidates]]
        share = settings.brief if len(few) > 1 else 0.0
        if share:
            few = self._tried(name, few, minutes, share / len(few), start)
            best = min(few, key=lambda each: each.loss)
            best = self._again(name, goal, best)
            self._mark(name, best)
        else:
            best = few[0]
        recipe = self._recipe(best, minutes, 1 - share, self._start([best]), brief=False)
        speed = self._speedup(best.seconds)
        found = self._found(name, best.shape, minutes, goal.speedup, speed, recipe)
        self._learn(best.shape, found.speedup.value)
        return found

    def _again(self, name: str, goal: Goal, best: Candidate) -> Candidate:
        """The candidate by the times as they are known now: as it was where it keeps them."""
        seconds, limit = self._times().of(best.shape), self._budget(goal).seconds
        if limit is None or seconds <= limit:
            return replace(best, seconds=seconds)
        chosen = [c for c in self._candidates(goal) if c.shape.layers == best.shape.layers]
        return self._switched(f"{name} again", goal, chosen[0]) if chosen else best

    def _switched(self, name: str, goal: Goal, candidate: Candidate) -> Candidate:
        """A candidate, or one near it that loses less as a whole, on the text that chose it and on
        text that did not."""
        prepared = self.prepared
        if not prepared.settings.switches:
            return candidate

        def make() -> Shape:
            depth = len(candidate.shape.layers)
            say(f"[search] shapes near the choice of {depth} layers")
            stitched, texts = self._stitched
            curves = {HEADS: self.losses.heads, CHANNELS: self.losses.channels}
            whole = stitched.references(texts.judged)
            found = switched(
                candidate.shape,
                lambda kind, layer: levels_of(curves[kind][layer]),
                self._times(),
                self._sizes(),
                self._budget(goal),
                functools.partial(stitched.loss, batches=texts.judged, whole=whole),
                prepared.settings.switches,
                np.random.default_rng(prepared.base.seed),
            )
            whole = stitched.references(texts.proof)
            before, after = (
                stitched.loss(shape, texts.proof, whole) for shape in (candidate.shape, found)
            )
            return found if after < before else candidate.shape

        key = f"{name}, {len(candidate.shape.layers)} layers, switched"
        shape = self.journal.once(key, make, plain, shape_of)
        seconds, size = self._times().of(shape), self._sizes().of(shape)
        return replace(candidate, shape=shape, seconds=seconds, bytes=size)

    def _recipe(
        self, candidate: Candidate, minutes: float, share: float, start: Path | None, brief: bool
    ) -> Recipe:
        """The recipe of a trial that gets a share of a model's training."""
        prepared = self.prepared
        steps = prepared.settings.steps
        return recipe_of(
            prepared.base,
            candidate.shape,
            Length(share * minutes)
            if steps is None
            else Length(steps=max(1, round(share * steps))),
            start,
            brief,
            prepared.group,
            prepared.checkpoint.anatomy.hidden_size,
        )

    def _trial(self, recipe: Recipe, folder: Path) -> Trial:
        answers = self.prepared.output / MARK / "answers"
        return Trial(contents(recipe), str(folder), str(answers.absolute()))

    def _mark(self, of: str, best: Candidate) -> None:
        """Mark the trial whose layers were chosen."""
        layers = list(best.shape.layers)
        self.trials = [
            trial.model_copy(update={"chosen": True})
            if trial.of == of and trial.shape["layers"] == layers
            else trial
            for trial in self.trials
        ]

    def _tried(
        self,
        of: str,
        few: Sequence[Candidate],
        minutes: float,
        share: float,
        start: Path | None,
    ) -> list[Candidate]:
        """Train candidates briefly, beside each other where the engine can; they come back with
        what they lost."""
        folders = {f"{of}-{len(each.shape.layers)}-layers": each for each in few}
        place = self.prepared.output / MARK / "trials"
        trials = {
            name: self._trial(self._recipe(each, minutes, share, start, brief=True), place / name)
            for name, each in folders.items()
            if name not in self.journal
        }
        results = dict(zip(trials, self.engine.run(list(trials.values())), strict=True))
        found = []
        for name, candidate in folders.items():
            brief = self.journal.once(
                name,
                functools.partial(self._brief, of, name, candidate, share * minutes, results),
                Brief.to_json,
                Brief.model_validate,
            )
            shutil.rmtree(place / name, ignore_errors=True)
            self.trials.append(brief)
            self._learn(candidate.shape, brief.speedup)
            found.append(replace(candidate, loss=brief.held_out))
        return found

    def _brief(
        self,
        of: str,
        name: str,
        candidate: Candidate,
        minutes: float,
        results: Mapping[str, Tried],
    ) -> Brief:
        speed = self._timed(self.prepared.output / MARK / "trials" / name)
        return Brief(
            name=name,
            of=of,
            shape=plain(candidate.shape),
            minutes=minutes,
            predicted=self._speedup(candidate.seconds),
            speedup=speed.measures[self.prepared.work].ratio.value,
            held_out=results[name].distance,
            chosen=False,
        )

    def _found(
        self,
        name: str,
        shape: Shape | None,
        minutes: float,
        asked: float | None,
        predicted: float,
        recipe: Recipe,
    ) -> Found:
        """A model of the front, built and measured."""
        folder = self.prepared.output / "models" / name

        def make() -> Found:
            trial = self._trial(recipe, folder)
            if not self.engine.alone:  # what is left to do here is to measure
                self.engine.run([self._trial(hurried(recipe), folder)])
            return self._figures(name, shape, minutes, asked, predicted, try_out(trial))

        return self.journal.once(name, make, Found.to_json, Found.model_validate)

    def _figures(
        self,
        name: str,
        shape: Shape | None,
        minutes: float,
        asked: float | None,
        predicted: float,
        tried: Tried,
    ) -> Found:
        timed, loss = tried.speed.measures[self.prepared.work], tried.loss
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
        )

    def _timed(self, folder: Path) -> Comparison:
        """A trial's bundle beside the original, briefly, and alone on this machine."""
        measure = self.prepared.base.measure
        return compare(
            folder / "bundle",
            folder / "original",
            BenchSettings(
                tokens=measure.tokens,
                batch=measure.batch,
                threads=measure.threads,
                time_limit=min(_BRIEF_SECONDS, measure.seconds),
                launches=min(_BRIEF_LAUNCHES, measure.launches),
            ),
        )

    # Times --------------------------------------------------------------------------------------

    def _speedup(self, seconds: float) -> float:
        """The predicted speedup of a shape of this predicted time."""
        return self.whole.speedup.value * self.table.whole * _MICROSECONDS / seconds

    def _learn(self, shape: Shape, speedup: float) -> None:
        """Correct the table by a model that was timed, as its time is beside the whole one's."""
        if self.prepared.settings.steps is not None:
            return
        seconds = self.table.whole * _MICROSECONDS * self.whole.speedup.value / speedup
        self.table = corrected(self.table, [(shape, seconds)])

    def _times(self) -> Costs:
        return times_of(self.table)

    def _sizes(self) -> Costs:
        return sizes_of(self.prepared, self.whole.megabytes * 1e6)

    def _budget(self, goal: Goal) -> Budget:
        if goal.speedup is None:
            return Budget(None, goal.bytes)
        whole = self.table.whole * _MICROSECONDS * self.whole.speedup.value
        return Budget(whole / (_MARGIN * goal.speedup), goal.bytes)

    def _candidates(self, goal: Goal) -> list[Candidate]:
        return candidates(self.losses, self._times(), self._sizes(), self._budget(goal))

    def _smallest(self) -> Shape:
        """The smallest shape that there is."""
        layers = min((each.kept for each in self.losses.layers), key=len)
        heads = self.losses.heads[0].step
        channels = min(level.count for level in self.table.channels)
        return Shape(layers, (heads,) * len(layers), (channels,) * len(layers))

    def _fastest(self) -> float:
        return self._speedup(predict(self.table, self._smallest()))

    def _impossible(self, goal: Goal) -> str:
        smallest = self._smallest()
        size = self._sizes().of(smallest) / 1e6
        return (
            f"No shape of this model is {goal.speedup:.3g}x as fast"
            if goal.speedup is not None
            else "No shape of this model is so small"
        ) + (
            f": the smallest, one layer deep, would be {self._fastest():.3g}x as fast, with "
            f"{size:.1f} MB. Ask for less, or take a smaller model."
        )

    # Training -----------------------------------------------------------------------------------

    def _minutes(self, number: int) -> float:
        """Minutes of training for the next model: an even share of the time that is left."""
        settings, wish = self.prepared.settings, self.prepared.wish
        planned = len(wish.speedup) or (1 if wish.latency or wish.megabytes or wish.memory else 0)
        planned = settings.points - 1 if wish.max_drop or not planned else planned
        left = 60 * settings.hours - self.journal.seconds / 60
        return max(0.0, left / max(1, planned - number + 1) - _OVERHEAD)

    def _start(self, chosen: Sequence[Candidate]) -> Path | None:
        """The folder of the smallest model that was trained and holds all of these shapes."""
        for found in reversed(self.models):
            if found.shape is None:
                continue
            larger = shape_of(found.shape)
            if all(_holds(larger, each.shape) for each in chosen):
                stages = self.prepared.output / "models" / found.name / STAGES
                return next(iter(sorted(stages.glob(f"{RECOVER.name}-*"))), None)
        return None

    # What is written ----------------------------------------------------------------------------

    def _write(self, finished: bool) -> SearchRecord:
        prepared = self.prepared
        best, verdict = self._best()
        record = SearchRecord(
            model=prepared.checkpoint.name,
            text=prepared.context.text.line,
            wish=prepared.wish.model_dump(mode="json"),
            settings=prepared.settings.model_dump(mode="json"),
            machine=machine_facts().to_json(),
            table_error=self.table.error,
            models=tuple(self.models),
            trials=tuple(self.trials),
            best=best,
            verdict=tuple(verdict),
            seconds=self.journal.seconds,
            finished=finished,
        )
        record.write(prepared.output / "search.json")
        write_page(record, prepared.output)
        if best is not None:
            _copy(prepared.output / "models" / best / "bundle", prepared.output / BEST)
        return record

    def _best(self) -> tuple[str | None, list[str]]:
        """The model that answers the wish, and sentences on what it misses."""
        wish = self.prepared.wish
        if not wish.of_one:
            return None, []
        keeping = [each for each in self.models if not missed(each, wish)]
        if keeping:
            if wish.max_drop is not None:
                best = max(keeping, key=lambda each: each.speedup.value)
            else:
                best = min(keeping, key=lambda each: each.loss)
            return best.name, []
        nearest = min(self.models, key=lambda each: len(missed(each, wish)))
        return nearest.name, missed(nearest, wish)


def _holds(larger: Shape, smaller: Shape) -> bool:
    """Whether the smaller shape can be cut out of the larger one."""
    widths = dict(zip(larger.layers, zip(larger.heads, larger.channels, strict=True), strict=True))
    return all(
        layer in widths and widths[layer][0] >= heads and widths[layer][1] >= channels
        for layer, heads, channels in zip(
            smaller.layers, smaller.heads, smaller.channels, strict=True
        )
    )


def _copy(bundle: Path, target: Path) -> None:
    """Put a bundle's copy in place, whole or not at all."""
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(bundle, aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
