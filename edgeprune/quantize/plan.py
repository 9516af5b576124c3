"""The plan: which format every linear and embedding gets, before any value is computed.

Quantizing fills the plan with values, rewriting lowers it to the runtime's operators; neither
decides a format.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgeprune.anatomy import Anatomy
from edgeprune.quantize.settings import QuantizeSettings

Format = Literal["float32", "int8", "int8-token", "int8-rows"]
"""float32: as it is. int8: symmetric weights per output channel, unsigned activations with one
dynamic scale per tensor. int8-token: the same weights, activations with a scale per token.
int8-rows: an embedding with a scale per row."""

# The second table of a two-row embedding would save nothing and cost an operator.
_FEWEST_ROWS = 64


@dataclass(frozen=True)
class Entry:
    """What is planned for one linear or embedding."""

    name: str
    role: str
    shape: tuple[int, int]
    format: Format
    tied_to: str | None = None
    """The embedding whose codes this head shares."""


@dataclass(frozen=True)
class Plan:
    """Every linear and embedding of a model with its format, in the model's order."""

    entries: tuple[Entry, ...]
    bits: int
    """Bits of a stored weight: 8, or 7 where the processor's products would saturate."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> Entry:
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def quantized(self) -> list[Entry]:
        """The entries that do not stay float32."""
        return [entry for entry in self.entries if entry.format != "float32"]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, for the manifest."""
        return {"bits": self.bits, "entries": [asdict(entry) for entry in self.entries]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Read what `to_json` wrote."""
        entries = [Entry(**{**e, "shape": tuple(e["shape"])}) for e in data["entries"]]
        return cls(tuple(entries), data["bits"])


def plan_formats(
    anatomy: Anatomy,
    settings: QuantizeSettings,
    bits: int = 8,
    overrides: dict[str, Format] | None = None,
) -> Plan:
    """Give every linear and embedding its format.

    Args:
        bits: bits of a stored weight, by the target.
        overrides: linears that calibration found to need another format than INT8.
    """
    overrides = overrides or {}
    word = anatomy.embeddings.get("word")
    rows = settings.embeddings and settings.weights == "int8"
    tied = word if anatomy.tied_embeddings and rows else None
    entries = []
    for role, name in anatomy.embeddings.items():
        shape = anatomy.shape(name)
        wanted = rows and shape[0] >= _FEWEST_ROWS
        entries.append(Entry(name, role, shape, "int8-rows" if wanted else "float32"))
    for name, role in anatomy.linears().items():
        wanted = settings.weights == "int8" and (role != "head" or settings.head)
        kind: Format = overrides.get(name, "int8") if wanted else "float32"
        shared = tied if name == anatomy.head and kind != "float32" else None
        entries.append(Entry(name, role, anatomy.shape(name), kind, shared))
    return Plan(tuple(entries), bits)
