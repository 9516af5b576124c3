"""The one-shot criteria: the settings of each, and the row that joins its name to its function.

A new criterion is a function in a file of its own, and here its settings and its row: recipes,
their errors and explanations, the search's solvers and the advice follow from them. No torch here.
"""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from edgeprune.compress.prune.oneshot_settings import CorrectedSettings, LayerwiseSettings
from edgeprune.compress.prune.settings import COLUMNS, parse_n_m


@dataclass(frozen=True)
class Criterion:
    """Settings, a function and what the criterion is for, in a sentence.

    function: "module:function" (weight [out, in], Gram matrix of the inputs [in, in], pattern,
        units that go, **the settings of this criterion alone) -> Pruned.
    """

    settings: type[LayerwiseSettings]
    function: str
    purpose: str


class MagnitudeSettings(LayerwiseSettings):
    """The smallest weights of each linear go; the text is only for the reported errors."""

    method: Literal["magnitude"] = Field(
        "magnitude",
        description="Magnitude: the smallest weights go. A baseline; it needs training after it.",
    )


class WandaSettings(LayerwiseSettings):
    """Smallest weight times input norm, output by output, without an update."""

    method: Literal["wanda"] = Field(
        "wanda",
        description="Wanda: the smallest of weight times input norm go, output by output; the "
        "rest stay as they are. The quickest that looks at the text.",
    )


class SparseGPTSettings(CorrectedSettings):
    """Optimal brain surgeon, column after column."""

    method: Literal["sparsegpt"] = Field(
        "sparsegpt",
        description="SparseGPT: weights whose removal the others can best make up for go, and the "
        "columns after them are corrected.",
    )


class ThanosSettings(CorrectedSettings):
    """Optimal brain surgeon for all weights of a block of columns at once."""

    method: Literal["thanos"] = Field(
        "thanos",
        description="Thanos: chosen as by Wanda, over all columns that are left; everything that "
        "leaves a block of columns is corrected for jointly.",
    )
    outlier_rows: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each linear's outputs, those of the largest energy, that keep every "
        "weight; for columns (where others lose more for it) and n:m (where less goes in all).",
    )

    @model_validator(mode="after")
    def _outliers_have_a_pattern(self) -> Self:
        if not self.outlier_rows:
            return self
        if self.pattern != COLUMNS and not parse_n_m(self.pattern):
            raise ValueError("outlier_rows go with the pattern columns or n:m")
        if self.pattern == COLUMNS and self.outlier_rows >= 1 - self.sparsity:
            raise ValueError("outlier_rows must be less than 1 - sparsity")
        return self


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(
        MagnitudeSettings,
        "edgeprune.compress.prune.magnitude:magnitude",
        "By size alone: a baseline.",
    ),
    "wanda": Criterion(
        WandaSettings,
        "edgeprune.compress.prune.wanda:wanda",
        "For a first look: no weight that stays changes.",
    ),
    "sparsegpt": Criterion(
        SparseGPTSettings,
        "edgeprune.compress.prune.sparsegpt:sparsegpt",
        "For weights and blocks that go for good: what stays is corrected.",
    ),
    "thanos": Criterion(
        ThanosSettings,
        "edgeprune.compress.prune.thanos:thanos",
        "As sparsegpt, a block of columns corrected jointly; also whole columns with outputs left "
        "dense.",
    ),
}
"""The criteria by their names in recipes."""
