"""The settings of a search, whatever it searches. No torch here."""

from typing import Literal, Self

from pydantic import Field, model_validator

from edgeprune.base.settings import Settings

_PARTS = 16


def sequences_per_batch(samples: int) -> int:
    """Sequences in a batch of a search's text, which comes in 16 (fewer of fewer sequences)."""
    return max(1, samples // _PARTS)


class Evolution(Settings):
    """The budget of a search and how it is spent, whatever is searched."""

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
