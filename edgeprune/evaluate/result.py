"""What a quality measure returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quality:
    """Measured values by name, and what they were measured on."""

    values: dict[str, float]
    conditions: dict[str, int]
