"""The settings of measuring the times of blocks."""

from typing import Literal

from pydantic import Field

from edgeprune.base.settings import Settings
from edgeprune.measure.works import Work

Form = Literal["float32", "int8", "int8-token", "int4-32", "int4-64", "int4-128"]
FORMS: tuple[Form, ...] = ("float32", "int8", "int8-token", "int4-32", "int4-64", "int4-128")


class BlockSettings(Settings):
    """The work whose times are measured, and how finely."""

    form: Form = Field("int8", description="format of the linears")
    work: Work | None = Field(
        None, description="kind of work; none: an encoder's only one, a decoder's prompt"
    )
    tokens: int = Field(128, ge=1, description="tokens of each text, or of the prompt")
    batch: int = Field(1, ge=1, description="texts in one call")
    threads: int = Field(1, ge=1, description="threads for the matrix products")
    layers: int = Field(3, ge=2, description="layers of a small model that is timed")
    head_levels: int = Field(12, ge=2, description="numbers of heads that are timed, at most")
    channel_levels: int = Field(14, ge=2, description="numbers of channels, at most")
    step: int = Field(
        16, ge=1, description="channels are multiples of it: of what a register tile holds"
    )
    launches: int = Field(2, ge=1, description="times that every small model is started anew")
    time_limit: float = Field(30.0, gt=0, description="seconds of timing in all")
    turn_seconds: float = Field(0.03, gt=0, description="about how long one turn lasts")
    seed: int = Field(0, ge=0, description="of the design, the token ids and the calibration")
