"""Torch to ONNX: the one place that calls torch.onnx.

The graph is float32, with the hub's names for inputs and outputs, so that any client of such files
takes it:

    input_ids, attention_mask, token_type_ids, position_ids, past_key_values.N.key, .value
        ─> last_hidden_state or logits, present.N.key, .value

Layers may differ in size. Nothing is optimized here; that is rewrite's work.

torch's older tracer keeps module paths as node names, by which the rewriting finds linears, and
takes a tenth of the newer one's time. It is deprecated, which pyproject.toml's bound on torch
answers; `dynamo` takes the newer one, whose graphs are right but are not rewritten.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from edgeprune.base.errors import UserError
from edgeprune.base.quiet import quiet
from edgeprune.export.attention import our_attention
from edgeprune.export.faces import Attended, Convolved, Face, generating, reading
from edgeprune.model.anatomy import Convolution
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import load_model
from edgeprune.model.tasks import TASKS

# LayerNormalization is one operator from 17 on; ONNX Runtime 1.17 reads up to 20.
OPSET = 17
_DYNAMO_OPSET = 18


def export_onnx(model: Model, folder: Path, plain: bool = False, dynamo: bool = False) -> Path:
    """Write a model's graph in float32 as `folder`/model.onnx, decoders with their cache.

    Beyond 2 GB the weights stand beside it.

    Args:
        plain: see `trace`.
        dynamo: see `trace`.

    Returns:
        The path of the graph.

    Raises:
        UserError: the model cannot be traced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return trace(model.module, face_of(model), folder / "model.onnx", plain, dynamo)


def export_plain(model_folder: Path, output_folder: Path) -> Path:
    """Export a model folder untouched, as a folder that a client runs: the reference of every
    comparison, traced with the attention that transformers chooses by itself; with ours where it
    builds the masks by torch.vmap, of which the tracer knows nothing.

    Returns:
        The path of the graph, onnx/model.onnx in `output_folder`.
    """
    model = load_model(model_folder)
    copy_assets(model_folder, output_folder)
    import_tokenizer(open_checkpoint(str(model_folder)), output_folder)
    (output_folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True))
    plain = not model.anatomy.reads_both_ways
    return export_onnx(model, output_folder / "onnx", plain)


def face_of(model: Model) -> Face:
    """The inputs and outputs of a model's graph, as its task wants them."""
    task, module = TASKS[model.task], model.module
    if task.generates:
        layers = [
            Convolved(mixer.channels, mixer.taps)
            if isinstance(mixer, Convolution)
            else Attended(mixer.num_key_value_heads, mixer.head_dim)
            for mixer in (block.mixer for block in model.anatomy.blocks)
        ]
        return generating(module, task.output, layers)
    one_a_text, typed = task.logits_axes == 2, model.reads_token_types
    return reading(module, task.output, one_a_text=one_a_text, typed=typed)


def trace(
    module: nn.Module, face: Face, path: Path, plain: bool = False, dynamo: bool = False
) -> Path:
    """Write the graph of any module, in evaluation mode.

    Args:
        plain: trace transformers' own attention and masks, as anybody else would; otherwise ours,
            which are the same values by fewer nodes, where the architecture lets them be chosen.
        dynamo: by torch.export in place of the older tracer.

    Returns:
        `path`.

    Raises:
        UserError: it cannot be traced.
    """
    sizes: dict[str, Any] = {"dynamic_axes": face.axes}
    if dynamo:
        open_axes = [dict.fromkeys(face.axes[name], _OPEN) for name in face.inputs]
        sizes = {"dynamic_shapes": (tuple(open_axes),), "external_data": False}
    module.eval()
    # What is silenced is that the older tracer goes, and where transformers reads a traced size.
    attending = nullcontext() if plain else our_attention(module)
    # Of an operator that it does not know, the older one prints the whole graph, past Python.
    unprinted = patch.object(torch._C, "_jit_onnx_log")
    with quiet(), unprinted, torch.no_grad(), attending, _called(module, face.call):
        try:
            torch.onnx.export(
                module,
                tuple(face.inputs.values()),
                str(path),
                input_names=list(face.inputs),
                output_names=list(face.outputs),
                opset_version=_DYNAMO_OPSET if dynamo else OPSET,
                dynamo=dynamo,
                **sizes,
            )
        except Exception as error:  # torch.onnx has no base class of its errors
            raise UserError(_refusal(module, error)) from error
    return path


_OPEN = torch.export.Dim.DYNAMIC


def _refusal(module: nn.Module, error: Exception) -> str:
    reason = str(error).strip() or repr(error)
    return (
        f"{type(module).__name__} cannot be traced into an ONNX graph: "
        f"{reason.splitlines()[0].rstrip('.')}. "
        "What is built must end in such a graph: take a model of another architecture."
    )


@contextmanager
def _called(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """A module that is called otherwise for the time of a `with`; its parts keep their paths."""
    module.forward = call
    try:
        yield
    finally:
        del module.forward
