"""The row of the rewrite stage, which lowers the plan to operators and fuses what runs faster."""

from edgeprune.compress.stage import Stage
from edgeprune.export.rewrite.record import Rewritten


def _told(did: Rewritten) -> list[str]:
    kept = [each.name for each in did.passes if each.kept and each.changed]
    undone = [each.name for each in did.passes if not each.kept]
    lines = [", ".join(kept)] if kept else []
    return lines + ([f"undone: {', '.join(undone)}"] if undone else [])


REWRITE = Stage(
    "rewrite",
    "edgeprune.export.rewrite.stage:run",
    Rewritten,
    gives="graph",
    always=True,
    varies=True,
    whole=lambda settings: "",
    would=lambda settings, facts: [f"for {facts.target.name}, every pass checked on real batches"],
    told=_told,
)
