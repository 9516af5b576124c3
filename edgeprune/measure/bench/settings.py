"""The settings of a benchmark."""

from pydantic import Field

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
    min_rounds: int = Field(
        default=5,
        ge=3,
        le=10_000,
        description="rounds at least; in each, every model has two turns",
    )
    width: float = Field(
        default=0.03,
        gt=0.0,
        le=1.0,
        description="stop when the 95 % interval of the ratio is narrower than this share of it",
    )
    time_limit: float = Field(
        default=60.0,
        gt=0.0,
        le=86_400.0,
        description="stop after this many seconds of rounds at most",
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
    profile: bool = Field(
        default=False, description="also share the time out among operators, in another process"
    )
    counters: bool = Field(
        default=False, description="also count a call's instructions and cycles, where perf may"
    )
