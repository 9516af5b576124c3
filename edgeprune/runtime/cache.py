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

from edgeprune import kernels
from edgeprune.base.errors import UserError
from edgeprune.runtime.names import (
    KEPT_LOGITS,
    PAST,
    PAST_CONVOLVED,
    ROW_INVARIANT,
    ROW_LENGTHS,
    SHARED_CACHE,
    is_past,
    present_of,
)
from edgeprune.runtime.session import input_types, running, token_inputs

# Spare tokens of a shared buffer, beyond those that it is created for.
_ROOM = 256
# Calls of so many tokens at most stay bound: a token, and those that are drafted with it.
_FEW = 8

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
        invariant = ROW_INVARIANT in metadata and kernels.installed()
        self.drafts = self.has_cache and self.cuts and invariant
        """Whether tokens that are drafted and read together get the logits that each has alone."""
        self.together = self.shared and self.cuts and ROW_LENGTHS in metadata
        """Whether a call may read a token each of sequences of different lengths."""
        options = {node.name for node in session.get_overridable_initializers()}
        self.chooses_logits = KEPT_LOGITS in options

    @property
    def has_cache(self) -> bool:
        return bool(self.past)

    @property
    def cuts(self) -> bool:
        """Whether a sequence can forget its last tokens: a convolution's state tells of all."""
        return not self.convolved

    def inputs(
        self, tokens: np.ndarray, mask: np.ndarray, past: int, last_only: bool
    ) -> dict[str, np.ndarray]:
        """Inputs other than the cache for tokens [batch, tokens] after `past` others."""
        inputs = token_inputs(self.types, tokens, mask, past=past)
        if self.chooses_logits:
            inputs[KEPT_LOGITS] = np.array(int(last_only), np.int64)
        return inputs

    def start(self, batch: int = 1) -> "Decoding":
        """A new sequence, or a batch of them, with an empty cache."""
        return Decoding(self, batch)


class Rows:
    """Sequences of different lengths side by side in one cache [most, kv_heads, tokens, head_dim],
    of which a call reads a token each; for a decoder that reads them `together`.

    The first rows are in use: where one leaves, the last one takes its place. Memory that no token
    was written to is not taken from the system.
    """

    def __init__(self, decoder: Decoder, most: int) -> None:
        self._decoder, self._most = decoder, most
        self._buffers: dict[str, np.ndarray] = {}
        self._calls: dict[int, _BoundCall] = {}
        """By the number of rows that they read."""
        self.lengths: list[int] = []
        """Tokens of each row."""

    def join(self, decoding: "Decoding") -> None:
        """Move a sequence here, as the last row; it must not be read before `leave`."""
        self._make_room(decoding.length)
        row = len(self.lengths)
        for name, held in decoding.held().items():
            self._buffers[name][row, :, : decoding.length] = held[0]
        decoding.drop()
        self.lengths.append(decoding.length)

    def leave(self, row: int, decoding: "Decoding | None") -> None:
        """Move a row back to its sequence, or to nobody."""
        length, last = self.lengths[row], len(self.lengths) - 1
        if decoding is not None:
            held = {name: each[row : row + 1, :, :length] for name, each in self._buffers.items()}
            decoding.take(held, length)
        end = self.lengths.pop()
        if row != last:
            for buffer in self._buffers.values():
                buffer[row, :, :end] = buffer[last, :, :end]
            self.lengths[row] = end
        if not self.lengths:
            self.clear()

    def clear(self) -> None:
        """Hold no row any more."""
        self.lengths, self._buffers, self._calls = [], {}, {}

    def step(self, ids: Sequence[int]) -> np.ndarray:
        """Append a token to each row; their logits [rows, vocabulary], the caller's until the next
        call.

        Raises:
            ModelFault: the graph fails.
        """
        self._make_room(max(self.lengths) + 1)
        count, past = len(ids), np.array(self.lengths)
        tokens = np.array(ids, np.int64).reshape(count, 1)
        with running():
            call = self._calls.get(count)
            if call is None:
                cache = {name: _bound(buffer[:count]) for name, buffer in self._buffers.items()}
                call = self._calls[count] = _BoundCall(self._decoder, cache, tokens, True)
                call.keep(call.run(tokens, past))
            logits = call.run(tokens, past)
        self.lengths = [length + 1 for length in self.lengths]
        return logits[:, 0]

    def _make_room(self, length: int) -> None:
        held = next(iter(self._buffers.values())).shape[2] if self._buffers else 0
        if length <= held:
            return
        self._calls = {}
        for name, (heads, size) in self._decoder.shapes.items():
            kind = self._decoder.types[name]
            buffer = np.zeros((self._most, heads, length + _ROOM, size), kind)
            for row, tokens in enumerate(self.lengths):
                buffer[row, :, :tokens] = self._buffers[name][row, :, :tokens]
            self._buffers[name] = buffer


