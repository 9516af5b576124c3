"""The settings of cutting: what leaves the shapes, beyond what pruning has emptied."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgeprune.base.settings import Settings, renamed
from edgeprune.compress.levels.settings import Evolution

_KEPT_ENDS = {"taylor": (4, 2), "search": (1, 0)}
"""Layers at the start and end that stay by default: Taylor+'s rule; and what reads embeddings."""
_LAYER_SAMPLES = {"linearity": 256}
"""Sequences that score layers by default, where that is not 32: a linear map has many entries."""
COMPARABLE = ("fisher", "taylor")
"""Scores of units that have one scale over all layers."""


class CutSettings(Settings):
    """Removal of layers, experts, feed-forward channels and attention heads from the shapes.

    What the prune stage emptied always leaves. `layers`, then `experts`, then `channels` and
    `heads` of what is left remove more, in one shot, by scores that are taken on the text.
    """

    layers: float = Field(
        0, ge=0, description="Whole layers to remove: how many, or below 1 their share."
    )
    layer_score: Literal["loss", "taylor", "linearity", "search"] = Field(
        "loss",
        description="How layers are chosen: by what the text loses when one alone is left out, by "
        "first-order effect, by how far they are from a linear map, or all together by a search "
        "for those whose absence moves the outputs least (EvoPress).",
    )
    layer_samples: int | None = Field(
        None,
        ge=1,
        description="Sequences of text on which layers are scored; loss runs them a layer, search "
        "draws from them. None: 256 by linearity, else 32.",
    )
    layer_search: Evolution = Field(
        Evolution(), description="How layer_score: search spends its budget of evaluations."
    )
    keep_first: int | None = Field(
        None,
        ge=0,
        description="Layers at the start that stay; none: 4 by taylor (Taylor+), 1 by search, "
        "else 0. Where the first layer alone has no norm, it always stays.",
    )
    keep_last: int | None = Field(
        None, ge=0, description="Layers at the end that stay; none: 2 by taylor (Taylor+), else 0."
    )
    experts: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of every layer's experts to remove, by how far they turn what they read "
        "(TENP).",
    )
    channels: float = Field(
        0.0, ge=0, lt=1, description="Share of feed-forward channels to remove in one shot."
    )
    heads: float = Field(
        0.0, ge=0, lt=1, description="Share of attention heads to remove in one shot."
    )
    score: Annotated[
        Literal["fisher", "taylor", "flap", "probe_pruning", "magnitude"],
        renamed({"pp": "probe_pruning"}),
    ] = Field(
        "fisher",
        description="How units are ranked: Fisher information of a gate, first-order effect, "
        "fluctuation (FLAP: a unit's mean takes its place, in the bias of the linear that reads "
        "it; where that has none, zero does), Probe Pruning's activation energy, or weight "
        "magnitude.",
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

    @model_validator(mode="after")
    def _one_threshold_has_one_scale(self) -> Self:
        if self.policy == "global" and self.score not in COMPARABLE:
            raise ValueError(
                f"{self.score} scores differ in scale from layer to layer, so one threshold over "
                f"all is arbitrary: leave policy out, or score by {' or '.join(COMPARABLE)}"
            )
        return self

    @field_validator("layers")
    @classmethod
    def _layers_are_whole(cls, layers: float) -> float:
        if layers >= 1 and layers != int(layers):
            raise ValueError("layers is a whole number, or a share below 1")
        return layers

    def layers_to_drop(self, total: int) -> int:
        """Number of `total` layers that go: the setting itself, or round(share * total)."""
        return int(self.layers) if self.layers >= 1 else round(self.layers * total)

    @property
    def sequences_for_layers(self) -> int:
        """The sequences that `layer_samples` stands for."""
        return self.layer_samples or _LAYER_SAMPLES.get(self.layer_score, 32)

    def kept_ends(self, first_stays: bool = False) -> tuple[int, int]:
        """Layers at the start and at the end that stay; the first whatever the settings say, where
        a model cannot do without."""
        first, last = _KEPT_ENDS.get(self.layer_score, (0, 0))
        first = first if self.keep_first is None else self.keep_first
        return (
            max(first, int(first_stays)),
            last if self.keep_last is None else self.keep_last,
        )

    @property
    def resolved_policy(self) -> Literal["global", "uniform", "coverage"]:
        """The policy that auto stands for."""
        if self.policy != "auto":
            return self.policy
        return "global" if self.score in COMPARABLE else "uniform"
