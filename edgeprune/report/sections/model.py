"""Sections on what was built: stages, layers, the bits of every tensor, passes over the graph."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgeprune.base.words import many
from edgeprune.compress.quantize.plan import Plan
from edgeprune.report.pictures.layers import kept_sizes
from edgeprune.report.pictures.tensors import format_grid, places
from edgeprune.report.records import BuildRecord
from edgeprune.report.sections.part import Section, Table
from edgeprune.report.story import told

_TENSOR = "tensor-"
"""Of the names of tensors' rows, for links."""


def stages(record: BuildRecord) -> Section:
    """The work and the time of every stage, and the memory that the build had needed by then."""
    head = ("stage", "what it did", "seconds", "peak MB")
    listed = [
        [row["name"], row["did"], f"{row['seconds']:,.1f}", f"{row['megabytes']:,}"]
        for row in told(record)
    ]
    table = Table(head, listed, words=frozenset({0, 1}))
    return Section("stages", "What was built", tables=[table])


def layers(record: BuildRecord) -> Section:
    """Heads and channels of every layer, before and after the cut."""
    title = "What each layer kept"
    cut, load = record.stage("cut") or record.stage("shape"), record.stage("load")
    if not cut:
        return Section("layers", title)
    left = cut.get("layers", list(range(len(cut["heads"]))))
    notes = [] if "heads" in load else ["The original's sizes: not recorded by this build."]
    if gone := len(load.get("heads", left)) - len(left):
        notes.append(f"{many(gone, 'whole layer')} dropped.")
    # Experts have feed-forwards of their own, several a layer.
    kinds = [what for what in ("heads", "channels") if len(cut[what]) == len(left)]
    pictures = [
        kept_sizes(f"layers-{what}", what, cut[what], load.get(what), left) for what in kinds
    ]
    listed = [
        [str(layer), *(f"{cut[what][place]:,}" for what in kinds)]
        for place, layer in enumerate(left)
    ]
    table = Table(("layer", *kinds), listed, folded="The same in numbers")
    return Section("layers", title, pictures, [table], " ".join(notes))


def formats(record: BuildRecord) -> Section:
    """The planned format of every tensor, and what each takes."""
    title = "How each part is stored"
    did = record.stage("quantize")
    if not did:
        return Section("formats", title)
    entries = [_entry(raw, did["plan"]) for raw in did["plan"]["entries"]]
    where = places(
        {entry["name"]: entry["role"] for entry in entries}, [entry["name"] for entry in entries]
    )
    kinds = {entry["name"]: _format_words(entry) for entry in entries}
    inside = {linear: kind for linear, kind in kinds.items() if linear in where}
    pictures = []
    if inside:
        pictures.append(format_grid("formats-grid", "format of every linear", inside, where))
    summary = _summary(entries, kinds)
    every = _every(entries, did.get("errors", {}))
    return Section("formats", title, pictures, [summary, every], link=_worst(entries, did))


def passes(record: BuildRecord) -> Section:
    """The changes by each pass over the graph, and its drift."""
    head = ("pass", "kept", "changed", "nodes", "drift of allowed")
    listed = [
        [
            row["name"],
            "yes" if row["kept"] else row["reason"],
            f"{row['changed']:,}",
            f"{row['nodes']:,}",
            f"{row['drift']:.2g} of {row['tolerance']:.2g}",
        ]
        for row in record.stage("rewrite").get("passes", [])
    ]
    table = Table(head, listed, words=frozenset({0, 1}))
    text = "Each was compared with the graph before it, on real text."
    return Section("passes", "Changes to the graph", tables=[table], text=text)


def _summary(entries: Sequence[dict[str, Any]], kinds: dict[str, str]) -> Table:
    """A row for each format."""
    listed = []
    for kind, count in Counter(kinds.values()).most_common():
        some = [entry for entry in entries if kinds[entry["name"]] == kind]
        weights = sum(entry["shape"][0] * entry["shape"][1] for entry in some)
        listed.append([kind, str(count), f"{weights:,}", _megabytes(some)])
    return Table(("format", "tensors", "weights", "MB, packed"), listed)


def _every(entries: Sequence[dict[str, Any]], errors: dict[str, Any]) -> Table:
    """A row for each tensor."""
    head = ("tensor", "shape", "format", "bits", "MB", "error")
    listed = [
        [
            entry["name"],
            f"{entry['shape'][0]:,} x {entry['shape'][1]:,}",
            entry["format"],
            str(entry["bits"]),
            _megabytes([entry], 3),
            f"{errors[entry['name']]['relative']:.2%}" if entry["name"] in errors else "–",
        ]
        for entry in entries
    ]
    title = f"All {many(len(entries), 'tensor')}, packed, with the relative error of rounding"
    anchors = [f"{_TENSOR}{place}" for place in range(len(entries))]
    return Table(head, listed, folded=title, words=frozenset({0, 2}), anchors=anchors)


def _worst(entries: Sequence[dict[str, Any]], did: dict[str, Any]) -> tuple[str, str] | None:
    """The tensor that rounding changed most, and its row."""
    errors = {name: each["relative"] for name, each in did.get("errors", {}).items()}
    known = [entry["name"] for entry in entries if errors.get(entry["name"])]
    if not known:
        return None
    name = max(known, key=lambda each: errors[each])
    place = next(place for place, entry in enumerate(entries) if entry["name"] == name)
    said = f"Rounding changed {name} most: by {errors[name]:.2%} of its weights' size"
    return said, f"{_TENSOR}{place}"


def _entry(raw: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """A planned tensor with its bits and, where the plan says enough, its bytes."""
    if "bits" not in raw:  # earlier plans had one number for all
        bits = 32 if raw["format"] == "float32" else plan.get("bits", "?")
        return {**raw, "bits": bits, "bytes": None}
    [entry] = Plan.from_json({"entries": [raw]})
    return {**raw, "bytes": entry.bytes}


def _format_words(entry: dict[str, Any]) -> str:
    words = entry["format"]
    if entry.get("group"):
        words += f" in {entry['group']}s"
    if entry.get("sparsity") is not None:
        words += " blocks"
    return words


def _megabytes(entries: Sequence[dict[str, Any]], digits: int = 2) -> str:
    if any(entry["bytes"] is None for entry in entries):
        return "not recorded"
    return f"{sum(entry['bytes'] for entry in entries) / 1e6:.{digits}f}"
