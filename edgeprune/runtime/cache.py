"""A decoder's key-value cache, by the hub's names of a graph's inputs and outputs.

past_key_values.N.key and .value go in, [batch, kv_heads, past, head_dim]; present.N.key and .value
come out with the new tokens appended. Where layers have short convolutions, past_conv.N goes in,
[batch, channels, taps], and present_conv.N comes out. They remain the runtime's own tensors from
step to step, so nothing is copied through Python. If the graph allows past and present to share one
buffer, they do: a token's rows are written in place, into a buffer with spare room. This module
imports little, because it is used where memory is measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from edgeprune.base.errors import UserError
from edgeprune.runtime.names import (
    KEPT_LOGITS,
    PAST,
    PAST_CONVOLVED,
    SHARED_CACHE,
    is_past,
    present_of,
)
from edgeprune.runtime.session import input_types, running, token_inputs

# Spare tokens of a shared buffer, beyond those that it is created for.
_ROOM = 256

Tensors = dict[str, onnxruntime.OrtValue]


class Decoder:
    """A decoder's session and its graph's inputs; each sequence has a cache of its own."""

    def __init__(
        self, session: onnxruntime.InferenceSession, config: Mapping[str, Any] | None = None
    ) -> None:
        """`config` (config.json) gives the cache's shape if the graph leaves it open."""
        self.session = session
        self.types = input_types(session)
        outputs = [node.name for node in session.get_outputs()]
        self.past = [name for name in self.types if is_past(name)]
        present = [present_of(name) for name in self.past]
        if "logits" not in outputs or not set(present) <= set(outputs):
            raise UserError(f"The decoder gives no logits or no cache, but {', '.join(outputs)}.")
        self.outputs = ["logits", *present]
        self.shapes = {
            node.name: _cache_shape(node.shape, config or {})
            for node in session.get_inputs()
            if node.name.startswith(PAST)
        }
        self.convolved = {
            node.name: node.shape[1:]
            for node in session.get_inputs()
            if node.name.startswith(PAST_CONVOLVED)
        }
        metadata = session.get_modelmeta().custom_metadata_map
        self.shared = bool(self.past) and SHARED_CACHE in metadata
        options = {node.name for node in session.get_overridable_initializers()}
        self.chooses_logits = KEPT_LOGITS in options

    @property
    def has_cache(self) -> bool:
        return bool(self.past)

    def start(self, batch: int = 1) -> "Decoding":
        """A new sequence, or a batch of them, with an empty cache."""
        return Decoding(self, batch)


class Decoding:
    """A sequence, or a batch of them, with a cache of its own: feed tokens, get logits."""

    def __init__(self, decoder: Decoder, batch: int = 1) -> None:
        self.length = 0
        self._decoder, self._batch = decoder, batch
        self._cache = self._buffers(0)

    def mark(self) -> tuple[int, Tensors]:
        """The current position, to return to with `rewind`; costs nothing."""
        return self.length, self._cache

    def rewind(self, mark: tuple[int, Tensors]) -> None:
        """Return to a mark and forget what was fed after it."""
        # A shared buffer is never read beyond its length, so nothing need be undone.
        self.length, self._cache = mark

    def feed(self, ids: Sequence[int] | np.ndarray, last_only: bool = False) -> np.ndarray:
        """Append tokens ([tokens] or [batch, tokens]) and return their logits.

        Returns [batch, tokens, vocabulary]; with `last_only`, [batch, 1, vocabulary] from a graph
        that can skip the others.
        """
        decoder = self._decoder
        tokens = np.asarray(ids, np.int64).reshape(self._batch, -1)
        mask = np.ones((self._batch, self.length + tokens.shape[1]), np.int64)
        inputs = token_inputs(decoder.types, tokens, mask, past=self.length)
        if decoder.chooses_logits:
            inputs[KEPT_LOGITS] = np.array(int(last_only), np.int64)
        feeds = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"))
            for name, value in inputs.items()
        }
        with running():
            logits = (self._run_shared if decoder.shared else self._run)(feeds, tokens.shape[1])
        if decoder.has_cache:
            self.length += tokens.shape[1]
        return logits

    def _run(self, feeds: Tensors, tokens: int) -> np.ndarray:
        decoder = self._decoder
        results = decoder.session.run_with_ort_values(decoder.outputs, feeds | self._cache)
        self._cache = dict(zip(decoder.past, results[1:], strict=True))
        return results[0].numpy()

    def _run_shared(self, feeds: Tensors, tokens: int) -> np.ndarray:
        self._make_room(self.length + tokens)
        binding = self._decoder.session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name, buffer in self._cache.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(present_of(name), buffer)
        binding.bind_output("logits")
        self._decoder.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()

    def _make_room(self, length: int) -> None:
        """Grow the shared buffers to hold `length` tokens, copying their contents."""
        held = next(iter(self._cache.values())).shape()[2]
        if length > held:
            self._cache = self._buffers(length + _ROOM, self._cache)

    def _buffers(self, tokens: int, start: Tensors | None = None) -> Tensors:
        """A cache for `tokens` tokens: the contents of `start`, then zeros."""
        buffers = {}
        for name, (heads, size) in self._decoder.shapes.items():
            buffer = np.zeros((self._batch, heads, tokens, size), self._decoder.types[name])
            if start is not None:
                buffer[:, :, : self.length] = start[name].numpy()[:, :, : self.length]
            buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
        for name, sizes in self._decoder.convolved.items():
            empty = np.zeros((self._batch, *sizes), self._decoder.types[name])
            buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(empty)
        return buffers


def _cache_shape(shape: Sequence[int | str | None], config: Mapping[str, Any]) -> tuple[int, int]:
    """(key-value heads, head size) of one cache input, from the graph or else the config."""
    heads, size = shape[1], shape[3]
    query_heads = config.get("num_attention_heads")
    if not isinstance(heads, int):
        heads = config.get("num_key_value_heads") or query_heads
    if not isinstance(size, int):
        hidden = config.get("hidden_size")
        size = config.get("head_dim") or (hidden // query_heads if hidden and query_heads else None)
    if not isinstance(heads, int) or not isinstance(size, int):
        raise UserError(
            "The shape of the decoder's cache is unknown: neither its graph nor config.json gives "
            "num_key_value_heads and head_dim."
        )
    return heads, size
