"""The settings of cutting: what leaves the shapes, beyond what pruning has emptied."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CutSettings(BaseModel):
    """Removal of feed-forward channels and attention heads from the shapes.

    What the prune stage emptied always leaves. `channels` and `heads` remove more, in one shot, by
    a score that is taken on the text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: float = Field(
        0.0, ge=0, lt=1, description="Share of feed-forward channels to remove in one shot."
    )
    heads: float = Field(
        0.0, ge=0, lt=1, description="Share of attention heads to remove in one shot."
    )
    score: Literal["fisher", "taylor", "flap", "pp", "magnitude"] = Field(
        "fisher",
        description="How units are ranked: Fisher information of a gate, first-order effect, "
        "fluctuation (FLAP), Probe Pruning's activation energy, or weight magnitude.",
    )
    policy: Literal["auto", "global", "uniform", "coverage"] = Field(
        "auto",
        description="Where the budget falls: one threshold over all layers, the same share of "
        "each layer, or the same share of each layer's score; auto is global for fisher and "
        "taylor, whose scales agree between layers, and uniform for the others.",
    )
    samples: int = Field(1024, ge=1, description="Sequences of text on which the scores are taken.")
    compensate: bool = Field(
        False,
        description="Whether the channels that `channels` leaves make up for those that go: each "
        "down projection is refitted to the text's outputs by least squares.",
    )
    damping: float = Field(
        0.01,
        gt=0,
        description="Share of the channels' mean square that is added to each in compensation: "
        "how little it trusts the text.",
    )
    minimum_heads: int = Field(1, ge=1, description="Heads (or groups) that every layer keeps.")
    minimum_channels: int = Field(1, ge=1, description="Channels that every layer keeps.")

    @model_validator(mode="after")
    def _compensation_has_channels(self) -> Self:
        if self.compensate and not self.channels:
            raise ValueError("compensate is for channels that the cut removes: give `channels` too")
        return self

    @property
    def resolved_policy(self) -> Literal["global", "uniform", "coverage"]:
        """The policy that auto stands for."""
        if self.policy != "auto":
            return self.policy
        return "global" if self.score in ("fisher", "taylor") else "uniform"
