"""The facts of a build before its work begins, by arithmetic on the model's shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from edgeprune.base.errors import UserError
from edgeprune.model.anatomy import Anatomy
from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.units import channels
from edgeprune.targets import Target
from edgeprune.text.text import Text

UNITS = {"channels": "feed-forward channels", "heads": "attention heads"}
"""Units that can leave the shapes, by their pattern's name, and what they are called."""


@dataclass(frozen=True)
class Removed:
    """Units of one kind that are gone; `total` is 0 where it was not recorded."""

    noun: str
    gone: int
    total: int
    word: str = "cut"
    """The verb of their removal: they were cut, leaving the shapes, or pruned, leaving zeros."""

    def __str__(self) -> str:
        share = f"{100 * self.gone / self.total:.3g} %" if self.total else "some"
        return f"{share} of the {self.noun}"


@dataclass(frozen=True)
class Facts:
    """A model as the stages so far leave it, and what the build was asked for.

    `anatomy` has the shapes, spread evenly and with the first layers kept: which units really
    leave, only the text can tell. `units` are those that can still leave, by pattern and layer.
    """

    checkpoint: Checkpoint
    text: Text
    target: Target
    settings: Mapping[str, Any]
    """The settings of the stages that run, by the stage's name."""
    anatomy: Anatomy
    units: Mapping[str, Sequence[int]]
    plan: Any = None
    """The Plan of the weights' formats (compress/quantize/plan.py); None while all are float32."""
    emptied: tuple[Removed, ...] = ()
    """Weights that become zero and stay in the shapes."""
    smaller: tuple[str, ...] = ()
    """Other things that make the model smaller, by how much only the build can tell."""

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, text: Text, target: Target, settings: Mapping[str, Any]
    ) -> Self:
        """The facts before the first stage."""
        anatomy = checkpoint.anatomy
        units = {
            "channels": channels(anatomy),
            "heads": anatomy.head_units,
        }
        return cls(checkpoint, text, target, settings, anatomy, units)

    @property
    def gated(self) -> bool:
        """Whether the prune stage empties channels or heads, which leave with the cut."""
        return bool(getattr(self.settings.get("prune"), "gated", False))

    def and_smaller(self, by: str) -> Self:
        """The same, and smaller by something that cannot be counted yet."""
        return replace(self, smaller=(*self.smaller, by))

    def refuse_mixture(self, stage: str, setting: str = "") -> None:
        """Refuse a mixture of experts in a stage that knows one feed-forward a layer.

        Args:
            setting: under which alone the stage does.

        Raises:
            UserError: the model is one.
        """
        if any(block.experts for block in self.checkpoint.anatomy.blocks):
            which = f"{setting} of the {stage} stage" if setting else f"the {stage} stage"
            raise UserError(
                f"{self.checkpoint.name} is made of mixtures of experts, which {which} does not "
                "take; leave it out and use cut.experts, cut.channels or cut.layers."
            )

    def refuse_convolutions(self, stage: str, setting: str = "") -> None:
        """Refuse a model with short convolutions in a stage that knows layers that attend alone.

        Args:
            setting: under which alone the stage does.

        Raises:
            UserError: the model has some.
        """
        if not self.checkpoint.anatomy.attends:
            which = f"{setting} of the {stage} stage" if setting else f"the {stage} stage"
            raise UserError(
                f"{self.checkpoint.name} has layers of short convolutions, which {which} does not "
                "take; leave it out: such a model is quantized, exported and run."
            )

    def refuse_repeats(self, stage: str, setting: str = "") -> None:
        """Refuse a model whose layers run again and again with the same weights in a stage that
        goes from layer to layer.

        Args:
            setting: under which alone the stage does.

        Raises:
            UserError: the model is one.
        """
        if (times := self.checkpoint.anatomy.repeats) > 1:
            which = f"{setting} of the {stage} stage" if setting else f"the {stage} stage"
            raise UserError(
                f"The layers of {self.checkpoint.name} run {times} times with the same weights, "
                f"and {which} goes from one layer to the next: leave it out; channels and heads "
                "are cut, and weights rounded to nearest."
            )

    def refuse_whole_groups(self) -> None:
        """Refuse to take heads from a model none of whose heads can leave.

        Raises:
            UserError: every query head has a key-value head of its own that has to stay, or all
                are normed together.
        """
        anatomy = self.checkpoint.anatomy
        if anatomy.heads_stay:
            raise UserError(
                "This decoder norms the queries of all its heads together, and without one of them "
                "the others would be other numbers, so its heads cannot be cut: cut channels "
                "instead."
            )
        if anatomy.shared_key_value_heads and all(count == 1 for count in anatomy.head_units):
            raise UserError(
                "This decoder has multi-head attention: every query head has its own key-value "
                "head, and those stay, so its heads cannot be cut: cut channels instead."
            )
