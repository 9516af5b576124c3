"""Inputs and outputs of a traced graph, by the names that files on the hub have."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Axes = Mapping[int, str]
"""The axes of a tensor that stay open, by their names."""
BATCH: Axes = {0: "batch_size"}
TEXT: Axes = {**BATCH, 1: "sequence_length"}
_BEFORE: Axes = {**BATCH, 2: "past_sequence_length"}
_AFTER: Axes = {**BATCH, 2: "past_sequence_length + sequence_length"}
_ATTENDED: Axes = {**BATCH, 1: "past_sequence_length + sequence_length"}

ROWS, TOKENS, PAST = 2, 7, 5
"""Sizes of the inputs that are traced; none stays in the graph."""


@dataclass(frozen=True)
class Face:
    """A graph's inputs and outputs, in order."""

    inputs: Mapping[str, Tensor]
    """Such as are traced."""
    outputs: Sequence[str]
    axes: Mapping[str, Axes]
    call: Callable[..., Sequence[Tensor]]
    """The module's outputs from the inputs by position."""


@dataclass(frozen=True)
class Attended:
    """A layer's keys and values."""

    heads: int
    width: int

    def names(self, layer: int, after: bool) -> tuple[str, ...]:
        kind = "present" if after else "past_key_values"
        return f"{kind}.{layer}.key", f"{kind}.{layer}.value"

    def traced(self) -> Tensor:
        return torch.zeros(ROWS, self.heads, PAST, self.width)

    def axes(self, after: bool) -> Axes:
        return _AFTER if after else _BEFORE


@dataclass(frozen=True)
class Convolved:
    """The tokens before that a layer's convolution reads."""

    channels: int
    tokens: int

    def names(self, layer: int, after: bool) -> tuple[str, ...]:
        return (f"{'present' if after else 'past'}_conv.{layer}",)

    def traced(self) -> Tensor:
        return torch.zeros(ROWS, self.channels, self.tokens)

    def axes(self, after: bool) -> Axes:
        return BATCH


def reading(
    module: nn.Module, outputs: Sequence[str], one_a_text: bool = False, typed: bool = False
) -> Face:
    """A model that reads texts, without a cache.

    Args:
        outputs: the fields of the module's answer, and the outputs' names.
        one_a_text: whether they have one row a text, not one a token.
        typed: whether there are several types of tokens.
    """
    mask = torch.ones(ROWS, TOKENS, dtype=torch.int64)
    mask[1, TOKENS - 2 :] = 0
    given = {"input_ids": _tokens(module), "attention_mask": mask}
    if typed:
        given["token_type_ids"] = torch.zeros_like(mask)
    taken = parameters(module)
    inputs = {name: (values, TEXT) for name, values in given.items() if name in taken}
    uncached = {"use_cache": False} if "use_cache" in taken else {}
    axes = BATCH if one_a_text else TEXT
    return answering(module, inputs, dict.fromkeys(outputs, axes), **uncached)


def answering(
    module: nn.Module,
    inputs: Mapping[str, tuple[Tensor, Axes]],
    outputs: Mapping[str, Axes],
    **options: Any,
) -> Face:
    """A module that is called with named tensors and answers with an object of named tensors."""
    original = module.forward

    def call(*values: Tensor) -> Sequence[Tensor]:
        answer = original(**dict(zip(inputs, values, strict=True)), **options)
        return [answer[name] for name in outputs]

    traced = {name: values for name, (values, _) in inputs.items()}
    axes = {**{name: axes for name, (_, axes) in inputs.items()}, **outputs}
    return Face(traced, list(outputs), axes, call)


def generating(module: nn.Module, output: str, layers: Sequence[Attended | Convolved]) -> Face:
    """A decoder that takes and gives its cache.

    Args:
        layers: what each keeps of the tokens before.
    """
    taken, original = parameters(module), module.forward
    positions = torch.arange(PAST, PAST + TOKENS).expand(ROWS, -1).contiguous()
    inputs = {
        "input_ids": _tokens(module),
        "attention_mask": torch.ones(ROWS, PAST + TOKENS, dtype=torch.int64),
        **({"position_ids": positions} if "position_ids" in taken else {}),
    }
    named = list(inputs)
    axes = {**dict.fromkeys(inputs, TEXT), "attention_mask": _ATTENDED, output: TEXT}
    outputs = [output]
    for place, layer in enumerate(layers):
        for past, present in zip(layer.names(place, False), layer.names(place, True), strict=True):
            inputs[past] = layer.traced()
            outputs.append(present)
            axes |= {past: layer.axes(after=False), present: layer.axes(after=True)}

    def call(*values: Tensor) -> Sequence[Tensor]:
        texts, past = values[: len(named)], values[len(named) :]
        cache = cache_of(layers, past)
        answer = original(**dict(zip(named, texts, strict=True)), cache=cache, use_cache=True)
        return (answer[output], *kept(cache))

    return Face(inputs, outputs, axes, call)


def cache_of(layers: Sequence[Attended | Convolved], past: Sequence[Tensor]) -> Any:
    """transformers' cache of these tensors, to which a call appends; keys and values stand whole
    in every layer, whatever its window."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionLayer

    class Assigned(LinearAttentionLayer):
        """A convolution's cache that takes a new tensor, where its own is written into."""

        def update_conv_state(
            self, conv_states: Tensor, state_idx: int = 0, *others: Any, **options: Any
        ) -> Tensor:
            before: Any = self.conv_states[state_idx]
            whole = torch.cat([before, conv_states], -1)
            self.conv_states[state_idx] = whole[..., -before.shape[-1] :]
            return whole

    cache, rest = DynamicCache(), iter(past)
    for layer in layers:
        filled: Any
        if isinstance(layer, Convolved):
            filled, states = Assigned(), next(rest)
            filled.lazy_initialization(conv_states=states)
            filled.conv_states[0], filled.has_previous_state[0] = states, True
        else:
            filled, keys, values = DynamicLayer(), next(rest), next(rest)
            filled.lazy_initialization(keys, values)
            # Not joined to the empty ones, for that is traced.
            filled.keys, filled.values = keys, values
        cache.layers.append(filled)
    return cache


def kept(cache: Any) -> list[Tensor]:
    """A cache's tensors, in the order of its layers."""
    return [
        part
        for layer in cache.layers
        for part in (
            (layer.keys, layer.values) if hasattr(layer, "keys") else (layer.conv_states[0],)
        )
    ]


def parameters(module: nn.Module) -> set[str]:
    """The names of what a module's forward takes."""
    return set(inspect.signature(module.forward).parameters)


def _tokens(module: nn.Module) -> Tensor:
    """Ids of a token that is not padding."""
    padding = getattr(module.config, "pad_token_id", None)
    return torch.full((ROWS, TOKENS), 0 if padding else 1, dtype=torch.int64)
