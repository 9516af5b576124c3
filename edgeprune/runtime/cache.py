"""A decoder's key-value cache, by the input and output names of optimum's exports.

past_key_values.N.key and .value go in, [batch, kv_heads, past, head_dim]; present.N.key and .value
come out with the new tokens appended. They stay the runtime's own tensors from step to step, so
that nothing is copied through Python. This file is used where memory is measured: it imports
little.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from edgeprune.errors import UserError
from edgeprune.runtime.session import input_types, token_inputs

_PAST, _PRESENT = "past_key_values.", "present."


class Decoder:
    """A decoder's session with its cache: feed tokens, get logits."""

    def __init__(
        self, session: onnxruntime.InferenceSession, config: Mapping[str, Any] | None = None
    ) -> None:
        """`config` (config.json) gives the cache's shape where the graph leaves it open."""
        self.session = session
        self._types = input_types(session)
        outputs = [node.name for node in session.get_outputs()]
        self._past = [name for name in self._types if name.startswith(_PAST)]
        present = [name.replace(_PAST, _PRESENT, 1) for name in self._past]
        if "logits" not in outputs or not set(present) <= set(outputs):
            raise UserError(f"The decoder gives no logits or no cache, but {', '.join(outputs)}.")
        self._outputs = ["logits", *present]
        self._shapes = {
            node.name: _cache_shape(node.shape, config or {})
            for node in session.get_inputs()
            if node.name.startswith(_PAST)
        }
        self.reset()

    @property
    def has_cache(self) -> bool:
        return bool(self._past)

    def reset(self, batch: int = 1, past: int = 0) -> None:
        """Start anew with an empty cache; or with one of `past` zeros, for timing."""
        self.length = past
        self._batch = batch
        self._cache = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(
                np.zeros((batch, heads, past, size), self._types[name])
            )
            for name, (heads, size) in self._shapes.items()
        }

    def mark(self) -> tuple[int, dict[str, onnxruntime.OrtValue]]:
        """Where the sequence stands now, to come back to with `rewind`; costs nothing."""
        return self.length, self._cache

    def rewind(self, mark: tuple[int, dict[str, onnxruntime.OrtValue]]) -> None:
        """Go back to a mark: what was fed after it is forgotten."""
        self.length, self._cache = mark

    def feed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Append tokens ([tokens] or [batch, tokens]) and return their logits.

        Returns [batch, tokens, vocabulary]; a graph made for generation alone may give the last
        token's only, [batch, 1, vocabulary].
        """
        tokens = np.asarray(ids, np.int64).reshape(self._batch, -1)
        mask = np.ones((self._batch, self.length + tokens.shape[1]), np.int64)
        feeds = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
            for name, value in token_inputs(self._types, tokens, mask, past=self.length).items()
        }
        results = self.session.run_with_ort_values(self._outputs, feeds | self._cache)
        if self._past:
            self._cache = dict(zip(self._past, results[1:], strict=True))
            self.length += tokens.shape[1]
        return results[0].numpy()


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
