"""One record per kind of processor: the right choices there, each measured or marked unmeasured.

An unmeasured entry is the conservative choice. Every entry is used by the code.
"""

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeprune.base import processor
from edgeprune.base.errors import UserError
from edgeprune.targets.break_even import FOLDER as SPARSE_TIMES
from edgeprune.targets.break_even import BreakEven, break_even
from edgeprune.targets.format_times import FOLDER as DENSE_TIMES
from edgeprune.targets.format_times import FormatTimes, format_times
from edgeprune.targets.table import own_table

TABLES = (SPARSE_TIMES, DENSE_TIMES)
"""The folders of the tables that ship."""


@dataclass(frozen=True)
class Target:
    """The right choices on one kind of processor."""

    name: str
    architecture: str
    """x86 or arm."""
    flags: tuple[str, ...]
    """Instruction sets that the processor must report."""
    weight_bits: int
    """Bits of an INT8 weight: 7 where two products of 8 bits are summed in 16 (saturation)."""
    decode_weights: Literal["int8", "int4"]
    """Format of the linears in which a decoder generates fastest."""
    skip_layer_norm_harmful: bool
    """Whether a residual must be hidden from SkipLayerNormalization."""
    hub: str
    """The end of the names that files for it have on the hub, as model_qint8_arm64.onnx."""
    evidence: dict[str, str] = field(default_factory=dict)
    """Entry -> the measurement behind it, or "unmeasured"."""

    @property
    def vnni(self) -> bool:
        """Whether products of bytes are summed in 32 bits, as VNNI does."""
        return any("vnni" in flag for flag in self.flags)

    @property
    def break_even(self) -> BreakEven:
        """The sparsity from which a sparse linear pays, by shape and rows."""
        return break_even(self.name)

    @property
    def format_times(self) -> FormatTimes:
        """Times of a dense linear in each format, by shape and rows."""
        return format_times(self.name)

    @property
    def own_tables(self) -> list[Path]:
        """The files of its tables that were measured on this machine, where it is one."""
        files = (own_table(folder, self.name) for folder in TABLES)
        return [file for file in files if file]

    def to_json(self) -> dict[str, Any]:
        """The record as plain data, for the manifest."""
        return {
            "name": self.name,
            "weight_bits": self.weight_bits,
            "decode_weights": self.decode_weights,
            "skip_layer_norm_harmful": self.skip_layer_norm_harmful,
            "evidence": {
                **self.evidence,
                "break_even": self.break_even.evidence,
                "format_times": self.format_times.evidence,
            },
        }


# Measurements under QEMU are of arithmetic or of instruction counts, never times. A norm with its
# addition has 128 x 384 values.
_EITHER_WAY = "0.83 M instructions, 0.83 M with an addition: no harm either way (QEMU, {})"

