"""The kinds of work that are timed, and what tables, pages and sentences call each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Work = Literal["encoder", "prompt", "decode"]
"""The names that records have."""


@dataclass(frozen=True)
class Words:
    """One kind of work in words."""

    call: str
    """One timed call, at the head of a row of times."""
    told: str
    """The same within a title."""
    row: str
    """The work, at the head of a row of a report."""
    latency: str
    """The gate's check of it."""
    speed: str
    """The heading of how much faster it became."""
    several: str
    """Before a ratio, where a line tells several."""
    unit: str
    """The unit that its rate counts, each second."""
    alone: bool = False
    """Whether its models do no other kind, so that it need not be named."""


WORKS: Mapping[Work, Words] = {
    "encoder": Words(
        call="one call",
        told="one call",
        row="latency",
        latency="latency",
        speed="Speed",
        several="",
        unit="texts",
        alone=True,
    ),
    "prompt": Words(
        call="first token",
        told="reading a prompt",
        row="prompt",
        latency="prompt latency",
        speed="Speed, prompt",
        several="prompts ",
        unit="tokens",
    ),
    "decode": Words(
        call="next token",
        told="a token of decoding",
        row="a token of decoding",
        latency="decode latency",
        speed="Speed, decoding",
        several="steps ",
        unit="tokens",
    ),
}
"""By the names that records have. A prompt's call ends with its first token; decoding needs a
cache."""
