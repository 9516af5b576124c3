"""The settings of shaping: the layers, heads and channels that are left. No torch here."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from edgeprune.base.errors import UserError
from edgeprune.base.words import many
from edgeprune.compress.distil.settings import DistilSettings

Kept = tuple[Annotated[int, Field(ge=1)], ...]


class ShapeSettings(DistilSettings):
    """Removal of layers, heads and channels down to a given shape, in rounds of cutting by scores
    and of training what is left.

    Training is for the rounds but the last, an equal share each: after the last, recovery trains.
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="The layers that are kept, by the original's numbers from 0; empty: all."
    )
    heads: Kept = Field(
        (),
        description="Attention heads that each kept layer keeps, or query heads of each key-value "
        "head in decoders; empty: all.",
    )
    channels: Kept = Field(
        (), description="Feed-forward channels that each kept layer keeps; empty: all."
    )
    start: str | None = Field(
        None,
        min_length=1,
        description="A folder with a smaller model of the same original, as an earlier build's "
        "stages/recover-... is, to cut further from there; layers keep their numbers.",
    )
    rounds: int = Field(
        4,
        ge=1,
        description="Cuts by which heads and channels leave, more of them by the first ones than "
        "by the last, each by scores (Fisher information) taken anew.",
    )
    samples: int = Field(
        512, ge=1, description="Sequences of text on which each round's scores are taken."
    )
    steps: int = Field(300, ge=1, description="Optimizer steps between the cuts, in all.")
    checks: int = Field(
        1,
        ge=1,
        description="How often the held-out loss is measured after each cut; the best weights are "
        "kept.",
    )

    @model_validator(mode="after")
    def _something_is_given(self) -> Self:
        if not (self.layers or self.heads or self.channels):
            raise ValueError("shape needs layers, heads or channels to keep")
        return self

    @model_validator(mode="after")
    def _layers_are_in_order(self) -> Self:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers are named once each, in their order")
        return self

    @model_validator(mode="after")
    def _every_training_has_a_step(self) -> Self:
        if self.steps < self.rounds - 1:
            raise ValueError(
                f"steps is {self.steps}, and there are {self.rounds - 1} trainings between the "
                "cuts: raise it, or lower rounds"
            )
        return self

    def kept_layers(self, there: Sequence[int]) -> list[int]:
        """The positions among the layers that are `there`, by the original's numbers, of those that
        are kept.

        Raises:
            UserError: one is not there.
        """
        if missing := [layer for layer in self.layers if layer not in there]:
            raise UserError(
                f"shape.layers names layer {missing[0]}, and the model has the layers "
                f"{', '.join(map(str, there))}."
            )
        return [there.index(layer) for layer in self.layers or there]

    def goal(self, kind: str, there: Sequence[int]) -> list[int]:
        """Units of a kind that each kept layer keeps.

        Args:
            kind: heads or channels.
            there: units that each of these layers has.

        Raises:
            UserError: a layer has fewer, or there are more or fewer layers.
        """
        asked: Kept = getattr(self, kind)
        if not asked:
            return list(there)
        if len(asked) != len(there):
            raise UserError(
                f"shape.{kind} names {many(len(asked), 'number')}, and {len(there)} layers are "
                "kept: give one for each."
            )
        for place, (wanted, has) in enumerate(zip(asked, there, strict=True)):
            if wanted > has:
                raise UserError(
                    f"shape.{kind} keeps {wanted} in the kept layer {place}, which has {has}: ask "
                    "for no more than there are."
                )
        return list(asked)
