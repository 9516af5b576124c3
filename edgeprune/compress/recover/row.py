"""The row of the recover stage, which distils the cut model from the original."""

from edgeprune.compress.facts import Facts
from edgeprune.compress.recover.record import Recovered
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.compress.stage import Stage, objective


def _would(settings: RecoverSettings, facts: Facts) -> list[str]:
    anatomy = facts.anatomy
    tables = sum(rows * width for rows, width in map(anatomy.shape, anatomy.embeddings.values()))
    frozen = "" if settings.train_embeddings else f"; {tables:,} embedding weights stay frozen"
    rate = settings.learning_rate
    return [f"{settings.length} of distillation, learning rate {rate:g}{frozen}"]


def _told(did: Recovered) -> list[str]:
    first, steps = did.checks[0].held_out, did.checks[-1].step
    return [
        f"{steps:,} steps of distillation; held-out loss {first:.4g} at the first check, "
        f"{did.held_out:.4g} at step {did.best_step:,}, whose weights were kept"
    ]


RECOVER = Stage(
    "recover",
    "edgeprune.compress.recover.stage:run",
    Recovered,
    attends=True,
    settings=RecoverSettings,
    default=RecoverSettings,
    description="Recovery by distillation.",
    trains=True,
    would=_would,
    told=_told,
    asks=objective,
)
