"""The settings of a search: the limits that a model must keep, and what the search may take.

No torch here.
"""

from typing import Self

from pydantic import Field, model_validator

from edgeprune.base.settings import Settings
from edgeprune.measure.works import Work

CLIENT = "ray://"
"""Before an address at which a cluster takes clients from outside."""


class Wish(Settings):
    """Limits. With none the search gives a front, from nearly lossless to very fast."""

    speedup: tuple[float, ...] = Field(
        (),
        description="times faster than the original in float32: the least loss at each that is "
        "given",
    )
    latency: float | None = Field(None, gt=0, description="most milliseconds of a call")
    max_drop: float | None = Field(
        None, gt=0, description="most that the measure may lose: the fastest model within it"
    )
    megabytes: float | None = Field(
        None, gt=0, description="most megabytes (10^6 bytes) of the graph and its data"
    )
    memory: float | None = Field(
        None, gt=0, description="most megabytes (10^6 bytes) of a process that runs the model"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if any(speed <= 1 for speed in self.speedup):
            raise ValueError("a speedup is more than 1: how many times faster")
        if self.latency is not None and self.speedup:
            raise ValueError(
                "speedup and latency both limit the time of a call: give one of the two"
            )
        if self.max_drop is not None and len(self.speedup) > 1:
            raise ValueError(
                "max_drop asks for one model, the fastest within it: give one speedup at most"
            )
        return self

    @property
    def of_one(self) -> bool:
        """One model is asked for, not a front."""
        asked = (self.latency, self.max_drop, self.megabytes, self.memory)
        return len(self.speedup) == 1 or any(each is not None for each in asked)


class SearchRunSettings(Settings):
    """The work whose time counts, and what the search may spend."""

    work: Work | None = Field(
        None, description="of a decoder, prompt or decode: whose time counts; none: the prompt's"
    )
    tokens: int = Field(128, ge=1, le=4096, description="tokens of a timed text or prompt")
    batch: int = Field(1, ge=1, le=256, description="texts in a timed call of an encoder")
    threads: int = Field(1, ge=1, le=256, description="threads of a timed session")
    hours: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="how long the search may take, in all: it then ends with what it has",
    )
    steps: int | None = Field(
        None,
        ge=2,
        description="optimizer steps of a model's training in place of a share of the hours, and "
        "no correction of times by what was measured: the same command, the same models",
    )
    task: str | None = Field(None, description="a quality measure by which models are judged")
    eval: str | None = Field(None, description="the data of that measure, never trained on")
    points: int = Field(5, ge=2, le=12, description="models of a front")
    candidates: int = Field(
        3, ge=1, le=12, description="shapes that are trained briefly for each model"
    )
    brief: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="share of a model's training that goes to choosing its shape",
    )
    samples: int = Field(
        256, ge=8, description="sequences of text from which order and compensation are taken"
    )
    judged: int = Field(96, ge=8, description="sequences on which losses of levels are measured")

    switches: int = Field(
        60,
        ge=0,
        description="shapes near each candidate that are measured whole and untrained, to improve "
        "on the sums of losses by which it was chosen",
    )

    @model_validator(mode="after")
    def _measure_has_data(self) -> Self:
        if (self.task is None) != (self.eval is None):
            raise ValueError("task names a measure and eval its data: give both, or neither")
        return self
