"""The row of the rewrite stage, which lowers the plan to operators and fuses what runs faster."""

from collections.abc import Mapping
from typing import Any

from edgeprune.compress.stage import Stage


def _told(did: Mapping[str, Any]) -> list[str]:
    kept = [row["name"] for row in did["passes"] if row["kept"] and row["changed"]]
    undone = [row["name"] for row in did["passes"] if not row["kept"]]
    lines = [", ".join(kept)] if kept else []
    return lines + ([f"undone: {', '.join(undone)}"] if undone else [])


REWRITE = Stage(
    "rewrite",
    "edgeprune.export.rewrite.stage:run",
    gives="graph",
    always=True,
    would=lambda settings, facts: [f"for {facts.target.name}, every pass checked on real batches"],
    told=_told,
)
