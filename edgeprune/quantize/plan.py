"""The plan: which format every linear and embedding gets, before any value is computed.

Quantizing fills the plan with values, rewriting lowers it to the runtime's operators; neither
decides a format.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgeprune.anatomy import Anatomy
from edgeprune.quantize.settings import QuantizeSettings
from edgeprune.targets.break_even import Choice

Format = Literal[
    "float32",
    "int8",
    "int8-token",
    "int8-rows",
    "sparse-4x16",
    "sparse-4x1",
    "sparse-4x16-token",
    "sparse-4x1-token",
]
"""float32: as it is. int8: symmetric weights per output channel, unsigned activations with one
dynamic scale per tensor. int8-token: the same weights, activations with a scale per token.
int8-rows: an embedding with a scale per row. sparse-KxN: the weights of int8, of which only blocks
of K inputs by N outputs are stored; -token as above."""
SPARSE: dict[Format, str] = {
    "sparse-4x16": "int8-4x16",
    "sparse-4x1": "int8-4x1",
    "sparse-4x16-token": "int8-4x16",
    "sparse-4x1-token": "int8-4x1",
}
"""Formats of the operator library's, by their names in kernels/formats.py."""

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
    sparsity: float | None = None
    """Share of its blocks that a sparse format leaves out."""
    predicted_us: float | None = None
    """Microseconds by the target's break-even table; None where that is unmeasured."""
    dense_us: float | None = None
    """The same for dense INT8."""


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
    sparse: Mapping[str, Choice] | None = None,
) -> Plan:
    """Give every linear and embedding its format.

    Args:
        bits: bits of a stored weight, by the target.
        overrides: linears that calibration found to need another format than INT8.
        sparse: linears that are faster in a sparse format (sparse.py).
    """
    overrides, sparse = overrides or {}, sparse or {}
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
        entry = Entry(name, role, anatomy.shape(name), kind, shared)
        entries.append(_as_sparse(entry, sparse[name]) if name in sparse else entry)
    return Plan(tuple(entries), bits)


def _as_sparse(entry: Entry, choice: Choice) -> Entry:
    """The entry in the sparse format chosen for it, if its activations are INT8."""
    if entry.format not in ("int8", "int8-token") or entry.tied_to is not None:
        return entry
    token = entry.format == "int8-token"
    [kind] = [
        kind
        for kind, form in SPARSE.items()
        if form == choice.format and kind.endswith("-token") == token
    ]
    return replace(
        entry,
        format=kind,
        sparsity=choice.sparsity,
        predicted_us=choice.microseconds,
        dense_us=choice.dense_microseconds,
    )
