"""The plan: which format every linear and embedding gets, before any value is computed.

Quantizing fills the plan with values, rewriting lowers it to the runtime's operators; neither
decides a format.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.kernels.formats import FORMATS, MOST_MULTIPLIER
from edgeprune.model.anatomy import Anatomy
from edgeprune.targets.break_even import Choice

Format = Literal[
    "float32",
    "int8",
    "int8-token",
    "int8-rows",
    "int4",
    "int8-groups",
    "sparse-4x16",
    "sparse-4x1",
    "sparse-4x16-token",
    "sparse-4x1-token",
    "quant-int8",
    "quant-int4",
]
"""float32: as it is. int8: symmetric weights per output channel, unsigned activations with one
scale per tensor, dynamic but where the entry has one. int8-token: the same weights, activations
with a scale per token. int8-rows: an embedding with a scale per row. int4, int8-groups: a scale
per group of a row's columns, the activations as the runtime's MatMulNBits has them. sparse-KxN: the
weights of int8, of which only blocks of K inputs by N outputs are stored, activations with one
dynamic scale per tensor; -token as above. quant-int8: as int8-token, by the operator library;
quant-int4: with its activations, and weights in groups of a row's columns whose scales are whole
multiples of one."""
SPARSE: dict[Format, str] = {
    "sparse-4x16": "int8-4x16",
    "sparse-4x1": "int8-4x1",
    "sparse-4x16-token": "int8-4x16",
    "sparse-4x1-token": "int8-4x1",
}
"""Formats of the operator library's, by their names in kernels/formats.py."""

GROUPED: tuple[Format, ...] = ("int4", "int8-groups")
QUANT: dict[Format, Format] = {"int8-token": "quant-int8", "int4": "quant-int4"}
"""Formats of the runtime's products -> those that the operator library has for them."""
# The second table of a two-row embedding would save nothing and cost an operator.
_FEWEST_ROWS = 64


PRODUCTS = {
    **dict.fromkeys(("query", "key", "value"), "attention"),
    **dict.fromkeys(("gate", "up"), "gated"),
}
"""The roles of a layer's linears that the operator library multiplies as one product, if they have
one format, by the product's name."""


@dataclass(frozen=True)
class Entry:
    """The plan for one linear or embedding."""

    name: str
    role: str
    shape: tuple[int, int]
    format: Format
    tied_to: str | None = None
    """The embedding whose codes this head shares."""
    bits: int = 32
    """Bits of a stored weight; INT8 has 7 where the processor's products would saturate."""
    group: int | None = None
    """Columns that share a scale; None: the whole row."""
    symmetric: bool = True
    """Groups have no zero points of their own."""
    input_scale: float | None = None
    """Scale of the activations' unsigned codes, where it is fixed by calibration."""
    input_zero_point: int | None = None
    """Their zero point."""
    unpacked: bool = False
    """A head reads the table that it shares unpacked, so that memory holds it once."""
    sparsity: float | None = None
    """Share of its blocks that a sparse format leaves out."""
    predicted_us: float | None = None
    """Microseconds by the target's break-even table; None where that is unmeasured."""
    dense_us: float | None = None
    """The same for dense INT8."""

    @property
    def scheme(self) -> Scheme:
        """The integers that the weights become."""
        multiples = MOST_MULTIPLIER if self.format == "quant-int4" else None
        return Scheme(self.bits, self.group, self.symmetric, multiples)

    @property
    def bytes(self) -> int:
        """Size of the packed values; 0 where they are another tensor's."""
        if self.tied_to is not None:
            return 0
        rows, columns = self.shape
        if self.format == "float32":
            return 4 * rows * columns
        if self.sparsity is not None:
            # A scale for each row, as dense INT8 has.
            return FORMATS[SPARSE[self.format]].bytes(columns, rows, self.sparsity) + 4 * rows
        return self.scheme.bytes(rows, columns)


@dataclass(frozen=True)
class Plan:
    """Every linear and embedding of a model with its format, in the model's order."""

    entries: tuple[Entry, ...]

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
        return {"entries": [asdict(entry) for entry in self.entries]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Read what `to_json` wrote."""
        entries = [Entry(**{**e, "shape": tuple(e["shape"])}) for e in data["entries"]]
        return cls(tuple(entries))


def plan_formats(
    anatomy: Anatomy,
    settings: QuantizeSettings,
    bits: int = 8,
    overrides: Mapping[str, Format] | None = None,
    sparse: Mapping[str, Choice] | None = None,
) -> Plan:
    """Give every linear and embedding its format.

    Args:
        bits: bits of an INT8 weight, by the target: 8, or 7 where products would saturate.
        overrides: linears that get another format than the settings': by the choice of mixed
            precision, or where calibration found that INT8 needs a scale per token or none.
        sparse: linears that are faster in a sparse format (sparse.py) than in INT8.
    """
    overrides, sparse = overrides or {}, sparse or {}
    word = anatomy.embeddings.get("word")
    rows = settings.embeddings and settings.weights != "none"
    tied = word if anatomy.tied_embeddings and rows else None

    def entry(name: str, role: str, kind: Format, tied_to: str | None = None) -> Entry:
        plain = Entry(name, role, anatomy.shape(name), kind, tied_to, bits)
        return in_format(plain, kind, settings.group, settings.symmetric)

    entries = []
    for role, name in anatomy.embeddings.items():
        wanted = rows and anatomy.shape(name)[0] >= _FEWEST_ROWS
        entries.append(entry(name, role, "int8-rows" if wanted else "float32"))
    for name, role in anatomy.linears().items():
        kind = _linear_format(anatomy, settings, role, shares=tied is not None)
        if kind == "int8":
            kind = overrides.get(name, kind)
        if settings.operators and kind == "int8":
            kind = "int8-token"
        shared = tied if name == anatomy.head and kind != "float32" else None
        made = entry(name, role, kind, shared)
        if shared is not None:
            made = replace(made, unpacked=settings.unpacked_head)
        if name in sparse:
            made = _as_sparse(made, sparse[name])
        if settings.operators and made.format in QUANT:
            made = in_format(made, QUANT[made.format], settings.group, settings.symmetric)
        entries.append(made)
    return Plan(tuple(entries))


def in_format(entry: Entry, kind: Format, group: int, symmetric: bool) -> Entry:
    """An entry in another format; `group` and `symmetric` are for the formats with groups."""
    if kind in GROUPED or kind == "quant-int4":
        width = 8 if kind == "int8-groups" else 4
        return replace(entry, format=kind, bits=width, group=group, symmetric=symmetric)
    if kind == "quant-int8":  # its products are exact on every processor
        return replace(entry, format=kind, bits=8)
    return replace(entry, format=kind, bits=32 if kind == "float32" else entry.bits)


def _as_sparse(entry: Entry, choice: Choice) -> Entry:
    """The entry in the sparse format chosen for it, if it is planned in INT8 of its own."""
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


def _linear_format(anatomy: Anatomy, settings: QuantizeSettings, role: str, shares: bool) -> Format:
    """The format that the settings ask for, before calibration has its say."""
    if settings.weights == "none" or (role == "head" and not settings.head):
        return "float32"
    if settings.weights == "mixed":
        return "int8"  # mixed precision then says which become INT4
    if role == "head" and (shares or not anatomy.causal):
        return "int8"  # the embedding's own rows, or the few of a classifier
    return settings.weights
