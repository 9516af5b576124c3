"""One trial of a search: a shape, trained for a while, as a bundle with its figures.

A trial is a build (edgeprune/pipeline) whose recipe holds the shape, so that it resumes like one,
and is a pure function of the model, the shape, the seed and the text. What it measures of speed is
not taken: a trial may run beside others, or on another machine; bundles are timed alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.record import Many, Record
from edgeprune.measure.bench.record import Comparison
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import Loss, loss_of
from edgeprune.pipeline.build import Build, prepare
from edgeprune.pipeline.recipe import SECTIONS, Recipe, validate
from edgeprune.pipeline.run import run
from edgeprune.search.shape import Shape

_LEFT_OUT = ("prune", "sparsify", "cut")
"""Stages of the recipe whose work the shape does."""
_BETWEEN = 1 / 6
"""Share of the training that comes between the cuts."""
_ROUNDS = 4
"""Cuts, with training between them."""
_LEAST_MINUTES = 0.01
_RATE, _WIDTH = 8e-4, 384
"""The largest learning rate at a width of hidden states; a wider model's is smaller in
proportion."""
_AGAIN = 0.375
"""The share of that rate with which a trained model is trained further: at the whole rate it first
loses what it had learned."""


@dataclass(frozen=True)
class Length:
    """The length of a training: minutes, or steps."""

    minutes: float | None = None
    steps: int | None = None

    def part(self, share: float) -> dict[str, float | int]:
        """A share of it as settings of a training."""
        if self.steps is not None:
            return {"steps": max(_ROUNDS - 1, round(share * self.steps))}
        return {"minutes": max(_LEAST_MINUTES, share * (self.minutes or 0.0))}


@dataclass(frozen=True)
class Trial:
    """A shape to train and build. Everything is plain, so that it can go to another machine.

    recipe: the whole recipe as JSON values; see `recipe_of`. folder: of the build's output.
    answers: the folder of the original's answers, which trials share.
    """

    recipe: Mapping[str, Any]
    folder: str
    answers: str


class Tried(Record):
    """The quality of a trial's bundle, beside the original."""

    evaluations: Many[Evaluation]
    """On held-out text, then on the data by which models are judged, where there is any."""
    speed: Comparison
    """As it was measured in the build: of a trial that ran beside others no more than a hint."""

    @property
    def loss(self) -> Loss:
        """The loss by the main measure of the last data: less is better."""
        return _loss(self.evaluations[-1])

    @property
    def judged_on(self) -> tuple[str, int] | None:
        """The rows of the last data: their name, and how many there are."""
        return next(iter(self.evaluations[-1].conditions.items()), None)

    @property
    def distance(self) -> float:
        """The loss on held-out text, of which there is more: it tells candidates apart."""
        return _loss(self.evaluations[0]).value


def _loss(quality: Evaluation) -> Loss:
    """The loss by an evaluation; by one that compares two models itself, how far its main value is
    from that of equal models."""
    if quality.difference:
        return loss_of(quality)
    name, value = next(iter(quality.values.items()))
    equal = MEASURES[quality.task].equal
    ends = (quality.interval or {}).get(name)
    low, high = sorted(abs(equal - end) for end in ends) if ends else (None, None)
    between = None if low is None or high is None else (low, high)
    return Loss(f"{name.replace('_', ' ')}, beside {equal:g}", abs(equal - value), between)


def recipe_of(
    base: Recipe,
    shape: Shape | None,
    length: Length,
    start: Path | None,
    brief: bool,
    group: int = 1,
    width: int = 384,
) -> Recipe:
    """The recipe of a trial. What the base says of training holds; what it leaves out is set for
    training by time against the original's kept answers.

    Args:
        base: whose text, quantization, losses of training and target are taken.
        shape: None is the original's: it is quantized alone.
        length: of training.
        start: the folder of a torch model that is already smaller, from which it goes on.
        brief: the bundle is one of several to choose from, and measured as little as can be.
        group: query heads that leave together.
        width: of the model's hidden states.
    """
    content = contents(base)
    if shape is None:
        content.pop("recover", None)
    else:
        rate = _RATE * _WIDTH / width * (_AGAIN if start else 1.0)
        training = {"hidden_weight": 0.0, "learning_rate": rate, **content.get("recover", {})}
        content["recover"] = {**training, **length.part(1 - _BETWEEN)}
        training.pop("checks", None)
        content["shape"] = {
            **training,
            "layers": list(shape.layers),
            "heads": [heads // group for heads in shape.heads],
            "channels": list(shape.channels),
            **length.part(_BETWEEN),
            "rounds": _ROUNDS,
            **({"start": str(start)} if start else {}),
        }
    content.setdefault("quantize", {})
    recipe = validate(content, "the search's recipe")
    return hurried(recipe) if brief else recipe


def hurried(recipe: Recipe) -> Recipe:
    """The recipe with one graph and as little measuring as can be: held-out text tells candidates
    apart."""
    content = contents(recipe)
    content.pop("variants", None)
    measure = {"seconds": 1.0, "launches": 1, "profile": False, "curve": [], "stages": False}
    measure |= {"task": None, "data": None}
    content["measure"] = {**content.get("measure", {}), **measure}
    return validate(content, "the search's recipe")


def contents(recipe: Recipe) -> dict[str, Any]:
    """The settings that a recipe gives, as JSON values, without the stages that it leaves out and
    those that a shape takes the place of."""
    given = recipe.model_dump(mode="json", exclude_unset=True)
    return {
        name: value
        for name, value in given.items()
        if name not in _LEFT_OUT and not (name in SECTIONS and value is None)
    }


def try_out(trial: Trial) -> Tried:
    """Build a trial's bundle, or take what an interrupted one left."""
    build = prepared(trial)
    run(build)
    measured = build.context.results["measure"]
    assert isinstance(measured, Measured)
    return Tried(evaluations=measured.quality, speed=measured.speed)


def prepared(trial: Trial) -> Build:
    """The build of a trial.

    Raises:
        UserError: the model, the text or the folder cannot be used.
    """
    shared = {"answers": trial.answers}
    content = {
        name: {**value, **shared} if name in ("shape", "recover") else value
        for name, value in trial.recipe.items()
    }
    recipe = validate(content, "the search's recipe")
    return prepare(recipe, None, (), Path(trial.folder))
