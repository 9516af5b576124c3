"""The settings of dynamic pruning. No torch here: the command line reads this file."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgeprune.base.settings import Settings, renamed
from edgeprune.compress.prune.schedule import MODES, BudgetRule

PATTERN_HELP = (
    "'weights', n:m such as '2:4', a block such as '4x1', '4x16' or '1x16', "
    "'channels', 'heads' or 'channels+heads'"
)
WEIGHT_PATTERN_HELP = (
    "'weights', n:m such as '2:4', a block such as '4x1', '4x16' or '1x16', "
    "or 'columns', whole inputs of a linear"
)
COLUMNS = "columns"
_GATES = ("channels", "heads")
_GONE = {
    "band": "no update leaves more than an even share over those that are left; leave it out",
    "rho": "the trend of gradient norms is a median; memory says of how many steps",
}
"""Settings of earlier releases: what to do instead."""


def parse_n_m(pattern: str) -> tuple[int, int] | None:
    """(n, m) of an n:m pattern: n weights kept of m consecutive inputs; None for others."""
    match = re.fullmatch(r"([1-9]\d{0,2}):([1-9]\d{0,2})", pattern)
    return (int(match[1]), int(match[2])) if match else None


def parse_block(pattern: str) -> tuple[int, int] | None:
    """(inputs, outputs) of a block pattern such as '4x16'; None for others."""
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", pattern)
    return (int(match[1]), int(match[2])) if match else None


class PatternSettings(Settings):
    """The unit of removal and its amount: common to all methods of pruning."""

    named_patterns: ClassVar[tuple[str, ...]] = ("weights", COLUMNS)
    """The patterns that have a name, beside n:m and blocks."""
    pattern_help: ClassVar[str] = WEIGHT_PATTERN_HELP

    pattern: str = Field(
        "weights",
        description=f"What is removed as one unit: {WEIGHT_PATTERN_HELP}. n:m keeps n of m "
        "consecutive inputs; a block of k x n spans k consecutive inputs and n consecutive "
        "outputs.",
    )
    sparsity: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the weights, blocks or channels that is removed. An n:m pattern "
        "sets it to 1 - n/m.",
    )

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, pattern: str) -> str:
        n_m = parse_n_m(pattern)
        if n_m and n_m[0] >= n_m[1]:
            raise ValueError(f"{pattern} keeps every weight; n must be smaller than m")
        if n_m or parse_block(pattern) or pattern in cls.named_patterns:
            return pattern
        raise ValueError(f"no such pattern: {pattern!r}; it is {cls.pattern_help}")

    @model_validator(mode="before")
    @classmethod
    def _n_m_sets_the_sparsity(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("pattern"), str):
            n_m = parse_n_m(values["pattern"])
            if n_m and "sparsity" not in values:
                return {**values, "sparsity": 1 - n_m[0] / n_m[1]}
        return values

    @model_validator(mode="after")
    def _sparsity_agrees(self) -> Self:
        n_m = parse_n_m(self.pattern)
        if n_m and abs(self.sparsity - (1 - n_m[0] / n_m[1])) > 1e-9:
            raise ValueError(
                f"pattern {self.pattern} means a sparsity of {1 - n_m[0] / n_m[1]:g}, "
                f"not {self.sparsity:g}: leave sparsity out"
            )
        return self

    @property
    def gated(self) -> bool:
        """Units are channels or heads, pruned through gates, rather than weights."""
        return self.pattern in (*_GATES, "channels+heads")


class PruneSettings(PatternSettings):
    """Dynamic momentum-variance pruning of one or two pools of units."""

    named_patterns = ("weights", *_GATES, "channels+heads")
    pattern_help = PATTERN_HELP

    pattern: str = Field(
        "channels+heads",
        description=f"What is removed as one unit: {PATTERN_HELP}. n:m keeps n of m consecutive "
        "inputs; a block of k x n spans k consecutive inputs and n consecutive outputs.",
    )
    head_sparsity: float = Field(
        0.5, ge=0, lt=1, description="Share of the attention heads that is removed."
    )
    saliency: Annotated[
        Literal["magnitude", "grad", "momentum", "fisher", "adamwprune", "platon", "movement"],
        renamed({"mag": "magnitude", "mom": "momentum", "v14": "adamwprune", "move": "movement"}),
    ] = Field(
        "platon",
        description="How a weight's importance is estimated: magnitude, first-order effect of the "
        "last step (grad) or of the mean gradient (momentum), Fisher information, magnitude times "
        "a root of it (adamwprune), PLATON's mean times variability, or movement.",
    )
    averages: Literal["adaptive", "layered", "plain"] = Field(
        "adaptive",
        description="How the averages of gradients behind a saliency take a step whose norm stands "
        "apart from its trend: with less weight, by the norm over all layers (adaptive) or over "
        "each layer (layered), or as any other (plain).",
    )
    budget: Literal["mv", "cubic", "static_gradnorm", "fixed_mom"] = Field(
        "mv",
        description="How the budget approaches its cubic target: with a momentum that follows the "
        "variance of the training's gradient norms (mv), at once (cubic), by how far norms stand "
        "above their first ones (static_gradnorm), or with a momentum of one half (fixed_mom).",
    )
    beta_min: float = Field(
        0.0, ge=0, lt=1, description="Momentum of the mv budget when gradient norms are constant."
    )
    beta_max: float = Field(
        1.0, ge=0, le=1, description="Momentum of the mv budget when gradient norms vary wildly."
    )
    kappa: float = Field(
        1.0,
        gt=0,
        description="Distance of a gradient norm from its trend, as a share of it, at which a step "
        "weighs half in the averages and the momentum is half way between beta_min and beta_max.",
    )
    memory: int = Field(
        61,
        ge=1,
        le=10_000,
        description="Training steps whose median is the trend of gradient norms: a burst shorter "
        "than half of them leaves it alone, a lasting change becomes it.",
    )
    regrowth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the kept units that an early mask update exchanges for removed "
        "ones with large gradients; it fades out. Not for channels and heads.",
    )
    max_layer_sparsity: float = Field(
        0.95, gt=0, lt=1, description="The largest share that any one layer may lose."
    )
    layer_budgets: Literal["global", "layered"] = Field(
        "global",
        description="One ranking over all layers, or a budget per layer by its size and the "
        "steadiness of its gradients.",
    )
    normalize: Literal["auto", "layer", "none"] = Field(
        "auto",
        description="Whether a layer's scores are divided by their mean before a global ranking: "
        "auto does so for weights and magnitudes, and not for the gradients of channel and head "
        "gates, which share one scale.",
    )
    updates: int = Field(60, ge=1, description="Number of mask updates.")
    start: float = Field(
        0.05, ge=0, lt=1, description="Share of the training steps before the first mask update."
    )
    end: float = Field(
        0.7, gt=0, le=1, description="Share of the training steps at which the last one is done."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_gone(cls, values: Any) -> Any:
        for name in _GONE if isinstance(values, dict) else ():
            if name in values:
                raise ValueError(f"{name} is gone: {_GONE[name]}")
        return values

    @model_validator(mode="after")
    def _values_agree(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError("beta_min must not be larger than beta_max")
        if self.start >= self.end:
            raise ValueError("start must come before end")
        if self.regrowth and self.gated:
            raise ValueError(
                "regrowth is for weights; channels and heads do not grow back: leave it out"
            )
        for pool in self.pools() if self.pattern == "channels+heads" else (self,):
            if pool.share > self.max_layer_sparsity:
                raise ValueError(
                    f"{pool.pattern}: a sparsity of {pool.share:g} is more than "
                    f"max_layer_sparsity ({self.max_layer_sparsity:g}) lets any layer lose"
                )
        return self

    @property
    def share(self) -> float:
        """Share removed from this pool: head_sparsity for heads, else sparsity."""
        return self.head_sparsity if self.pattern == "heads" else self.sparsity

    def pools(self) -> tuple[Self, ...]:
        """The same settings once per pool of units: channels and heads have budgets apart."""
        if self.pattern != "channels+heads":
            return (self,)
        return tuple(self.model_copy(update={"pattern": pattern}) for pattern in _GATES)

    def budget_rule(self) -> BudgetRule:
        """The values of the chosen budget mode."""
        own = {name: getattr(self, name) for name in ("beta_min", "beta_max", "kappa", "memory")}
        return BudgetRule(**{**own, **MODES[self.budget]})
