"""The row of the shape stage, by which a model is cut to a given shape while it is trained."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.words import many
from edgeprune.compress.context import Context
from edgeprune.compress.cut.row import evened, told_cut
from edgeprune.compress.cut.shape_record import Shaped
from edgeprune.compress.cut.shape_settings import ShapeSettings
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage, objective
from edgeprune.model.assets import SIZES
from edgeprune.model.checkpoint import WEIGHTS


def _refuse(settings: ShapeSettings, facts: Facts) -> None:
    if settings.start is not None and not (Path(settings.start) / SIZES).is_file():
        raise UserError(
            f"shape.start: {settings.start} holds no model that a stage of a build wrote; name a "
            "folder like OUTPUT/stages/recover-..., or leave it out."
        )
    facts.refuse_mixture("shape")
    if settings.layers:
        facts.refuse_repeats("shape", "layers")
    anatomy = facts.checkpoint.anatomy
    kept = settings.kept_layers(range(len(anatomy.blocks)))
    if anatomy.family.unnormed_first and kept[0] != 0:
        raise UserError(
            "The first layer stays in a model of this type, for it alone has no norm before its "
            "attention: name 0 among shape.layers."
        )
    for kind, units in facts.units.items():
        there = [units[layer] for layer in kept]
        if settings.goal(kind, there) != there and kind == "heads":
            facts.refuse_whole_groups()


def _agree(settings: ShapeSettings, others: Mapping[str, Any]) -> None:
    for other in ("prune", "cut"):
        if other in others:
            raise ValueError(
                f"shape and {other} both decide what leaves the model; leave one of them out"
            )


def _would(settings: ShapeSettings, facts: Facts) -> list[str]:
    left, total = _leaves(settings, facts), len(facts.anatomy.blocks)
    count = len(left.anatomy.blocks)
    lines = [f"{total - count} of {total} layers leave"] if count < total else []
    for kind, units in left.units.items():
        before = sum(facts.units[kind])
        if sum(units) < before:
            lines.append(f"{sum(units):,} of {before:,} {kind} stay")
    if settings.heads or settings.channels:
        cuts = (
            f"{many(settings.rounds, 'cut')}, each by Fisher scores on {settings.samples:,} texts"
        )
        between = f", and {settings.length} of distillation between" if settings.rounds > 1 else ""
        lines.append(cuts + between)
    return lines


def _leaves(settings: ShapeSettings, facts: Facts) -> Facts:
    kept = settings.kept_layers(range(len(facts.anatomy.blocks)))
    left = {
        kind: settings.goal(kind, [units[layer] for layer in kept])
        for kind, units in facts.units.items()
    }
    anatomy = evened(facts.anatomy, len(kept), sum(left["channels"]), sum(left["heads"]))
    return replace(facts, anatomy=anatomy, units=left)


def _reads(settings: ShapeSettings | None, context: Context) -> list[str]:
    """A hash of the model that it starts from, where that is not the original."""
    if settings is None or settings.start is None:
        return []
    hashed = hashlib.sha256()
    for name in (SIZES, WEIGHTS):
        with (Path(settings.start) / name).open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return [hashed.hexdigest()]


def _told(did: Shaped) -> list[str]:
    lines = told_cut(did)
    if did.checks:
        lines.append(
            f"{many(len(did.rounds), 'cut')}, {many(did.checks[-1].step, 'step')} of distillation "
            f"between; held-out loss {did.checks[-1].held_out:.4g} before the last"
        )
    return lines


SHAPE = Stage(
    "shape",
    "edgeprune.compress.cut.shape:run",
    Shaped,
    attends=True,
    settings=ShapeSettings,
    default=ShapeSettings,
    description="Removal down to a given shape, in rounds of cutting and training.",
    trains=True,
    refuse=_refuse,
    agree=_agree,
    would=_would,
    leaves=_leaves,
    told=_told,
    reads=_reads,
    asks=objective,
)
