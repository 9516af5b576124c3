"""Sections on the cost of rounding, of pruning, and of leaving whole layers out, by place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.report.pictures.bars import bars
from edgeprune.report.pictures.tensors import heat_grid, places
from edgeprune.report.records import BuildRecord
from edgeprune.report.sections.part import Section, Table


def sensitivity(record: BuildRecord) -> Section:
    """The cost of rounding, pruning and dropping each part of the model, where a stage measured
    it."""
    did = record.stage("quantize")
    roles = {entry["name"]: entry["role"] for entry in did.get("plan", {}).get("entries", [])}
    parts = [_costs(record, roles), _errors(did, roles)]
    parts += [_pruned(record, stage, roles) for stage in ("prune", "sparsify")]
    pictures = [picture for part in parts for picture in part.pictures]
    tables = [table for part in parts for table in part.tables]
    if scores := record.stage("cut").get("layer_scores"):
        values = {f"layer {place}": score for place, score in enumerate(scores)}
        pictures.append(bars("layer-scores", "what leaving a layer out costs", values, ".3g"))
    if massive := did.get("massive_activations"):
        listed = [[linear, f"{factor:,.0f}"] for linear, factor in massive.items()]
        head = ("massive activations in", "largest over root mean square")
        tables.append(Table(head, listed, folded=f"Massive activations in {len(massive)} linears"))
    text = " ".join(part.text for part in parts if part.text)
    return Section("sensitivity", "Which parts lose most", pictures, tables, text)


@dataclass(frozen=True)
class _Part:
    """The pictures, tables and text on one stage."""

    pictures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    text: str = ""


def _costs(record: BuildRecord, roles: Mapping[str, str]) -> _Part:
    """The cost of each linear's rounding, predicted or measured."""
    costs = record.stage("quantize").get("costs")
    if not costs:
        return _Part()
    pictures = []
    for kind in dict.fromkeys(kind for each in costs.values() for kind in each):
        values = {linear: each[kind] for linear, each in costs.items() if kind in each}
        where = places(roles, values)
        pictures.append(heat_grid(f"cost-{kind}", f"cost of {kind}", values, where, ".2g"))
    how = record.recipe["quantize"]["sensitivity"]
    text = (
        f"Cost: what each linear's rounding alone does to the outputs, by {how}, in 1 - cosine for "
        "embeddings, else in nats."
    )
    return _Part(pictures, [_cost_table(costs)], text)


def _errors(did: dict[str, Any], roles: Mapping[str, str]) -> _Part:
    """The error of each linear's rounding."""
    errors = did.get("errors", {})
    found = {linear: each.get("output", each["relative"]) for linear, each in errors.items()}
    where = places(roles, found)
    inside = {linear: error for linear, error in found.items() if linear in where}
    if not inside:
        return _Part()
    picture = heat_grid("rounding-error", "rounding error", inside, where, ".2%")
    return _Part([picture], text="Rounding errors are relative to weights or to outputs.")


def _pruned(record: BuildRecord, stage: str, roles: Mapping[str, str]) -> _Part:
    """The share that one-shot pruning took from each linear, and the error of its outputs."""
    layers = record.stage(stage).get("layers")
    if not layers:
        return _Part()
    where = places(roles, layers)
    shares = {linear: each["removed"] / each["weights"] for linear, each in layers.items()}
    lost = {linear: each["error"] for linear, each in layers.items()}
    pictures = [
        heat_grid(f"{stage}-share", f"{stage}: removed", shares, where, ".1%"),
        heat_grid(f"{stage}-error", f"{stage}: error", lost, where, ".2%"),
    ]
    text = (
        f"{stage.capitalize()}: the share of each linear's weights that went, and how far its "
        "outputs moved on the calibration text, relative to them."
    )
    return _Part(pictures, text=text)


def _cost_table(costs: dict[str, dict[str, float]]) -> Table:
    kinds = list(dict.fromkeys(kind for each in costs.values() for kind in each))
    listed = [
        [linear, *(f"{each[kind]:.3g}" if kind in each else "–" for kind in kinds)]
        for linear, each in sorted(costs.items(), key=lambda entry: -max(entry[1].values()))
    ]
    return Table(("cost of", *kinds), listed, folded="Every linear, the costliest first")
