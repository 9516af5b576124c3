"""The settings of a search over sparsity per layer. No torch here."""

from typing import Literal, Self

from pydantic import Field, model_validator

from edgeprune.base.settings import Settings
from edgeprune.compress.prune.oneshot_settings import OneShotSettings, why_uniform

_PARTS = 16


def together(samples: int) -> int:
    """Sequences in a batch of a search's text, which comes in 16 (fewer of fewer sequences)."""
    return max(1, samples // _PARTS)


class Evolution(Settings):
    """How a search spends its budget, whatever it searches."""

    strategy: Literal["evopress", "evop"] = Field(
        "evopress",
        description="How candidates come: evopress has one parent and offspring by small moves, "
        "chosen in stages on ever more and always fresh text; evop a population with crossover on "
        "a fixed text.",
    )
    evaluations: int = Field(
        1200,
        ge=0,
        description="Budget: how often a candidate meets a batch of text, in all. A batch is a "
        "sixteenth of the samples, or what text.batch_tokens lets be one.",
    )
    offspring: int = Field(
        12, ge=0, description="Candidates a generation; the population's size for evop."
    )
    survivors: int = Field(
        4, ge=1, description="Candidates that reach the second stage, beside the parent (evopress)."
    )
    first_texts: int = Field(1, ge=1, description="Batches of text in the first stage (evopress).")
    texts: int = Field(4, ge=1, description="Batches on which the best are chosen.")

    @model_validator(mode="after")
    def _evop_has_children(self) -> Self:
        if self.strategy == "evop" and 0 < self.offspring < 3:
            raise ValueError("evop keeps its two best: offspring must be 3 or more")
        return self

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self)


class SearchSettings(OneShotSettings, Evolution):
    """A search for how much each linear gives up, then a one-shot method with those shares."""

    method: Literal["search"] = Field(
        "search",
        description="An evolutionary search for each linear's sparsity, judged by the distance to "
        "the original's outputs; the slowest of the one-shot methods.",
    )
    solver: Literal["magnitude", "wanda", "sparsegpt", "thanos"] = Field(
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
