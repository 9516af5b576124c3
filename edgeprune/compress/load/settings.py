"""The settings of the load stage."""

from typing import Literal

from pydantic import Field

from edgeprune.base.settings import Settings


class LoadSettings(Settings):
    """Reading of the user's model."""

    streamed: Literal["auto", True, False] = Field(
        "auto",
        description="Keep the weights on disk and read each linear's when it is needed, for models "
        "that are too large for memory: the original is then not measured beside the result. auto: "
        "beyond 2 billion weights, where no stage needs the whole model.",
    )