class Decoding:
    """A sequence, or a batch of them, with a cache of its own: feed tokens, get logits."""

    def __init__(self, decoder: Decoder, batch: int = 1) -> None:
        self.length = 0
        self._decoder, self._batch = decoder, batch
        self._cache = self._buffers(0)
        self._calls: dict[tuple[int, bool], _BoundCall] = {}
        """Calls of few tokens into the present shared buffers."""

    def mark(self) -> tuple[int, Tensors]:
        """The current position, to return to with `rewind`; costs nothing."""
        return self.length, self._cache

    def rewind(self, mark: tuple[int, Tensors]) -> None:
        """Return to a mark and forget what was fed after it."""
        # A shared buffer is never read beyond its length, so nothing need be undone.
        self.length, cache = mark
        self._take(cache)

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens, of a decoder that `cuts`."""
        if length < self.length and self._decoder.has_cache:
            if not self._decoder.shared:
                self._take({name: _first(value, length) for name, value in self._cache.items()})
            self.length = length

    def held(self) -> dict[str, np.ndarray]:
        """The tokens of a shared cache, [batch, kv_heads, tokens, head_dim]: its own memory, gone
        with `drop` or when it grows."""
        return {name: value.numpy()[:, :, : self.length] for name, value in self._cache.items()}

    def drop(self) -> None:
        """Hold no tokens, until `take`."""
        self._take({})

    def take(self, held: Mapping[str, np.ndarray], length: int) -> None:
        """Hold a copy of tokens, shaped as `held` gives them."""
        self._take(self._buffers(length + _ROOM, held, length))
        self.length = length

    def copy(self, length: int) -> "Decoding":
        """A sequence of its own that begins with the first `length` tokens of this one; of a
        decoder that `cuts`."""
        other = Decoding(self._decoder, self._batch)
        if self._decoder.shared:
            other._cache = self._buffers(length + _ROOM, self.held(), length)
        else:
            other._cache = {name: _first(value, length) for name, value in self._cache.items()}
        other.length = length
        return other

    def feed(self, ids: Sequence[int] | np.ndarray, last_only: bool = False) -> np.ndarray:
        """Append tokens ([tokens] or [batch, tokens]) and return their logits.

        Returns [batch, tokens, vocabulary]; with `last_only`, [batch, 1, vocabulary] from a graph
        that can skip the others.
        """
        logits = self.step(ids, last_only)
        # Only calls of few tokens have a buffer that the next one writes.
        return logits.copy() if logits.shape[1] <= _FEW else logits

    def step(self, ids: Sequence[int] | np.ndarray, last_only: bool = False) -> np.ndarray:
        """The same without a copy: the logits are the caller's until the next call."""
        tokens = np.asarray(ids, np.int64).reshape(self._batch, -1)
        with running():
            run = self._run_shared if self._decoder.shared else self._run
            logits = run(tokens, last_only)
        if self._decoder.has_cache:
            self.length += tokens.shape[1]
        return logits

    def _run(self, tokens: np.ndarray, last_only: bool) -> np.ndarray:
        decoder = self._decoder
        mask = np.ones((self._batch, self.length + tokens.shape[1]), np.int64)
        inputs = decoder.inputs(tokens, mask, self.length, last_only)
        feeds = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"))
            for name, value in inputs.items()
        }
        results = decoder.session.run_with_ort_values(decoder.outputs, feeds | self._cache)
        self._cache = dict(zip(decoder.past, results[1:], strict=True))
        return results[0].numpy()

    def _run_shared(self, tokens: np.ndarray, last_only: bool) -> np.ndarray:
        self._make_room(self.length + tokens.shape[1])
        which = tokens.shape[1], last_only
        call = self._calls.get(which)
        if call is not None:
            return call.run(tokens, self.length)
        call = _BoundCall(self._decoder, self._cache, tokens, last_only)
        logits = call.run(tokens, self.length)
        if tokens.shape[1] <= _FEW:
            call.keep(logits)
            self._calls[which] = call
        return logits

    def _take(self, cache: Tensors) -> None:
        if cache is not self._cache:
            self._cache, self._calls = cache, {}

    def _make_room(self, length: int) -> None:
        """Grow the shared buffers to hold `length` tokens, copying their contents."""
        held = next(iter(self._cache.values())).shape()[2]
        if length > held:
            self._take(self._buffers(length + _ROOM, self.held(), self.length))

    def _buffers(
        self, tokens: int, start: Mapping[str, np.ndarray] | None = None, length: int = 0
    ) -> Tensors:
        """A cache for `tokens` tokens: the first `length` of `start`, then zeros."""
        buffers = {}
        for name, (heads, size) in self._decoder.shapes.items():
            buffer = np.zeros((self._batch, heads, tokens, size), self._decoder.types[name])
            if start is not None:
                buffer[:, :, :length] = start[name][:, :, :length]
            buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
        for name, sizes in self._decoder.convolved.items():
            empty = np.zeros((self._batch, *sizes), self._decoder.types[name])
            buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(empty)
        return buffers


