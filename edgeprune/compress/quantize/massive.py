"""Massive activations: which inputs one scale a tensor would ruin, and what helps.

A few values that dwarf the rest leave these no codes. What helps, by what is found:

    found                               inputs of linears get            as well
    a causal model, massive inputs      a scale per token, all of them   smoothing, where it folds
    an encoder whose outputs drift far  a scale per token, the massive   nothing: its norms are read
                                        ones and more until they do not  twice, and GELU takes none
    neither                             one scale a tensor               nothing
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.quantize.activations import fix_input_scales
from edgeprune.compress.quantize.plan import Format, Plan
from edgeprune.compress.quantize.rounding import output_drift
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.compress.quantize.smooth import fold_smoothing, observe_inputs, smoothable
from edgeprune.model.forward import Inputs, tensors
from edgeprune.model.model import Model

MOST_DRIFT = 0.5
"""Of the outputs, relative to their size: beyond it nothing is built."""
_TOLERABLE = 0.18
"""An encoder that drifts by less keeps one scale a tensor: all-MiniLM-L6-v2 has 0.14 and a cosine
of 0.994. all-mpnet-base-v2 has 0.61 and 0.90, and with a scale per token for the 21 of its linears
whose inputs' largest value is over 50 times the typical one, 0.14 and 0.995."""
_ALPHA = 0.5
_SEEN_TOKENS = 512
"""On which drift is measured: enough to tell 0.1 from 0.5, and a second of a base-sized model."""

Batches = Sequence[Inputs]


@dataclass(frozen=True)
class Treatment:
    """Massive inputs that were found, and the treatment that they were given."""

    massive: dict[str, float] = field(default_factory=dict)
    """Largest input value over the root mean square, before smoothing, of the massive ones."""
    smoothed: list[str] = field(default_factory=list)
    formats: dict[str, Format] = field(default_factory=dict)
    """By linear, where it is not the plan's own."""


def treat(
    model: Model,
    batches: Batches,
    settings: QuantizeSettings,
    plan_with: Callable[[Mapping[str, Format]], Plan],
) -> Treatment:
    """Look at what linears read, fold smoothing into the model where it helps, choose formats.

    A scale per token everywhere costs a decoder's prompt 14 % of its speed (3.1x float32's plain
    export becomes 2.7x, decoding stays 2.8x; Zen 4, one thread, 128 tokens) and is worth it.
    SmolLM2-135M, 5 windows of 512 tokens of WikiText-2, perplexity over float32's: smoothing alone
    +21.6 %; with a scale per token for down projections +4.1 %, for those and the head +3.0 %, for
    every linear +1.9 % (without smoothing +4.9 %). The weights' rounding costs +0.1 % of it.

    Args:
        batches: calibration text.
        plan_with: the plan with these formats for some linears.
    """
    every: dict[str, Format] = dict.fromkeys(model.anatomy.linears(), "int8-token")
    token_wise = settings.activations == "token" or settings.operators
    asked = every if token_wise else {}
    how = settings.massive_activations
    if settings.weights == "none" or (how == "none" and settings.smooth is None):
        return Treatment(formats=asked)
    ranges = observe_inputs(model, batches)
    ratios = {name: seen.massive() for name, seen in ranges.items()}
    massive = _beyond(ratios, settings.massive_ratio) if how != "none" else {}
    formats = asked
    if how == "float":
        formats = {**asked, **dict.fromkeys(massive, "float32")}
    elif how == "auto" and not model.anatomy.causal and not asked:
        massive = _until_tolerable(model, batches, ratios, settings, plan_with)
        formats = dict.fromkeys(massive, "int8-token")
    elif how in ("auto", "token-wise") and massive:
        # Scales that were asked for by calibration stay where they can.
        formats = (
            dict.fromkeys(massive, "int8-token") if settings.activations == "static" else every
        )
    alpha = settings.smooth
    # The runtime's groups take a token's activations in groups too: no range calls for smoothing.
    # A streamed model's weights are rounded as they lie in its files.
    if alpha is None and massive and how in ("auto", "smooth") and model.streamed is None:
        ranged = settings.weights in ("int8", "mixed") or settings.operators
        alpha = _ALPHA if ranged and smoothable(model.anatomy) else None
    smoothed = fold_smoothing(model, ranges, alpha) if alpha is not None else []
    return Treatment(massive, smoothed, formats)


def activation_drift(
    model: Model, plan: Plan, batches: Batches, settings: QuantizeSettings
) -> float:
    """Drift of the outputs of a little text by a plan's rounded activations."""
    some = list(_some(batches))
    if settings.activations == "static":
        plan = fix_input_scales(model, plan, some, settings.activation_range)
    return output_drift(model, plan, some)


def refuse_drift(drift: float, settings: QuantizeSettings) -> None:
    """Refuse a model whose outputs INT8 would spoil.

    Raises:
        UserError: they drift by more than MOST_DRIFT, or are not finite.
    """
    if drift <= MOST_DRIFT:
        return
    if not math.isfinite(drift):
        raise UserError(
            "This model's outputs on the calibration text are NaN or infinite: see whether its "
            "weights are whole, and whether the model answers right before it is built."
        )
    instead = "int8-groups, or leave `quantize` out"
    helps = f"quantize.weights to {instead}"
    if settings.activations != "token":
        helps = f"quantize.activations to token, {helps}"
    raise UserError(
        f"INT8 activations would move this model's outputs by {drift:.2f} of their size on the "
        f"calibration text, and {MOST_DRIFT:g} is the most that is built: set {helps}."
    )


def _until_tolerable(
    model: Model,
    batches: Batches,
    ratios: Mapping[str, float],
    settings: QuantizeSettings,
    plan_with: Callable[[Mapping[str, Format]], Plan],
) -> dict[str, float]:
    """The fewest massive inputs, by a bound that halves, without which the outputs stay near."""
    massive: dict[str, float] = {}
    for massive in _widening(ratios, settings.massive_ratio):
        plan = plan_with(dict.fromkeys(massive, "int8-token"))
        if activation_drift(model, plan, batches, settings) <= _TOLERABLE:
            break
    return massive


def _widening(ratios: Mapping[str, float], ratio: float) -> Iterator[dict[str, float]]:
    """None, those beyond the ratio, beyond half of it and so on; none is below one."""
    found: dict[str, float] = {}
    yield found
    while ratio > 0.5:
        wider = _beyond(ratios, ratio)
        if len(wider) > len(found):
            yield wider
        found, ratio = wider, ratio / 2


def _beyond(ratios: Mapping[str, float], ratio: float) -> dict[str, float]:
    return {name: value for name, value in ratios.items() if value > ratio}


def _some(batches: Batches) -> Iterator[Mapping[str, Tensor]]:
    """Rows of each batch, as many tokens of all together as drift is measured on."""
    share = max(1, _SEEN_TOKENS // max(1, len(batches)))
    left = _SEEN_TOKENS
    for batch in map(tensors, batches):
        rows = max(1, share // batch["input_ids"].shape[1])
        if left > 0:
            yield {name: values[:rows] for name, values in batch.items()}
        left -= rows * batch["input_ids"].shape[1]
