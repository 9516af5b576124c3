"""The variants of a bundle, and which of them this processor runs fastest.

A bundle holds one graph of a model, or several in other formats or for other processors; its
manifest tells of each what decides where it is right and how fast it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from edgeprune.base import processor
from edgeprune.base.releases import release
from edgeprune.targets import Target, detect
from edgeprune.targets.format_times import FormatTimes

_ROWS = {"decode": 1}
_PROMPT_ROWS = 128
"""Rows of a linear's input by the kind of work; of any other kind than these."""


@dataclass(frozen=True)
class Variant:
    """One graph of a bundle, as its manifest has it."""

    name: str = ""
    """Empty for the only graph of a folder whose manifest names none."""
    file: str = ""
    """Its path in the bundle."""
    hub: str | None = None
    """The processors that it was made for, as names of files on the hub have them."""
    minimum_onnxruntime: str | None = None
    bytes: int = 0
    """Of its graph and data."""
    int8_bits: int | None = None
    """The most bits of a weight in an INT8 product; None where it has no such product."""
    linears: tuple[tuple[str, int, int, int], ...] = ()
    """(format, inputs, outputs, count), formats by the names of format_times.py."""
    processor: str | None = None
    """The one that it was measured on."""
    ratios: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Its speed there as a multiple of the original's, by the kind of work: both ends of the 95 %
    interval."""
    stages: Sequence[Mapping[str, Any]] | None = None
    """The records of the stages that it has of its own; None: those at the manifest's head."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Variant":
        """Read a manifest's entry.

        Raises:
            ValueError, TypeError, KeyError: it is damaged.
        """
        measured = entry.get("measured") or {}
        bits = entry.get("int8_bits")
        return cls(
            name=_text(entry["name"]),
            file=_text(entry["file"]),
            hub=entry.get("hub"),
            minimum_onnxruntime=_text(entry["minimum_onnxruntime"]),
            bytes=_count(entry["bytes"]),
            int8_bits=None if bits is None else _count(bits),
            linears=tuple(
                (str(form), _count(inputs), _count(outputs), _count(count))
                for form, inputs, outputs, count in entry.get("linears", ())
            ),
            processor=measured.get("processor"),
            ratios={
                work: (float(low), float(high))
                for work, (low, high) in measured.get("ratios", {}).items()
            },
            stages=entry.get("stages"),
        )

    @property
    def weights(self) -> str:
        """The format of most of its linears' weights: int8, int4 or float32."""
        sizes = {"float32": 0}
        for form, inputs, outputs, count in self.linears:
            kind = form.partition("-")[0]
            sizes[kind] = sizes.get(kind, 0) + inputs * outputs * count
        return max(sizes, key=lambda kind: sizes[kind])

    def right_on(self, here: Target) -> bool:
        """Whether no INT8 product saturates there."""
        return self.int8_bits is None or self.int8_bits <= here.weight_bits

    def speed(self, processor_name: str | None, works: Sequence[str]) -> tuple[float, float] | None:
        """Both ends of its speed as a multiple of the original's, over all works; None where it was
        not measured on that processor."""
        known = processor_name is not None and processor_name == self.processor
        if not known or any(work not in self.ratios for work in works):
            return None
        low, high = (_mean([self.ratios[work][end] for work in works]) for end in (0, 1))
        return low, high

    def predicted(self, times: FormatTimes, works: Sequence[str]) -> float | None:
        """Microseconds of its linears by a target's table, over all works; None where the table
        lacks one of them."""
        sums = []
        for work in works:
            rows = _ROWS.get(work, _PROMPT_ROWS)
            found = [
                (times.microseconds(form, inputs, outputs, rows), count)
                for form, inputs, outputs, count in self.linears
            ]
            sums.append(sum(count * time for time, count in found if time is not None))
            if not found or any(time is None for time, _ in found):
                return None
        return _mean(sums)


def fastest(
    variants: Sequence[Variant], works: Sequence[str], here: Target, processor_name: str | None
) -> Variant:
    """The variant that a processor runs fastest, of those that are right there.

    What was measured on that very processor leaves those that are not clearly slower than another;
    of these the target's table predicts the fastest, or else formats count by the target's record,
    and of a format the graph made for that processor.

    Args:
        works: kinds of work that the model does; see edgeprune/measure/works.py.
        here: the processor's target.
        processor_name: its name, as benchmarks record it.
    """
    right = [each for each in variants if each.right_on(here)] or list(variants[:1])
    order = _order(works, here)
    speeds = [(each, each.speed(processor_name, works)) for each in right]
    measured = [(each, speed) for each, speed in speeds if speed is not None]
    least = max((low for _, (low, _) in measured), default=0.0)
    left = [each for each, (_, high) in measured if high >= least] or right

    def rank(variant: Variant) -> tuple[int, float, bool]:
        apart = variant.hub != here.hub
        if (time := variant.predicted(here.format_times, works)) is not None:
            return 0, time, apart
        return 1, order.index(variant.weights), apart

    return min(left, key=rank)


def fastest_here(variants: Sequence[Variant], works: Sequence[str]) -> Variant:
    """The variant that this machine's processor runs fastest; asking for that takes a second."""
    if len(variants) == 1:
        return variants[0]
    import onnxruntime

    opening = [each for each in variants if not older(onnxruntime.__version__, each)]
    name = processor.processor().get("brand_raw")
    return fastest(opening or variants, works, detect(), name)


def older(installed: str, variant: Variant) -> bool:
    """Whether an ONNX Runtime is older than the oldest that opens a variant."""
    needed = variant.minimum_onnxruntime
    return needed is not None and release(installed) < release(needed)


def _order(works: Sequence[str], here: Target) -> list[str]:
    """Formats of weights, the fastest first, by a target's record."""
    first = here.decode_weights if "decode" in works else "int8"
    return [first, *(kind for kind in ("int8", "int4") if kind != first), "float32"]


def _mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return prod(values) ** (1 / len(values))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