# In order of preference: the first whose flags are all reported is taken.
TARGETS: tuple[Target, ...] = (
    Target(
        "x86-avx512-vnni",
        "x86",
        ("avx512f", "avx512_vnni"),
        weight_bits=8,
        decode_weights="int4",
        skip_layer_norm_harmful=True,
        hub="avx512_vnni",
        evidence={
            "weight_bits": "no saturation: outputs equal exact integer sums (Zen 4 and Zen 5)",
            "decode_weights": "SmolLM2 decodes in int8 0.7 times as fast (a busy Zen 5)",
            "skip_layer_norm_harmful": "263 us against 34 us and an addition (Zen 4, 128 x 384)",
        },
    ),
    Target(
        "x86-avx-vnni",
        "x86",
        ("avx2", "avx_vnni"),
        weight_bits=8,
        decode_weights="int8",
        skip_layer_norm_harmful=True,
        hub="avx_vnni",
        evidence={
            "weight_bits": "unmeasured; VNNI sums in 32 bits by its definition",
            "decode_weights": "unmeasured",
            "skip_layer_norm_harmful": "unmeasured",
        },
    ),
    Target(
        "x86-avx2",
        "x86",
        ("avx2",),
        weight_bits=7,
        decode_weights="int8",
        skip_layer_norm_harmful=True,
        hub="avx2",
        evidence={
            "weight_bits": "8 bits saturate, 7 are exact (QEMU, Haswell)",
            "decode_weights": "unmeasured",
            "skip_layer_norm_harmful": (
                "1.04 M instructions against 0.33 M with an addition (QEMU, Haswell)"
            ),
        },
    ),
    Target(
        "arm-i8mm",
        "arm",
        ("i8mm",),
        weight_bits=8,
        decode_weights="int8",
        skip_layer_norm_harmful=True,
        hub="arm64",
        evidence={
            "weight_bits": "8 bits are exact (QEMU, max without SME)",
            "decode_weights": "unmeasured",
            "skip_layer_norm_harmful": _EITHER_WAY.format("max without SME"),
        },
    ),
    Target(
        "arm-dotprod",
        "arm",
        ("asimddp",),
        weight_bits=8,
        decode_weights="int8",
        skip_layer_norm_harmful=True,
        hub="arm64",
        evidence={
            "weight_bits": "8 bits are exact (QEMU, Neoverse N1)",
            "decode_weights": "unmeasured",
            "skip_layer_norm_harmful": _EITHER_WAY.format("Neoverse N1"),
        },
    ),
    Target(
        "arm",
        "arm",
        (),
        weight_bits=8,
        decode_weights="int8",
        skip_layer_norm_harmful=True,
        hub="arm64",
        evidence={
            "weight_bits": "8 bits are exact (QEMU, Cortex-A72)",
            "decode_weights": (
                "a row by 576 x 1536 takes 0.41 M instructions in int8, 2.5 M in int4 (QEMU, "
                "Cortex-A72)"
            ),
            "skip_layer_norm_harmful": _EITHER_WAY.format("Cortex-A72"),
        },
    ),
    Target(
        "x86",
        "x86",
        (),
        weight_bits=8,
        decode_weights="int8",
        skip_layer_norm_harmful=True,
        hub="x86",
        evidence={
            "weight_bits": "8 bits are exact (QEMU, Nehalem)",
            "decode_weights": (
                "a row by 576 x 1536 takes 2.0 M instructions in int8, 30.1 M in int4 (QEMU, "
                "Nehalem)"
            ),
            "skip_layer_norm_harmful": (
                "1.04 M instructions, 1.05 M with an addition: no harm either way (QEMU, Nehalem)"
            ),
        },
    ),
)

ALIASES = {"pi3": "arm", "pi4": "arm", "pi5": "arm-dotprod", "arm64": "arm"}
"""Other names of targets: of boards by their processor, and of all of ARM by what any runs."""
_X86 = {"x86_64", "amd64", "i386", "i686"}
# Newer kernels write some flags without the underscore.
_SPELLINGS = {"avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni"}


NAMES = (*(target.name for target in TARGETS), *ALIASES)
"""The names by which a target can be asked for."""


def find(name: str) -> Target:
    """A target by its name or an alias, or this machine's for "auto".

    Raises:
        UserError: no target has that name.
    """
    if name == "auto":
        return detect()
    for target in TARGETS:
        if target.name == ALIASES.get(name, name):
            return target
    raise UserError(f"There is no target {name!r}; known are auto, {', '.join(NAMES)}.")


def detect() -> Target:
    """This machine's target, by the flags that its processor reports."""
    return choose(platform.machine(), sorted(processor.flags()))


def choose(machine: str, flags: list[str]) -> Target:
    """The first target whose architecture and flags a processor has."""
    reported = {_SPELLINGS.get(flag, flag) for flag in flags}
    architecture = "x86" if machine.lower() in _X86 else "arm"
    return next(
        target
        for target in TARGETS
        if target.architecture == architecture and reported.issuperset(target.flags)
    )
