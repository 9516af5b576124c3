"""Each stage between the original and the result: what it gained and what it cost."""

import shutil
from collections.abc import Collection
from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.record import MeasuredStage
from edgeprune.pipeline.measure.question import Question

# Those that change the model, before integers and the graph's rewriting do.
_MODELS = ("vocabulary", "prune", "cut", "sparsify", "recover")
EXPORT = "export"


def measured_stages(ran: Collection[str]) -> list[str]:
    """The stages of a build whose results are models of their own, in order; the export is last.

    What prune masks, cut removes exactly: the two answer alike, and cut stands for both. Without
    quantization the export is the last model itself.
    """
    names = [name for name in _MODELS if name in ran and not (name == "prune" and "cut" in ran)]
    return [*(names if "quantize" in ran else names[:-1]), EXPORT]


def measure_stages(
    context: Context, original: Path, scratch: Path, bench: BenchSettings, question: Question
) -> list[MeasuredStage]:
    """Time each stage's model, as plain float32 ONNX, beside the original, and ask its quality.

    Args:
        original: the original's export.
        scratch: a folder in which a stage's graph may stand for a while.
    """
    # Exporting needs the build install, and a dry run on a device imports this file.
    from edgeprune.export.stage import export

    found = []
    for name in measured_stages(context.folders):
        folder = context.folders[name]
        try:
            if name != EXPORT:
                folder = scratch / name
                export(context, context.folders[name], folder, None)
            found.append(
                MeasuredStage(
                    name=name,
                    speed=compare(folder, original, bench),
                    quality=(question.ask(folder, original),),
                )
            )
        finally:
            shutil.rmtree(scratch / name, ignore_errors=True)
    return found
