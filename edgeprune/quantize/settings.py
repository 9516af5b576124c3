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
        description="Range of a channel: its largest weight, or the clip of least squared error "
        "(SmolLM2's perplexity rises by 0.1 % with the first, 0.6 % with the second).",
    )
    smooth: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Share of the activations' range moved into the weights (SmoothQuant's "
        "alpha); none: 0.5 where massive activations call for it.",
    )
    massive_activations: Literal["auto", "smooth", "token-wise", "float", "none"] = Field(
        "auto",
        description="What a decoder gets in which calibration finds massive activations: "
        "smoothing; a scale per token in every linear; float32 where they are; none; "
        "auto: smoothing and a scale per token.",
    )
    massive_ratio: float = Field(
        100.0,
        gt=1.0,
        description="A linear's input is massive where its largest value exceeds its typical one "
        "(the root mean square) by this factor.",
    )
    sparse: bool = Field(
        True,
        description="Store linears that lost enough of their weights in blocks as sparse INT8, "
        "where the target's break-even table says that this is faster.",
    )
    tokens: int = Field(
        128,
        ge=1,
        description="Tokens of a text that formats are planned for; 1 plans for a decoder's "
        "single steps.",
    )
    batch: int = Field(1, ge=1, description="Texts in a call that formats are planned for.")
    calibration_samples: int = Field(
        64, ge=1, le=4096, description="Sequences of the user's text that are run to see ranges."
    )
