"""The settings of the one-shot methods, which prune layer after layer. No torch here."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from edgeprune.compress.prune.allocate_settings import AnyAllocator, Uniform
from edgeprune.compress.prune.settings import COLUMNS, PatternSettings, parse_n_m


def why_uniform(pattern: str) -> str | None:
    """Why the same share has to leave every linear under a pattern; None where it has not."""
    if parse_n_m(pattern):
        return f"pattern {pattern} asks the same of every group"
    if pattern == COLUMNS:
        return "columns of different linears hold different numbers of weights"
    return None


class OneShotSettings(PatternSettings):
    """Settings of every one-shot method."""

    samples: int = Field(
        64, ge=1, description="Sequences of text on which the layers' inputs are seen."
    )


class LayerwiseSettings(OneShotSettings):
    """Settings of methods that prune one layer after another, each by its own ranking."""

    if TYPE_CHECKING:
        method: str = ""  # a criterion's name: a Literal of its own, last among its settings

    allocate: AnyAllocator = Field(
        Uniform(),
        description="Where the budget falls: uniform, owl, projection, marchenko-pastur, coverage, "
        "depth or absorption, by name or as {by: name} with settings. n:m and columns leave no "
        "choice.",
    )

    @model_validator(mode="after")
    def _pattern_leaves_a_choice(self) -> Self:
        why = why_uniform(self.pattern)
        if why and self.allocate.by != "uniform":
            raise ValueError(f"{why}: leave allocate out")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The settings of this method alone, by name."""
        shared = {*LayerwiseSettings.model_fields, "method"}
        return {name: getattr(self, name) for name in type(self).model_fields if name not in shared}


class CorrectedSettings(LayerwiseSettings):
    """Settings of methods that correct the weights that stay."""

    block_size: int = Field(
        128, ge=1, description="Columns whose weights are chosen together, before the next."
    )
    damping: float = Field(
        0.01,
        gt=0,
        description="Share of the inputs' mean square that is added to each: how little the "
        "correction trusts the text.",
    )


class GlobalSettings(OneShotSettings):
    """One ranking of all linears' weights by what losing them does to the model's output."""

    method: Literal["nap"] = Field(
        "nap",
        description="NAP: one ranking over all layers by Fisher information, so that no allocator "
        "is needed; rounds of ranking and correction. Needs memory for the whole model's "
        "curvature.",
    )
    curvature: Literal["kfac", "fisher"] = Field(
        "kfac",
        description="How the loss curves: Kronecker factors of inputs and gradients, or each "
        "weight's own Fisher information.",
    )
    rounds: int = Field(
        2, ge=1, le=20, description="Rounds of ranking; a part of the weights goes in each."
    )
    correct: bool = Field(
        True, description="Whether weights that stay make up for those that go, layer by layer."
    )
    block_size: int = Field(128, ge=1, description="Columns that are corrected for jointly.")
    damping: float = Field(
        0.01,
        gt=0,
        description="Share of the mean diagonal that is added to each curvature: how little the "
        "text is trusted.",
    )
    max_layer_sparsity: float = Field(
        0.95, gt=0, le=1, description="The largest share that any one linear may lose."
    )
    samples: int = Field(32, ge=1, description="Sequences of text on which curvature is taken.")

    @model_validator(mode="after")
    def _units_are_alike(self) -> Self:
        if self.pattern == COLUMNS:
            raise ValueError(f"{why_uniform(COLUMNS)}: take thanos, sparsegpt or wanda for them")
        return self

    @model_validator(mode="after")
    def _limit_leaves_room(self) -> Self:
        if self.sparsity > self.max_layer_sparsity:
            raise ValueError(
                f"a sparsity of {self.sparsity:g} is more than max_layer_sparsity "
                f"({self.max_layer_sparsity:g}) lets any linear lose"
            )
        return self
