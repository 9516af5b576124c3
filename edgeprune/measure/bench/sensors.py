"""Clock, temperature and throttling of the processor, where the system tells them."""

from dataclasses import dataclass
from pathlib import Path

import psutil

_CHIPS = ("cpu_thermal", "coretemp", "k10temp", "soc_thermal", "cpu-thermal")
"""psutil's names of the sensors in processors: of Raspberry Pi and other boards, Intel and AMD."""
_FIRMWARE = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "too warm"}
"""Bits of a Raspberry Pi's state (documentation of vcgencmd get_throttled)."""


@dataclass(frozen=True)
class Reading:
    """The processor's state at one moment; None where the system does not tell."""

    megahertz: float | None
    celsius: float | None
    throttled: tuple[str, ...] | None
    """Why it is held back; nothing where it is not."""


def read_sensors() -> Reading:
    """The state now."""
    return Reading(_megahertz(), _celsius(), _throttled())


def _megahertz() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (AttributeError, OSError, NotImplementedError, RuntimeError):
        return None
    return float(found.current) if found and found.current > 0 else None


def _celsius() -> float | None:
    """The warmest of the processor's sensors."""
    try:
        chips = psutil.sensors_temperatures()
    except (AttributeError, OSError, RuntimeError):  # of Linux and FreeBSD alone
        return None
    known = [each.current for chip in _CHIPS for each in chips.get(chip, ())]
    return max(known, default=None)


def _throttled() -> tuple[str, ...] | None:
    try:
        state = int(_FIRMWARE.read_text().strip(), 16)
    except (OSError, ValueError):
        return None
    return tuple(reason for bit, reason in _NOW.items() if state >> bit & 1)
