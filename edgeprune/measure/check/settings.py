"""The limits on what a candidate may cost before it counts as a regression."""

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from edgeprune.base.settings import Settings


def _per_cent(given: object) -> object:
    """The number in "5%" or "5"."""
    if not isinstance(given, str):
        return given
    try:
        return float(given.strip().removesuffix("%"))
    except ValueError:
        raise PydanticCustomError("per_cent", "Input should be per cent, such as 5%") from None


Percent = Annotated[float, BeforeValidator(_per_cent), Field(ge=0.0, le=100_000.0)]


class Limits(Settings):
    """Most that a candidate may lose to its baseline."""

    max_slowdown: Percent = Field(default=5.0, description="per cent more time a call")
    max_memory: Percent = Field(default=5.0, description="per cent more peak memory")
    max_size: Percent = Field(default=2.0, description="per cent more bytes of graph and data")
    max_operators: Percent = Field(
        default=0.0, description="per cent more operators in the graph that the runtime runs"
    )
    max_drop: float = Field(
        default=0.5, ge=0.0, description="points of quality lost, or per cent of perplexity"
    )


class QualityTask(Settings):
    """The quality measure that is asked for, if one is."""

    task: str | None = Field(default=None, description="a name that `edgeprune evaluate` knows")
    data: str | None = Field(default=None, description="what it reads")
    limit: int | None = Field(default=None, ge=1, description="rows or windows at most")
    original: str | None = Field(
        default=None, description="what cosine and kl compare with; the baseline where None"
    )
