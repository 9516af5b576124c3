"""A build's numbers, as rows of text for the terminal, the page and the card alike."""

from dataclasses import dataclass, replace
from typing import Literal

from edgeprune.base.words import (
    MEDIANS_APART,
    duration,
    known,
    listed,
    many,
    number,
    size,
)
from edgeprune.measure.bench.record import Times
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Evaluation
from edgeprune.measure.record import Batching
from edgeprune.measure.works import WORKS
from edgeprune.report.records import BuildRecord, Known, data_name, ratio

WORK = {name: words.row for name, words in WORKS.items()}
_SAME_SIZE = 1.01
Tone = Literal["", "better", "worse"]


@dataclass(frozen=True)
class Cell:
    """A figure, its 95 % interval where it has one, and whether it is a gain or a loss, where that
    is clear."""

    text: str = ""
    interval: str = ""
    tone: Tone = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what, the original's figure, the result's, the change."""

    what: str
    original: Cell
    result: Cell
    change: Cell = Cell()


def comparison(record: BuildRecord) -> list[Row]:
    """Original beside result: speed with intervals, bytes, memory, quality."""
    speed = record.speed
    result, original = speed.candidate, speed.baseline
    noisy = "; a noisy machine" if speed.noise and speed.noise.noisy else ""
    rows = []
    for work, found in speed.measures.items():
        name = WORK.get(work, work)
        sides = list(found.sides.values())
        change = faster(ratio(found.ratio))
        change = replace(change, interval=f"{change.interval}{noisy}")
        rows.append(
            Row(f"{name}, median", _median(found.baseline), _median(found.candidate), change)
        )
        rows.append(
            Row(f"{name}, slowest 5 % (p95)", *(Cell(f"{side.p95_ms:.2f} ms") for side in sides))
        )
        unit = WORKS[work].unit
        rates = [Cell(f"{getattr(side, f'{unit}_per_second'):,.0f}") for side in sides]
        of = "" if WORKS[work].alone else f"{name}, "
        rows.append(Row(f"{of}{unit} a second", *rates))
    for key, what in (("model_bytes", "graph and data"), ("peak_memory_bytes", "peak memory")):
        rows.append(_smaller(what, getattr(original, key), getattr(result, key)))
    for quality in record.quality:
        rows += _quality_rows(quality)
    if record.measured.batching:
        rows.append(_batching_row(record.measured.batching))
    return rows


def _batching_row(found: Batching) -> Row:
    """The change of a text's answer by the others of its batch."""
    what = f"a text alone and in a batch of {found.batch}"
    if found.mean_cosine is not None:
        figures = f"{found.mean_cosine:.4f}, at least {found.least_cosine:.4f}"
        return Row(f"{what}, mean cosine", Cell(), Cell(figures))
    figures = f"{found.mean_change:.4f}, at most {found.largest_change:.4f}"
    return Row(f"{what}, change of a label's probability", Cell(), Cell(figures))


def conditions(record: BuildRecord) -> str:
    """Under what the speed was measured, in sentences."""
    speed, settings = record.speed, record.speed.settings
    threads = many(settings.threads, "thread")
    text = (
        f"{settings.tokens} tokens, batch {settings.batch}, {threads}, default session "
        f"options, interleaved in one run on {speed.machine.processor}; ratios with 95 % "
        "intervals; the reference is the original's plain float32 ONNX."
    )
    if speed.seconds is not None:
        launches = many(settings.launches, "launch", "launches")
        text += f" Intervals hold for {launches} within {duration(speed.seconds)}."
    if speed.noise and speed.noise.noisy:
        text += f" A noisy machine: {listed(speed.noise.why)}."
    late = [WORK.get(work, work) for work, found in speed.measures.items() if not found.settled]
    apart = [
        f"{WORK.get(work, work)} {quotient:.2f}x"
        for work, found in speed.measures.items()
        if (quotient := found.medians_apart)
    ]
    if apart:
        text += f" The medians' own quotient is another ({listed(apart)}): {MEDIANS_APART}."
    if late:
        text += f" Of {listed(late)} the interval is wider than {settings.width:.0%} of the ratio."
    return text


def cell(found: Known, sign: str = "") -> Cell:
    """A value of quality."""
    return Cell(*known(found.value, found.low, found.high, sign))


def times(found: Known) -> Cell:
    """A ratio of speeds, under a head that says what it is."""
    return Cell(f"{found.value:.2f}x", _range(found.low, found.high, ".2f"), speed_tone(found))


def faster(found: Known) -> Cell:
    """A ratio of speeds in words: how many times faster, or how many times slower."""
    tone = speed_tone(found)
    if tone == "worse":
        slower = Known(1 / found.value, 1 / found.high, 1 / found.low)
        return Cell(f"{slower.value:.2f}x slower", times(slower).interval, tone)
    word = " faster" if tone == "better" else ", not clearly faster or slower"
    return Cell(f"{found.value:.2f}x{word}", times(found).interval, tone)


def speed_tone(found: Known) -> Tone:
    """Whether the whole interval of a ratio of speeds is faster, or slower, as it is shown."""
    low, high = round(found.low, 2), round(found.high, 2)
    return "better" if low > 1 else "worse" if high < 1 else ""


def smaller(original: float, result: float) -> Cell:
    """The factor by which bytes shrank, or grew."""
    factor = max(original, result) / min(original, result)
    if factor < _SAME_SIZE:
        return Cell("as large")
    shown = f"{factor:.1f}" if factor >= 1.05 else f"{factor:.2f}"
    return (
        Cell(f"{shown}x smaller", tone="better")
        if result < original
        else Cell(f"{shown}x larger", tone="worse")
    )


def changed(key: str, found: Known) -> Cell:
    """The difference of a quality to the original's, in words where its whole interval is on one
    side of zero."""
    shown = cell(found, "+")
    if found.low <= 0 <= found.high:
        return shown
    tone: Tone = "better" if (found.value > 0) != (key in LOWER_IS_BETTER) else "worse"
    return Cell(f"{shown.text}, {tone}", shown.interval, tone)


def _median(side: Times) -> Cell:
    found = f"{side.median_ms:.2f} ms"
    if side.interval_ms is None:
        return Cell(found)
    low, high = side.interval_ms
    return Cell(found, _range(low, high, ".2f"))


def _smaller(what: str, original: float, result: float) -> Row:
    return Row(what, Cell(size(original)), Cell(size(result)), smaller(original, result))


def _quality_rows(quality: Evaluation) -> list[Row]:
    rows = []
    data = data_name(quality.data)
    for key, value in quality.values.items():
        name = f"{key.replace('_', ' ')} ({data})"
        own = cell(Known.of(value, (quality.interval or {}).get(key)))
        if quality.original:
            change = (quality.difference_interval or {}).get(key)
            difference = changed(key, Known.of(value - quality.original[key], change))
            before = Cell(number(quality.original[key]))
            rows.append(Row(name, before, Cell(number(value)), difference))
        else:
            rows.append(Row(f"{name}, to the original", Cell(), own))
    return rows


def _range(low: float, high: float, form: str) -> str:
    return f"{low:{form}} to {high:{form}}"
