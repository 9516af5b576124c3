"""The settings of quantization."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class QuantizeSettings(BaseModel):
    """How weights become INT8, and how the activations that resist it are treated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Literal["int8", "none"] = Field(
        "int8", description="Format of the linears' weights: int8 per output channel, or none."
    )
    embeddings: bool = Field(True, description="Store embedding tables as INT8 rows.")
    head: bool = Field(
        True, description="Quantize what stands outside the blocks: classifier or decoder head."
    )
    clip: Literal["absmax", "mse"] = Field(
        "absmax",
        description="Range of a channel: its largest weight, or the clip of least squared error.",
    )
    smooth: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Share of the activations' range moved into the weights (SmoothQuant's "
        "alpha); none: 0.7 for decoders' feed-forward, nothing for encoders.",
    )
    massive_activations: Literal["auto", "smooth", "token-wise", "float", "none"] = Field(
        "auto",
        description="What is done for linears whose input holds massive activations: smoothing "
        "into the linear before; a scale per token; float32; nothing; auto: smoothing, and a "
        "scale per token where that is not enough.",
    )
    massive_ratio: float = Field(
        100.0,
        gt=1.0,
        description="A linear's input is massive where its largest value exceeds its typical one "
        "(the root mean square) by this factor.",
    )
    calibration_samples: int = Field(
        64, ge=1, le=4096, description="Sequences of the user's text that are run to see ranges."
    )
