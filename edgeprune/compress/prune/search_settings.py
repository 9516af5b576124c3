"""The settings of a search over sparsity per layer. No torch here."""

from typing import Literal, Self

from pydantic import Field, model_validator

from edgeprune.compress.levels.settings import Evolution
from edgeprune.compress.prune.criteria import CRITERIA
from edgeprune.compress.prune.oneshot_settings import OneShotSettings, why_uniform


class SearchSettings(OneShotSettings, Evolution):
    """A search for how much each linear gives up, then a one-shot method with those shares."""

    method: Literal["search"] = Field(
        "search",
        description="An evolutionary search for each linear's sparsity, judged by the distance to "
        "the original's outputs; the slowest of the one-shot methods.",
    )
    solver: Literal[tuple(CRITERIA)] = Field(  # type: ignore[valid-type]
        "wanda", description="The method that prunes the candidates and the winner."
    )
    # Not of the smallest's: with few key-value heads that is an eighth of a feed-forward's, whose
    # share would hardly move in the few levels that there is memory for.
    step: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="What one level adds to or takes from a linear, as a share of the median "
        "linear's units: the same number of units everywhere, so that levels can be exchanged.",
    )
    max_level: int = Field(
        3,
        ge=1,
        le=16,
        description="Levels up and down from uniform; each is kept in memory in half precision.",
    )

    @model_validator(mode="after")
    def _pattern_leaves_a_choice(self) -> Self:
        if why := why_uniform(self.pattern):
            raise ValueError(f"{why}: there is nothing to search")
        return self

    def evolution(self) -> Evolution:
        """The part of the settings that the search itself reads."""
        return Evolution(**{name: getattr(self, name) for name in Evolution.model_fields})
