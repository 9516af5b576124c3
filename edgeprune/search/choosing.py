"""The shapes for a goal: by sums of losses within the limits, then by the loss of whole shapes."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgeprune.base.progress import say
from edgeprune.search.choice import Candidate, candidates, levels_of
from edgeprune.search.costs import Budget, Costs, sizes_of
from edgeprune.search.goals import FASTEST, Goal
from edgeprune.search.journal import Journal
from edgeprune.search.losses import Losses
from edgeprune.search.prepare import Prepared
from edgeprune.search.record import Found, plain, shape_of
from edgeprune.search.shape import Shape
from edgeprune.search.speeds import Speeds
from edgeprune.search.switching import switched
from edgeprune.search.whole import Whole

MARGIN = 1.03
"""A model is aimed at so much more than the speed asked for, so that its interval lies beyond."""


class Choosing:
    """The choice of shapes, by losses, times and sizes as they are known."""

    def __init__(
        self,
        prepared: Prepared,
        journal: Journal,
        speeds: Speeds,
        losses: Losses,
        model: Whole,
        whole: Found,
    ) -> None:
        """whole: the original in the plan's formats, nothing cut."""
        self._prepared, self._journal = prepared, journal
        self._speeds, self._losses, self._model = speeds, losses, model
        self._sizes: Costs = sizes_of(prepared, whole.megabytes * 1e6)
        limited, memory = prepared.wish.memory is not None, whole.memory_megabytes
        self._beside = memory - whole.megabytes if limited and memory is not None else None

    def budget(self, goal: Goal) -> Budget:
        """The most that a shape for a goal may cost."""
        if goal.speedup is None:
            return Budget(None, goal.bytes)
        return Budget(self._speeds.original / (MARGIN * goal.speedup), goal.bytes)

    def candidates(self, goal: Goal) -> list[Candidate]:
        """The best shape of every depth by the sums of losses, the least loss first."""
        return candidates(self._losses, self._speeds.times, self._sizes, self.budget(goal))

    def again(
        self, name: str, goal: Goal, best: Candidate, enough: Callable[[], bool]
    ) -> Candidate:
        """A candidate by the times as they are known now: as it was where it keeps them."""
        seconds, limit = self._speeds.times.of(best.shape), self.budget(goal).seconds
        if limit is None or seconds <= limit:
            return replace(best, seconds=seconds)
        chosen = [c for c in self.candidates(goal) if c.shape.layers == best.shape.layers]
        return self.switched(f"{name} again", goal, chosen[0], enough) if chosen else best

    def switched(
        self, name: str, goal: Goal, candidate: Candidate, enough: Callable[[], bool]
    ) -> Candidate:
        """A candidate, or one near it that loses less as a whole, on the text that chose it and on
        text that did not.

        Args:
            name: of the model that it is for.
            enough: whether the time for that is over.
        """
        if not self._prepared.settings.switches:
            return candidate
        depth = len(candidate.shape.layers)
        make = functools.partial(self._nearby, goal, candidate.shape, enough)
        shape = self._journal.once(f"{name}, {depth} layers, switched", make, plain, shape_of)
        seconds, size = self._speeds.times.of(shape), self._sizes.of(shape)
        return replace(candidate, shape=shape, seconds=seconds, bytes=size)

    def _nearby(self, goal: Goal, shape: Shape, enough: Callable[[], bool]) -> Shape:
        say(f"[search] shapes near the choice of {len(shape.layers)} layers")
        stitched, texts = self._model.stitched, self._model.texts
        whole = stitched.references(texts.judged)
        found = switched(
            shape,
            self._levels,
            self._speeds.times,
            self._sizes,
            self.budget(goal),
            functools.partial(stitched.loss, batches=texts.judged, whole=whole),
            self._prepared.settings.switches,
            np.random.default_rng(self._prepared.base.seed),
            enough,
        )
        whole = stitched.references(texts.proof)
        before, after = (stitched.loss(each, texts.proof, whole) for each in (shape, found))
        return found if after < before else shape

    def _levels(self, kind: str, layer: int) -> Sequence[int]:
        return levels_of(self._losses.curve(kind, layer))

    @property
    def smallest(self) -> Shape:
        """The smallest shape that there is."""
        layers = min((each.kept for each in self._losses.layers), key=len)
        heads = self._losses.heads[0].step
        channels = min(level.count for level in self._speeds.table.channels)
        return Shape(layers, (heads,) * len(layers), (channels,) * len(layers))

    @property
    def fastest(self) -> float:
        """The predicted speedup of the smallest shape."""
        return self._speeds.predicted(self.smallest)

    def impossible(self, goal: Goal) -> str:
        """A sentence on a goal that no shape reaches, with the nearest that there is."""
        limits, smallest = self.budget(goal), self.smallest
        size, fastest = self._sizes.of(smallest), f"{self.fastest:.3g}x"
        slow = limits.seconds is not None and self._speeds.times.of(smallest) > limits.seconds
        large = limits.bytes is not None and size > limits.bytes
        faster, smaller = f"{goal.speedup or 0:,.4g}x as fast", "so small"
        if limits.bytes is not None:
            smaller += f" that its graph has {max(0.0, limits.bytes / 1e6):,.4g} MB"
        asked = {faster: slow or not large, smaller: large}
        beside = ""
        if large and self._beside is not None:
            beside = f" A process takes about {self._beside:,.0f} MB of memory beside the graph."
        if large and self._prepared.may_trim:
            beside += (
                f" {self._sizes.rest / 1e6:.3g} MB of it are no layer's, most of them rows of the "
                "vocabulary: --set vocabulary.min_count=1 drops those that your text does not use."
            )
        return (
            f"No shape of this model is {' and '.join(name for name in asked if asked[name])}: the "
            f"smallest (layers 1, heads {smallest.heads[0]}, channels {smallest.channels[0]}) is "
            f"{fastest} as fast with {size / 1e6:.3g} MB, and loses nearly everything; a front "
            f"ends at {FASTEST * self.fastest:.3g}x.{beside} Ask for less, or take a smaller model."
        )