class _BoundCall:
    """A call with so many new tokens, whose inputs, cache and logits are bound once: 60 tensors of
    a cache need not pass through Python at every token."""

    def __init__(
        self, decoder: Decoder, cache: Tensors, tokens: np.ndarray, last_only: bool
    ) -> None:
        self._session, self._cache = decoder.session, cache
        self._binding = decoder.session.io_binding()
        room = next(iter(cache.values())).shape()[2]
        # Position 0 and a mask of the whole buffer: both are replaced at every run.
        self._inputs = {
            name: np.array(value, order="C")
            for name, value in decoder.inputs(
                tokens, np.ones((len(tokens), room), np.int64), 0, last_only
            ).items()
        }
        # What is bound must live as long as the binding, which holds no reference to it everywhere.
        self._bound = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
            for name, value in self._inputs.items()
        }
        for name, bound in self._bound.items():
            self._binding.bind_ortvalue_input(name, bound)
        self._mask = self._inputs.pop("attention_mask", np.ones(0)).reshape(-1)
        self._steps = np.arange(tokens.shape[1])
        for name, buffer in cache.items():
            self._binding.bind_ortvalue_input(name, buffer)
            self._binding.bind_ortvalue_output(present_of(name), buffer)
        self._binding.bind_output("logits")
        self._logits: np.ndarray | None = None

    def run(self, tokens: np.ndarray, past: int | np.ndarray) -> np.ndarray:
        """Logits of tokens [batch, tokens] after `past` others, of all rows or of each [batch]; if
        kept, until the next run."""
        lengths = np.reshape(past, (-1, 1))
        if len(self._mask):
            rows, total = len(tokens), int(lengths.max()) + tokens.shape[1]
            mask = self._mask[: rows * total].reshape(rows, total)
            if len(lengths) > 1:
                mask[:] = np.arange(total) < lengths + tokens.shape[1]
            self._bound["attention_mask"] = onnxruntime.OrtValue.ortvalue_from_numpy(mask)
            self._binding.bind_ortvalue_input("attention_mask", self._bound["attention_mask"])
        for name, values in (("input_ids", tokens), ("position_ids", lengths + self._steps)):
            if name in self._inputs:
                self._inputs[name][:] = values
        self._session.run_with_iobinding(self._binding)
        return self._binding.get_outputs()[-1].numpy() if self._logits is None else self._logits

    def keep(self, logits: np.ndarray) -> None:
        """Let all further runs write into one array, of the shape that a run has given."""
        self._logits = np.empty_like(logits, order="C")
        self._bound["logits"] = onnxruntime.OrtValue.ortvalue_from_numpy(self._logits)
        self._binding.bind_ortvalue_output("logits", self._bound["logits"])


def _bound(value: np.ndarray) -> onnxruntime.OrtValue:
    """A tensor in an array's own memory, where that lies in order."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))


def _first(value: onnxruntime.OrtValue, length: int) -> onnxruntime.OrtValue:
    """The first tokens of one tensor of the cache [batch, heads, tokens, size]."""
    kept = np.ascontiguousarray(value.numpy()[:, :, :length])
    return onnxruntime.OrtValue.ortvalue_from_numpy(kept)


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
