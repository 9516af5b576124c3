"""The settings of quantization."""

from typing import Literal

from pydantic import Field

from edgeprune.base.settings import Settings

HALF_BITS = 16
"""`cache_bits` of a cache in float16."""


class QuantizeSettings(Settings):
    """Rounding of weights to integers, and treatment of the activations that resist it."""

    weights: Literal["int8", "int4", "int8-groups", "mixed", "none"] = Field(
        "int8",
        description="Format of the linears' weights: int8 per output channel; int4 or int8 in "
        "groups; mixed: int8 per channel or int4 in groups, by sensitivity; none.",
    )
    prefer: Literal["prompt", "decode", "balanced"] | None = Field(
        None,
        description="Decoders: choose `weights` by the work that must be fast: prompt int8, decode "
        "what the target decodes fastest (int4 with AVX512-VNNI, elsewhere int8), balanced what "
        "has the better geometric mean of both speeds, int8.",
    )
    method: Literal["rtn", "gptq", "hqq"] = Field(
        "rtn",
        description="How weights are rounded: to nearest; GPTQ, where later columns make up for "
        "earlier ones on calibration text (inside the blocks); HQQ, which refits the grid "
        "without text.",
    )
    group: Literal[16, 32, 64, 128] = Field(
        32, description="Columns that share a scale where weights have groups."
    )
    symmetric: bool = Field(
        True, description="Groups without zero points: a little smaller, a little coarser."
    )
    average_bits: float = Field(
        5.0,
        gt=0,
        le=32,
        description="Of mixed: bits that a weight takes on average, scales included; the sum is "
        "never above it.",
    )
    linears_ms: float | None = Field(
        None,
        gt=0,
        description="Of mixed, instead of average_bits: milliseconds that the linears may take in "
        "one call of `batch` texts of `tokens` tokens, as the target's table predicts on one "
        "thread.",
    )
    sensitivity: Literal["fisher", "measured"] = Field(
        "fisher",
        description="Of mixed: what a tensor's rounding costs, by the outputs' squared gradients "
        "or by running the model with that tensor rounded, once for each.",
    )
    damping: float = Field(
        0.01,
        gt=0,
        description="Of GPTQ: share of the inputs' mean square that is added to each: how little "
        "the correction trusts the text.",
    )
    act_order: bool = Field(
        True,
        description="Of GPTQ: round the inputs of most energy first, with ranges taken before; "
        "else column after column, with a group's range taken when it is reached.",
    )
    embeddings: bool = Field(True, description="Store embedding tables as INT8 rows.")
    head: bool = Field(
        True, description="Quantize what stands outside the blocks: classifier or decoder head."
    )
    unpacked_head: bool = Field(
        False,
        description="Decoders whose head shares the embedding's table: keep it in memory once "
        "(28 MB of SmolLM2's 237). On x86, for one sequence: steps as fast, and prompts of clients "
        "that ask for the last logits; more sequences, all logits and ARM get slower.",
    )
    clip: Literal["absmax", "mse"] = Field(
        "absmax",
        description="Range of a channel or group: its largest weight, or the clip, scale and zero "
        "point of least squared error. The second is for INT4; channels of INT8 are better off "
        "with the first.",
    )
    smooth: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Share of the activations' range moved into the weights (SmoothQuant's "
        "alpha), wherever a scale can be folded; none: 0.5 where massive activations of a decoder "
        "call for it.",
    )
    massive_activations: Literal["auto", "smooth", "token-wise", "float", "none"] = Field(
        "auto",
        description="What a model gets in which calibration finds massive activations: smoothing "
        "(decoders with gates); a scale per token in every linear; float32 where they are; none; "
        "auto: decoders smoothing and a scale per token in every linear, encoders a scale per "
        "token in as few linears as keep the outputs near.",
    )
    massive_ratio: float = Field(
        100.0,
        gt=1.0,
        description="A linear's input is massive where its largest value exceeds its typical one "
        "(the root mean square) by this factor.",
    )
    sparse: Literal[True, False, "whole"] = Field(
        True,
        description="Store linears of INT8 weights that lost enough of them in blocks as sparse "
        "INT8, where the target's break-even table says that this is faster; whole: those that "
        "lost none, too. They run faster in the operators' layout, but slower and in more memory "
        "where the operator library is not installed.",
    )
    operators: bool = Field(
        False,
        description="Write linears of INT8 and INT4 weights as operators of edgeprune.kernels, "
        "with activations of a scale per token: what stands around them runs inside. Where the "
        "library is not installed, the file's own functions take the runtime's INT8 products.",
    )
    tokens: int = Field(
        128,
        ge=1,
        description="Tokens of a text that formats are planned for; 1 plans for a decoder's "
        "single steps.",
    )
    batch: int = Field(1, ge=1, description="Texts in a call that formats are planned for.")
    calibration_samples: int = Field(
        64,
        ge=1,
        le=4096,
        description="Sequences of the user's text on which ranges and sensitivities are seen and "
        "GPTQ makes up for rounding; GPTQ gains from more.",
    )
    activations: Literal["dynamic", "token", "static"] = Field(
        "dynamic",
        description="Scale of an INT8 linear's activations: of each tensor as it comes; of each "
        "token, so that no text's result depends on its batch; or fixed by calibration (no look "
        "at the tensor, but text unlike it may be cut off; sparse linears and those with massive "
        "activations stay dynamic).",
    )
    activation_range: Literal["minmax", "percentile", "mse"] = Field(
        "percentile",
        description="Of static: the range that calibration saw, all but 0.01 % of it at each end, "
        "or the one of least squared error.",
    )

    cache_bits: float | None = Field(
        None,
        ge=4,
        le=16,
        description="Decoders with fused attention: bits of a cached key or value, 8 or 4, or "
        "between for as many layers in 4 bits as that takes, those that lose least; 16, with "
        "operators: float16; none: float32, which other clients of the bundle expect.",
    )

    @property
    def quantizes_linears(self) -> bool:
        """Whether linears are stored in integers, so that their inputs may be rounded too."""
        return self.weights != "none" or self.prefer is not None


def preferred(
    settings: QuantizeSettings, generates: bool, decode_weights: Literal["int8", "int4"]
) -> QuantizeSettings:
    """The settings with the weights' format that the preferred work asks for.

    SmolLM2-135M on one thread of a busy Zen 5, to be measured again by benchmarks/decoders.py: int8
    reads a prompt of 128 tokens 1.9 times as fast as int4 in groups of 128 and generates 0.7 times
    as fast. Both in one file would be 200 MB (106 + 66 of linears, 28 of embeddings) beside the 92
    MB of llama.cpp's Q4_0, so one has to choose.

    Args:
        generates: whether the model writes token by token; what only reads keeps its settings.
        decode_weights: what the target decodes fastest.
    """
    if settings.prefer is None or not generates:
        return settings
    weights = decode_weights if settings.prefer == "decode" else "int8"
    return settings.model_copy(update={"weights": weights})
