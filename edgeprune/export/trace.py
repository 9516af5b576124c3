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

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.base.errors import UserError
from edgeprune.base.quiet import quiet
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import load_model
from edgeprune.model.tasks import TASKS

# LayerNormalization is one operator from 17 on; ONNX Runtime 1.17 reads up to 20.
OPSET = 17
_DYNAMO_OPSET = 18
_WRITTEN_OUT = "edgeprune"
"""Our attention and mask functions, by the name that transformers knows them by."""
_ROWS, _TOKENS, _PAST = 2, 7, 5
"""Sizes of the inputs that are traced; no size stays in the graph."""

Axes = dict[int, str]
_BATCH: Axes = {0: "batch_size"}
_TEXT: Axes = {**_BATCH, 1: "sequence_length"}
_BEFORE: Axes = {**_BATCH, 2: "past_sequence_length"}
_ALL: Axes = {**_BATCH, 2: "past_sequence_length + sequence_length"}
_ATTENDED: Axes = {**_BATCH, 1: "past_sequence_length + sequence_length"}


@dataclass(frozen=True)
class _Face:
    """What a graph takes and gives: by name, in order, with the axes that stay open."""

    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: dict[str, Axes]
    call: Callable[..., tuple[Tensor, ...]]
    """The module's outputs from the inputs by position."""


