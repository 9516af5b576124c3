"""The settings of a benchmark."""

from typing import Self

from pydantic import Field, model_validator

from edgeprune.base.settings import Settings


class BenchSettings(Settings):
    """The work that is timed, and how sure the answer must be."""

    batch: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="texts in one call; sequences that a decoder continues side by side",
    )
    tokens: int = Field(
        default=128,
        ge=1,
        le=131_072,
        description="tokens of each text; of the prompt, for a decoder",
    )
    decode_steps: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="tokens that a decoder generates after the prompt in a turn",
    )
    threads: int = Field(default=1, ge=1, le=256, description="threads for the matrix products")
    launches: int = Field(
        default=6,
        ge=1,
        le=1000,
        description="times that every model is started anew, with memory, core and order changed",
    )
    spread: float = Field(
        default=0.0,
        ge=0.0,
        le=604_800.0,
        description="seconds over which the launches are spaced, so that the interval holds for "
        "longer than its own minute",
    )
    time_limit: float = Field(
        default=20.0,
        gt=0.0,
        le=86_400.0,
        description="seconds of timing in all, without starting and waiting; fixed before the "
        "first result, since a run that stops when it looks good is biased",
    )
    min_rounds: int = Field(
        default=6,
        ge=1,
        le=10_000,
        description="rounds at least, over all launches, whatever the time limit; in each, every "
        "model has two turns",
    )
    width: float = Field(
        default=0.03,
        gt=0.0,
        le=1.0,
        description="a ratio is settled whose 95 % interval is narrower than this share of it",
    )
    turn_seconds: float = Field(
        default=0.1, gt=0.0, le=60.0, description="about how long one turn of a model lasts"
    )
    tune_baseline: bool = Field(
        default=True,
        description="time a float baseline without the runtime's slow fusions too, and take the "
        "faster; off compares like with like",
    )
    seed: int = Field(default=0, ge=0, description="of the token ids and of the bootstrap")
    compressed: bool = Field(
        default=False, description="also compress the files, about a second for 20 to 30 MB"
    )
    sustained: float = Field(
        default=0.0,
        ge=0.0,
        le=86_400.0,
        description="also keep the processor busy with the model for so many seconds, and tell "
        "each minute's speed, clock and temperature",
    )
    profile: bool = Field(
        default=False, description="also share the time out among operators, in another process"
    )
    counters: bool = Field(
        default=False, description="also count a call's instructions and cycles, where perf may"
    )

    @model_validator(mode="after")
    def _several_launches_are_spread(self) -> Self:
        if self.spread and self.launches < 2:
            raise ValueError("spread is the time between launches, and there is one: ask for more")
        return self
