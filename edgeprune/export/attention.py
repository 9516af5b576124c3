"""Attention and its mask as few traced nodes, given to transformers under a name of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_OURS = "edgeprune"


@contextmanager
def our_attention(module: nn.Module) -> Iterator[None]:
    """A module that attends by this file's functions for the time of a `with`; where an
    architecture has an attention of its own, the masks alone are ours."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(_OURS, attention)
    AttentionMaskInterface.register(_OURS, additive_mask)
    # Outer ones first, for they hand their choice on to the inner ones.
    configs: list[Any] = [part.config for part in module.modules() if hasattr(part, "config")]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = _OURS
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


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
    """The mask that is added to attention's scores, (batch, 1, queries or 1, keys): zero where a
    query sees a key, the most negative float elsewhere. Never left out, as transformers' own may be
    for a text without padding, for that would hold for the traced text alone.

    Args:
        mask_function: (row, head, query, key) -> whether it is seen, of indices that broadcast.
        attention_mask: (batch, keys), false at padding.
    """
    from transformers.masking_utils import bidirectional_mask_function

    low, zero = torch.finfo(dtype).min, torch.zeros((), dtype=dtype)
    unpadded = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
    if mask_function is bidirectional_mask_function and unpadded is not None:
        return torch.where(unpadded, zero, low)
    queries = (torch.arange(q_length) + q_offset)[None, None, :, None]
    keys = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
    rows = torch.arange(batch_size)[:, None, None, None]
    seen = torch.ones((), dtype=torch.bool)
    if mask_function is not None:
        seen = mask_function(rows, torch.zeros(1, 1, 1, 1, dtype=torch.int64), queries, keys)
    if unpadded is not None:
        seen = seen & unpadded
    return torch.where(seen.expand(batch_size, 1, q_length, kv_length), zero, low)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """softmax(query key^T scaling + mask) value, (batch, queries, heads, head size).

    query: (batch, heads, queries, head size); key and value may have fewer heads, each of which
    several query heads then read.

    Raises:
        NotImplementedError: there are sinks (`s_aux`).
    """
    if s_aux is not None:
        raise NotImplementedError("its attention has sinks, which are not written out")
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
