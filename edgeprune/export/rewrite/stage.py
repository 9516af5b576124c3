"""The rewrite stage: lower the plan and rewrite the graph into a bundle's folder."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeprune.compress.context import Context
from edgeprune.compress.quantize.model import Quantized
from edgeprune.export.client_files import ONNX, copy_client_files
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import padded_prompts, states, torch_outputs
from edgeprune.export.exported_model import write_export_manifest
from edgeprune.export.rewrite.by_block import rewrite_by_block
from edgeprune.export.rewrite.record import Pass, Rewritten
from edgeprune.export.rewrite.run import Emitted, PassReport, as_torch, rewrite
from edgeprune.export.rewrite.verify import Feed, run_graph
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.store import load_model, write_layers
from edgeprune.targets import Target

# Few texts to compare each pass on: a decoder's logits take 0.2 MB and more per token.
_CHECKED_BATCHES, _CHECKED_TOKENS = 2, 512
# Layers of a streamed model that are compared as a whole.
_WHOLE_LAYERS = 2


def run(context: Context, source: Path, target: Path, settings: None) -> Rewritten:
    """Rewrite the model's graph; write it with tokenizer and configuration into `target`.

    A traced graph is read from `source`; an emitted one is written here, as its weights are then
    read from the model's files where they are needed.
    """
    plan = context.folders.get("quantize")
    quantized = Quantized.load(plan) if plan else None
    batches = []
    for batch in context.some(_CHECKED_BATCHES):
        rows = max(1, _CHECKED_TOKENS // batch.input_ids.shape[1])
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        batches.append({name: values[:rows] for name, values in feed.items()})
    copy_client_files(context, context.model, target)
    (target / ONNX).mkdir(parents=True, exist_ok=True)
    if context.streamed:
        reports = _rewrite_streamed(context, target, quantized, batches)
    else:
        reports = _rewrite_whole(context, source, target, quantized, batches)
    write_export_manifest(target, context.checkpoint)
    return Rewritten(passes=[Pass.from_values(report.to_json()) for report in reports])


def _rewrite_whole(
    context: Context,
    source: Path,
    target: Path,
    quantized: Quantized | None,
    batches: Sequence[Feed],
) -> list[PassReport]:
    asked = context.settings.get("quantize")
    return rewrite(
        emitted_graph(context.model, context.target, batches) or source / ONNX / "model.onnx",
        target / ONNX / "model.onnx",
        open_checkpoint(str(context.model)).anatomy,
        quantized,
        batches,
        context.target,
        asked.cache_bits if asked else None,
    )


def _rewrite_streamed(
    context: Context, target: Path, quantized: Quantized | None, batches: Sequence[Feed]
) -> list[PassReport]:
    """Compare two layers of the model with torch as a whole, rewrite all of it part by part."""
    feeds = [{name: values[:1] for name, values in batch.items()} for batch in batches]
    with TemporaryDirectory(prefix="edgeprune-", dir=target) as scratch:
        write_layers(context.model, Path(scratch), _WHOLE_LAYERS)
        few = emitted_graph(Path(scratch), context.target, feeds)
        assert few is not None
        as_torch(few, run_graph(few.graph, [*feeds, *few.prompts]))
    graph = emitted(context.model, context.target.skip_layer_norm_harmful)
    assert graph is not None
    model = load_model(context.model)
    seen = states(model, feeds)
    anatomy = model.anatomy
    del model
    path = target / ONNX / "model.onnx"
    return rewrite_by_block(graph, path, anatomy, quantized, seen, context.target)


def emitted_graph(folder: Path, target: Target, batches: Sequence[Feed]) -> Emitted | None:
    """The graph of the model in `folder` and what torch answers on the batches; None where it has
    to be traced."""
    graph = emitted(folder, target.skip_layer_norm_harmful)
    if graph is None:
        return None
    model = load_model(folder)
    prompts = padded_prompts(batches) if model.anatomy.head else []
    return Emitted(graph, torch_outputs(model, [*batches, *prompts]), prompts)
