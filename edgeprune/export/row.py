"""The rows of the stages that write a graph: the original's, and the compressed model's."""

from collections.abc import Iterable

from edgeprune.base.errors import UserError
from edgeprune.base.words import size
from edgeprune.compress.context import Context
from edgeprune.compress.facts import UNITS, Facts
from edgeprune.compress.stage import Stage
from edgeprune.export.optimum_environment import optimum_versions
from edgeprune.export.record import Exported
from edgeprune.export.settings import ExportSettings


def _told(did: Exported) -> list[str]:
    left = "" if did.written else ", which was not written"
    return [f"plain float32 ONNX of {size(did.bytes)}{left}"]


def _refuse(settings: ExportSettings, facts: Facts) -> None:
    """optimum must be there, and be given a model in the layers that transformers 4 makes of its
    configuration."""
    if settings.by != "optimum":
        return
    checkpoint, family = facts.checkpoint, facts.anatomy.family
    before = Facts.of(checkpoint, facts.text, facts.target, facts.settings)
    layers, left = len(before.anatomy.blocks), len(facts.anatomy.blocks)
    if any(sum(facts.units[kind]) * layers < sum(before.units[kind]) * left for kind in UNITS):
        raise UserError(
            "export.by: optimum is for layers as wide as the configuration says, and channels or "
            "heads that are cut leave each layer another width: leave it out."
        )
    if family.fused or family.experts is not None:
        raise UserError(
            f"export.by: optimum reads weights as transformers 4 names them, and those of "
            f"{checkpoint.name} ({facts.anatomy.model_type}) are taken apart here: leave it out."
        )
    optimum_versions()


def _would(settings: ExportSettings, facts: Facts) -> list[str]:
    if settings.by != "optimum":
        return _traced(facts)
    found = ", ".join(f"{name} {version}" for name, version in optimum_versions().items())
    return [f"written by optimum's exporter ({found}), and compared with torch"]


def _traced(facts: Facts) -> list[str]:
    """The stages that hold for models whose graph is traced, whatever their settings say."""
    checkpoint = facts.checkpoint
    family = checkpoint.anatomy.family
    if family.decoder or family.encoder:
        return []
    return [
        f"traced, as models of type {checkpoint.anatomy.model_type} are; they are quantized by "
        "rounding and run, and neither pruned, cut nor recovered"
    ]


def _reads(settings: ExportSettings, context: Context) -> Iterable[str]:
    return [str(optimum_versions())] if settings.by == "optimum" else []


ORIGINAL = Stage(
    "original",
    "edgeprune.export.stage:original",
    Exported,
    gives=None,
    always=True,
    compares=True,
    would=lambda settings, facts: ["exported plainly to float32 ONNX, as the reference"],
    told=_told,
)
EXPORT = Stage(
    "export",
    "edgeprune.export.stage:export",
    Exported,
    settings=ExportSettings,
    default=ExportSettings,
    description="The graph in float32 that rewriting begins with.",
    gives="graph",
    always=True,
    varies=True,
    whole=lambda settings: "export.by: optimum" if settings.by == "optimum" else "",
    refuse=_refuse,
    would=_would,
    told=_told,
    reads=_reads,
)
