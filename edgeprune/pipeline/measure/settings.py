"""The settings of the build's own measurement, and what a recipe may require of it."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgeprune.base.settings import Settings
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.measures import MEASURES

OWN_TASKS = tuple(name for name, measure in MEASURES.items() if measure.own)
if TYPE_CHECKING:
    OwnTask = str
else:
    OwnTask = Literal[OWN_TASKS]


def _most(name: str) -> Any:
    """The most that a setting of the benchmark may be."""
    bounds = BenchSettings.model_fields[name].metadata
    return next(bound.le for bound in bounds if hasattr(bound, "le"))


class MeasureSettings(Settings):
    """Speed, memory and quality of the bundle beside the original."""

    tokens: int = Field(
        128, ge=1, le=_most("tokens"), description="Tokens of a timed text or prompt."
    )
    batch: int = Field(
        1, ge=1, le=_most("batch"), description="Texts in a timed call of an encoder."
    )
    threads: int = Field(1, ge=1, le=_most("threads"), description="Threads of a timed session.")
    seconds: float = Field(
        20.0,
        gt=0,
        le=_most("time_limit"),
        description="Seconds of the interleaved rounds, over all launches.",
    )
    launches: int = Field(
        6,
        ge=1,
        le=_most("launches"),
        description="Times that both models are started anew; an interval is over launches.",
    )
    profile: bool = Field(
        True, description="Share the time of a call out among operators, before and after."
    )
    curve: tuple[Annotated[int, Field(ge=1, le=_most("tokens"))], ...] = Field(
        (16, 64, 256),
        description="Tokens at which latency is measured as well, briefly; those beyond what the "
        "model takes are left out.",
    )
    stages: bool = Field(
        True,
        description="Measure the model that each stage leaves as well, briefly and in float32, so "
        "that what each gains and costs is told apart.",
    )
    task: OwnTask | None = Field(
        None, description="A quality measure on data of the user's, beside held-out text."
    )
    data: str | None = Field(None, description="The file that the quality measure reads.")
    fields: dict[str, str] = Field(
        {}, description="Its own names of the fields that the measure reads."
    )
    limit: int | None = Field(
        None, ge=1, description="Rows of it at most, drawn by a seed; or its first windows."
    )
