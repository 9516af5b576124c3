"""A build's measurement beside what the recipe requires of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from edgeprune.base.settings import Settings
from edgeprune.measure.bench.record import Comparison
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Evaluation
from edgeprune.measure.record import Measured
from edgeprune.measure.works import WORKS


class Requirements(Settings):
    """The requirements on a build; where it misses one, it still leaves its result, and exits with
    1."""

    speedup: float | None = Field(
        None, gt=0, description="How many times faster than the original (prompt, for decoders)."
    )
    megabytes: float | None = Field(
        None, gt=0, description="Most megabytes (10^6 bytes) of the graph and its data."
    )
    cosine: float | None = Field(
        None, ge=0, le=1, description="Encoders: least mean cosine to the original's embeddings."
    )
    drop: float | None = Field(
        None,
        ge=0,
        description="Most that measure.task may lose (without one, the held-out text's accuracy or "
        "perplexity): points, or per cent of perplexity.",
    )


@dataclass(frozen=True)
class Judged:
    """One requirement: what it is of, what was asked, and what was measured, with its 95 %
    interval where it has one. It is met by the measured value itself, not by the interval."""

    of: str
    asked: str
    measured: str
    interval: str
    met: bool
    sentence: str
    """A sentence on how it was missed, for the last line of a build that did."""


@dataclass(frozen=True)
class Loss:
    """The loss of a quality measure's main value against the original's: more is worse.

    of: the value's name in words. value, interval: points, or per cent of the original's where
    `unit` says so; None where the interval is not known.
    """

    of: str
    value: float
    interval: tuple[float, float] | None
    unit: str = ""


def loss_of(quality: Evaluation) -> Loss:
    """The loss of an evaluation beside the original; of a perplexity as a share of the
    original's."""
    assert quality.original is not None
    assert quality.difference is not None
    key = next(iter(quality.difference))
    relative = key == "perplexity"
    sign = 1 if key in LOWER_IS_BETTER else -1
    scale = 100 / quality.original[key] if relative else sign
    ends = (quality.difference_interval or {}).get(key)
    low, high = sorted(scale * end for end in ends) if ends else (None, None)
    return Loss(
        key.replace("_", " "),
        scale * quality.difference[key],
        None if low is None or high is None else (low, high),
        " %" if relative else "",
    )


def judge(measured: Measured, require: Requirements) -> list[Judged]:
    """Every requirement, met or missed."""
    found: list[Judged] = []
    if require.speedup is not None:
        found.append(_speedup(measured.speed, require.speedup))
    if require.megabytes is not None:
        found.append(_megabytes(measured.speed, require.megabytes))
    if require.cosine is not None:
        found += _cosines(measured.quality, require.cosine)
    if require.drop is not None:
        # The last that the original has a value of, too: the user's own where there is one.
        judged = [quality for quality in measured.quality if quality.difference]
        found.append(_drop(judged[-1], require.drop))
    return found


def missed(measured: Measured, require: Requirements) -> list[str]:
    """The requirements that a measurement did not reach, each as a sentence."""
    return [judged.sentence for judged in judge(measured, require) if not judged.met]


def _speedup(speed: Comparison, least: float) -> Judged:
    work, times = next(iter(speed.measures.items()))
    ratio = times.ratio
    shown = _apart(ratio.value, least, 2)
    return Judged(
        WORKS[work].speed.lower(),
        f"at least {least:.15g}x as fast",
        f"{shown}x",
        _ends(shown, [ratio.low, ratio.high]),
        ratio.value >= least,
        f"{'the model' if WORKS[work].alone else work} is {shown}x as fast as the original; "
        f"{least:.15g}x was required",
    )


def _megabytes(speed: Comparison, most: float) -> Judged:
    size = (speed.candidate.model_bytes or 0) / 1e6
    shown = _apart(size, most, 1)
    return Judged(
        "graph and data",
        f"at most {most:.15g} MB",
        f"{shown} MB",
        "",
        size <= most,
        f"the graph has {shown} MB; {most:.15g} were allowed",
    )


def _cosines(qualities: Sequence[Evaluation], least: float) -> Iterator[Judged]:
    for quality in qualities:
        cosine = quality.values.get("mean_cosine")
        if cosine is None:
            continue
        shown = _apart(cosine, least, 4)
        yield Judged(
            "mean cosine",
            f"at least {least:.15g}",
            shown,
            _ends(shown, (quality.interval or {}).get("mean_cosine")),
            cosine >= least,
            f"the mean cosine is {shown}; {least:.15g} was required",
        )


def _drop(quality: Evaluation, most: float) -> Judged:
    loss = loss_of(quality)
    shown = _apart(loss.value, most, 2)
    return Judged(
        f"{loss.of} lost",
        f"at most {most:.15g}{loss.unit}",
        f"{shown}{loss.unit}",
        _ends(shown, loss.interval),
        loss.value <= most,
        f"{quality.task} lost {shown} of {loss.of}; {most:.15g} were allowed",
    )


def _ends(shown: str, interval: Sequence[float] | None) -> str:
    """An interval with the decimals of its value, as that is shown; nothing without one."""
    digits = len(shown.partition(".")[2])
    return " to ".join(f"{end:.{digits}f}" for end in interval or ())


def _apart(value: float, limit: float, digits: int) -> str:
    """A number with `digits` decimals, or as many more as leave it on its side of a limit."""
    shown = (f"{value:.{count}f}" for count in range(digits, 16))
    side = (value > limit) - (value < limit)
    return next(
        (text for text in shown if (float(text) > limit) - (float(text) < limit) == side),
        repr(value),
    )