def export_onnx(model: Model, folder: Path, plain: bool = False, dynamo: bool = False) -> Path:
    """Write a model's graph in float32 as `folder`/model.onnx, decoders with their cache.

    Beyond 2 GB the weights stand beside it.

    Args:
        plain: trace transformers' own attention and masks, as anybody else would; otherwise ours,
            which are the same values by fewer nodes, where the architecture lets them be chosen.
        dynamo: by torch.export in place of the older tracer.

    Returns:
        The path of the graph.

    Raises:
        UserError: the model cannot be traced.
    """
    module = model.module.eval()
    face = _generating(model) if TASKS[model.task].generates else _reading(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    sizes: dict[str, Any] = {"dynamic_axes": face.axes}
    if dynamo:
        open_axes = {name: _open(face.axes[name]) for name in face.inputs}
        sizes = {"dynamic_shapes": (tuple(open_axes.values()),), "external_data": False}
    with quiet(), torch.no_grad(), _attention(module, plain), _called(module, face.call):
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
            raise UserError(_refusal(model, error)) from error
    return path


def _open(axes: Axes) -> dict[int, Any]:
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def _refusal(model: Model, error: Exception) -> str:
    reason = str(error).strip() or repr(error)
    kind = model.config.get("architectures", ["This model"])[0]
    return (
        f"{kind} cannot be traced into an ONNX graph: {reason.splitlines()[0].rstrip('.')}. "
        "What is built must end in such a graph: take a model of another architecture."
    )


def _reading(model: Model) -> _Face:
    """A model that reads texts, without a cache."""
    task, module = TASKS[model.task], model.module
    original, taken = module.forward, _parameters(module)
    mask = torch.ones(_ROWS, _TOKENS, dtype=torch.int64)
    mask[1, _TOKENS - 2 :] = 0
    given = {"input_ids": _tokens(model, _TOKENS), "attention_mask": mask}
    if "token_type_ids" in taken and model.config.get("type_vocab_size", 0) > 1:
        given["token_type_ids"] = torch.zeros_like(mask)
    inputs = {name: values for name, values in given.items() if name in taken}
    uncached = {"use_cache": False} if model.has_cache else {}

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        answer = original(**dict(zip(inputs, values, strict=True)), **uncached)
        return (getattr(answer, task.output),)

    one_a_text = task.logits_axes == 2
    axes = dict.fromkeys(inputs, _TEXT) | {task.output: _BATCH if one_a_text else _TEXT}
    return _Face(inputs, (task.output,), axes, call)


def _generating(model: Model) -> _Face:
    """A decoder that takes and gives its cache."""
    task, module = TASKS[model.task], model.module
    original, taken = module.forward, _parameters(module)
    positions = torch.arange(_PAST, _PAST + _TOKENS).expand(_ROWS, -1).contiguous()
    inputs = {
        "input_ids": _tokens(model, _TOKENS),
        "attention_mask": torch.ones(_ROWS, _PAST + _TOKENS, dtype=torch.int64),
        **({"position_ids": positions} if "position_ids" in taken else {}),
    }
    named = list(inputs)
    axes = dict.fromkeys(inputs, _TEXT) | {"attention_mask": _ATTENDED, task.output: _TEXT}
    outputs = [task.output]
    for place, block in enumerate(model.anatomy.blocks):
        heads, width = block.attention.num_key_value_heads, block.attention.head_dim
        for part in ("key", "value"):
            past, present = f"past_key_values.{place}.{part}", f"present.{place}.{part}"
            inputs[past] = torch.zeros(_ROWS, heads, _PAST, width)
            outputs.append(present)
            axes |= {past: _BEFORE, present: _ALL}

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        texts, past = values[: len(named)], values[len(named) :]
        cache = _cache(past)
        answer = original(**dict(zip(named, texts, strict=True)), cache=cache, use_cache=True)
        present = [part for layer in cache.layers for part in (layer.keys, layer.values)]
        return (getattr(answer, task.output), *present)

    return _Face(inputs, tuple(outputs), axes, call)


def _cache(past: Sequence[Tensor]) -> Any:
    """transformers' cache of these keys and values, whole in every layer whatever its window, to
    which a call appends."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values  # not joined to the empty ones, which are traced
        cache.layers.append(layer)
    return cache


def _parameters(module: nn.Module) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


def _tokens(model: Model, count: int) -> Tensor:
    """Ids of a token that is not padding."""
    padding = model.config.get("pad_token_id")
    return torch.full((_ROWS, count), 0 if padding else 1, dtype=torch.int64)


@contextmanager
def _called(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """A module that is called otherwise for the time of a `with`; its parts keep their paths."""
    module.forward = call
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _attention(module: nn.Module, plain: bool) -> Iterator[None]:
    """A module with our attention and masks, where it lets them be chosen."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    config = module.config
    before = config._attn_implementation
    if not plain:
        AttentionInterface.register(_WRITTEN_OUT, attention)
        AttentionMaskInterface.register(_WRITTEN_OUT, additive_mask)
        try:
            module.set_attn_implementation(_WRITTEN_OUT)  # type: ignore[operator]
        except ValueError:  # it has one of its own
            config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def additive_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] | None = None,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    **others: Any,
) -> Tensor:
    """What is added to attention's scores, (batch, 1, queries, keys): zero where a query sees a
    key, the most negative float elsewhere. Never left out, as transformers' own may be for a text
    without padding, for that would hold for the traced text alone.

    Args:
        mask_function: (row, head, query, key) -> whether it is seen, of indices that broadcast.
        attention_mask: (batch, keys), false at padding.
    """
    queries = (torch.arange(q_length) + q_offset)[None, None, :, None]
    keys = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
    rows = torch.arange(batch_size)[:, None, None, None]
    seen = torch.ones((), dtype=torch.bool)
    if mask_function is not None:
        seen = mask_function(rows, torch.zeros(1, 1, 1, 1, dtype=torch.int64), queries, keys)
    if attention_mask is not None:
        seen = seen & attention_mask.bool()[:, None, None, :]
    seen = seen.expand(batch_size, 1, q_length, kv_length)
    return torch.where(seen, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """softmax(query key^T scaling + mask) value, (batch, queries, heads, head size).

    query: (batch, heads, queries, head size); key and value may have fewer heads, each of which
    several query heads then read.
    """
    groups = int(query.shape[1]) // int(key.shape[1])
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3))
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    for added in (position_bias, attention_mask):
        if added is not None:
            scores = scores + added
    return torch.matmul(torch.softmax(scores, -1), value).transpose(1, 2).contiguous(), None


def export_plain(model_folder: Path, output_folder: Path) -> Path:
    """Export a model folder untouched, as a folder that a client runs: the reference of every
    comparison, traced with the attention that transformers chooses by itself.

    Returns:
        The path of the graph, onnx/model.onnx in `output_folder`.
    """
    model = load_model(model_folder)
    copy_assets(model_folder, output_folder)
    import_tokenizer(open_checkpoint(str(model_folder)), output_folder)
    (output_folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True))
    return export_onnx(model, output_folder / "onnx", plain=True)
