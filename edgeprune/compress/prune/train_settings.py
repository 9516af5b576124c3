"""The settings of the prune stage: dynamic pruning and the training that it happens in."""

from typing import Literal

from pydantic import Field

from edgeprune.base.words import listed
from edgeprune.compress.distil.settings import TrainSettings
from edgeprune.compress.prune.criteria import CRITERIA
from edgeprune.compress.prune.settings import PruneSettings


class PruneStageSettings(PruneSettings, TrainSettings):
    """Dynamic momentum-variance pruning while distilling from the original."""

    method: Literal["momentum-variance"] = Field(
        "momentum-variance",
        description="How weights are chosen: momentum-variance trains while it prunes; "
        f"{listed(list(CRITERIA))} prune in one shot, layer after layer, on a little text; nap "
        "by one ranking over all layers; search looks for each layer's share.",
    )
    steps: int = Field(300, ge=2, description="Optimizer steps while pruning.")
    probe: float = Field(
        1.0,
        ge=0,
        description="Weight of the Fisher probe in the gradients by which units are judged, "
        "without which a student that equals its original has none; it trains no weight. 0 leaves "
        "it out.",
    )

    def training(self) -> TrainSettings:
        """The part of the settings that the training loop reads."""
        return TrainSettings(**{name: getattr(self, name) for name in TrainSettings.model_fields})

    @property
    def gate_kinds(self) -> tuple[str, ...]:
        """The gates that the pattern prunes: channels, heads or both; none for weights."""
        return tuple(kind for kind in ("channels", "heads") if kind in self.pattern.split("+"))
