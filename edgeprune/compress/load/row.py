"""The row of the load stage, which reads the model that the user named."""

from edgeprune.base.words import many
from edgeprune.compress.facts import Facts
from edgeprune.compress.load.record import Loaded
from edgeprune.compress.load.settings import LoadSettings
from edgeprune.compress.stage import Stage
from edgeprune.model.units import heads, parameters


def _would(settings: LoadSettings, facts: Facts) -> list[str]:
    checkpoint, anatomy = facts.checkpoint, facts.anatomy
    again = f", run {anatomy.repeats} times," if anatomy.repeats > 1 else ""
    return [
        f"{checkpoint.name}: {anatomy.model_type}, {checkpoint.task}, "
        f"{many(len(anatomy.blocks), 'layer')}{again} of {heads(anatomy)} heads and "
        f"{sum(facts.units['channels'])} channels in all, {parameters(anatomy):,} weights in "
        "linears and embeddings",
        facts.text.line,
    ]


def _told(did: Loaded) -> list[str]:
    how = "read from their files when they are needed" if did.streamed else "in float32"
    return [f"{did.parameters:,} parameters {how}"]


LOAD = Stage(
    "load",
    "edgeprune.compress.load.stage:run",
    Loaded,
    settings=LoadSettings,
    default=LoadSettings,
    description="How the model is read.",
    gives="reference",
    always=True,
    whole=lambda settings: "",
    reads=lambda settings, context: [f"streamed: {context.streamed}"],
    would=_would,
    told=_told,
)
