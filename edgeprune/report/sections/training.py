"""Sections on training: pruning update by update, and the losses of every stage that trained."""

from collections.abc import Sequence
from typing import Any

from edgeprune.report.pictures.training import training as loss_lines
from edgeprune.report.pictures.trajectory import budget, kept, momentum, norms, variance
from edgeprune.report.records import BuildRecord
from edgeprune.report.sections.part import Section, Table


def pruning(record: BuildRecord) -> list[Section]:
    """A section for each pool of units that was pruned while training."""
    pools = [
        (stage, pool)
        for stage in ("prune", "sparsify")
        for pool in record.stage(stage).get("pools", [])
    ]
    found = []
    for stage, pool in pools:
        updates = pool["trajectory"]
        name = f"{stage}-{pool['pattern'].replace(':', '-')}"
        pictures = [
            budget(f"{name}-budget", updates),
            norms(f"{name}-norms", updates),
            momentum(f"{name}-momentum", updates),
            kept(f"{name}-kept", updates),
        ]
        title = f"{pool['pattern'].capitalize()} removed: {pool['removed']:,} of {pool['units']:,}"
        mode = record.recipe[stage].get("budget", "mv")
        text = _MOMENTUM if mode == "mv" else f"The budget of this recipe is {mode}."
        tables = [_update_table(updates)]
        found.append(Section(name, title, pictures, tables, text, folded="How it was pruned"))
    return found


_MOMENTUM = (
    "At each update the budget follows a cubic target through a momentum. Its coefficient rises "
    "with the variance of the gradient's norm about its trend, so that what is asked for waits "
    "while training is unsteady; no update leaves more than an even share over those that are left."
)


def _update_table(updates: Sequence[dict[str, Any]]) -> Table:
    head = ("step", "target", "sparsity", "budget", "momentum", "norm", "variance of norms")
    listed = [
        [
            str(row["step"]),
            f"{row['target']:.4f}",
            f"{row['sparsity']:.4f}",
            f"{row['budget']:.5f}",
            f"{row['beta']:.3f}",
            "–" if row["norm"] is None else f"{row['norm']:.4g}",
            f"{variance(row):.4g}",
        ]
        for row in updates
    ]
    return Table(head, listed, folded="Every update in numbers")


def training(record: BuildRecord) -> Section:
    """The losses of every stage that trained."""
    name, title = "training", "Loss on held-out text"
    pictures, tables = [], []
    for stage in ("prune", "shape", "sparsify", "recover"):
        did = record.stage(stage)
        if checks := did.get("checks"):
            pictures.append(loss_lines(f"training-{stage}", stage, checks, did.get("best_step")))
            head = (f"{stage}, step", "learning rate", "training loss", "held-out loss")
            listed = [
                [
                    str(row["step"]),
                    f"{row['learning_rate']:.2g}",
                    f"{row['loss']:.4f}",
                    f"{row['held_out']:.4f}",
                ]
                for row in checks
            ]
            tables.append(Table(head, listed, folded=f"{stage} in numbers"))
    return Section(name, title, pictures, tables)
