"""Models of one attention, its cache, and its oracle in float64."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgeprune.kernels.attention import make_row_attention

OPSET = 17
TYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
_KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}


@dataclass(frozen=True)
class Shape:
    """What an attention is, and what it is given."""

    heads: int = 3
    key_heads: int = 1
    size: int = 16
    turned: int = 0
    scale: float = 0.0
    softcap: float = 0.0
    window: int = -1
    causal: bool = True
    cached: bool = True
    cache: str = "float32"
    packed: bool = False
    bias: bool = False

    @property
    def width(self) -> int:
        return self.heads * self.size

    @property
    def key_width(self) -> int:
        return self.key_heads * self.size

    @property
    def parts(self) -> int:
        """Tensors of a cache."""
        return (4 if self.cache == "int8" else 2) * self.cached


POSITIONS = 600


@functools.cache
def tables(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [POSITIONS, turned / 2]."""
    half = shape.turned // 2
    angles = np.arange(POSITIONS)[:, None] / 10000.0 ** (np.arange(half) / max(half, 1))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def attention_model(shape: Shape) -> onnx.ModelProto:
    """Rows, past_0 ..., last, total, cos, sin, bias to y, present_0 ..."""
    float32, int32 = TensorProto.FLOAT, TensorProto.INT32
    rows = {"query": shape.width, "key": shape.key_width, "value": shape.key_width}
    if shape.packed:
        rows = {"query": shape.width + 2 * shape.key_width}
    values: list[tuple[str, int, list[Any]]] = [
        (name, float32, ["b", "s", width]) for name, width in rows.items()
    ]
    cache: list[tuple[int, list[Any]]] = [
        (_KINDS[shape.cache], ["b", shape.key_heads, "p", shape.size])
    ] * 2
    cache += [(float32, ["b", shape.key_heads, "p"])] * (shape.parts - 2)
    cache = cache[: shape.parts]
    past, present = ([f"{name}_{i}" for i in range(shape.parts)] for name in ("past", "present"))
    values += [(name, *kind) for name, kind in zip(past, cache, strict=True)]
    values += [("last", int32, ["b"]), ("total", int32, [1])]
    if shape.turned:
        values += [(name, float32, ["positions", shape.turned // 2]) for name in ("cos", "sin")]
    if shape.bias:
        values += [("bias", float32, None)]
    node = make_row_attention(
        "attention",
        "query",
        "y",
        num_heads=shape.heads,
        kv_num_heads=shape.key_heads,
        key="" if shape.packed else "key",
        value="" if shape.packed else "value",
        past=past,
        present=present,
        lengths=("last", "total"),
        rotary=("cos", "sin") if shape.turned else None,
        bias="bias" if shape.bias else "",
        cache=shape.cache,
        scale=shape.scale,
        softcap=shape.softcap,
        window=shape.window,
        causal=shape.causal,
    )
    results = [("y", float32, None)]
    results += [(name, kind, None) for name, (kind, _) in zip(present, cache, strict=True)]
    graph = helper.make_graph(
        [node],
        "attention",
        [helper.make_tensor_value_info(*value) for value in values],
        [helper.make_tensor_value_info(*value) for value in results],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("edgeprune", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


class Attending:
    """A session with a cache: feed tokens, get their context."""

    def __init__(
        self, session: onnxruntime.InferenceSession, shape: Shape, batch: int = 1, room: int = 0
    ) -> None:
        """`room`: of a cache that is written in place; 0 for one that grows by copies."""
        self.session, self.shape, self.batch, self.room = session, shape, batch, room
        self.lengths = np.zeros(batch, np.int64)
        heads, size = shape.key_heads, shape.size
        kinds: list[tuple[Any, tuple[int, ...]]] = [(TYPES[shape.cache], (size,))] * 2
        kinds += [(np.float32, ())] * 2
        self.cache = [
            # What is not yet written may be anything.
            np.full((batch, heads, room, *rest), np.nan if np.dtype(kind).kind == "f" else 77, kind)
            for kind, rest in kinds[: shape.parts]
        ]
        if room:
            self.buffers = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in self.cache]

    def feed(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        bias: np.ndarray | None = None,
        lengths: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Context of tokens [B, S, ...]; `lengths` of sequences that begin and are padded to S."""
        tokens = query.shape[1]
        self.lengths = np.array(lengths) if lengths is not None else self.lengths + tokens
        total = tokens if lengths is not None else int(self.lengths.max())
        feeds = {"query": query, "key": key, "value": value}
        if self.shape.packed:
            feeds = {"query": np.concatenate([query, key, value], -1)}
        feeds["last"] = (self.lengths - 1).astype(np.int32)
        feeds["total"] = np.array([total], np.int32)
        if self.shape.turned:
            feeds["cos"], feeds["sin"] = tables(self.shape)
        if bias is not None:
            feeds["bias"] = bias
        return self.run(feeds)

    def stored(self) -> tuple[np.ndarray, ...]:
        """Keys and values [B, T, H, D] as the cache gives them back, float64; padding is zero."""
        parts = [buffer.numpy() for buffer in self.buffers] if self.room else self.cache
        numbers = [x.astype(np.float64) for x in parts[:2]]
        if self.shape.cache == "int8":
            numbers = [x * scale[..., None] for x, scale in zip(numbers, parts[2:], strict=True)]
        real = np.arange(self.lengths.max()) < self.lengths[:, None]
        return tuple(
            np.where(real[..., None, None], x[:, :, : real.shape[1]].transpose(0, 2, 1, 3), 0)
            for x in numbers
        )

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        if not self.room:
            pasts = {f"past_{i}": value for i, value in enumerate(self.cache)}
            y, *self.cache = self.session.run(None, feeds | pasts)
            return y
        binding = self.session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for i, buffer in enumerate(self.buffers):
            binding.bind_ortvalue_input(f"past_{i}", buffer)
            binding.bind_ortvalue_output(f"present_{i}", buffer)
        binding.bind_output("y")
        self.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[-1]


def random_rows(shape: Shape, batch: int, tokens: int, seed: int = 0) -> list[np.ndarray]:
    """Query, key and value of standard normal numbers."""
    rng = np.random.default_rng(seed)
    widths = (shape.width, shape.key_width, shape.key_width)
    return [rng.standard_normal((batch, tokens, width)).astype(np.float32) for width in widths]


def turn(x: np.ndarray, shape: Shape) -> np.ndarray:
    """Heads [B, T, H, D] turned by their place."""
    half = shape.turned // 2
    if not half:
        return x
    cosines, sines = (table[: x.shape[1], None].astype(np.float64) for table in tables(shape))
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cosines - b * sines, b * cosines + a * sines, rest], -1)


def written(shape: Shape, key: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turned keys and values [B, T, H, D] of whole sequences [B, T, ...], float64, not rounded."""
    heads = [x.reshape(*x.shape[:2], shape.key_heads, -1).astype(np.float64) for x in (key, value)]
    return turn(heads[0], shape), heads[1]


def step(x: np.ndarray, cache: str) -> np.ndarray:
    """How far numbers [..., D] may be from what a cache of this type holds of them."""
    largest = np.abs(x).max(-1, keepdims=True)
    own = 2e-6 * (1 + np.abs(x))  # float32 turns beside float64 ones
    if cache == "int8":
        return own + 0.51 * largest / 127
    return own + (0.51 * np.spacing(np.abs(x).astype(np.float16)) if cache == "float16" else 0)


def expected(
    shape: Shape,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    bias: np.ndarray | None = None,
    lengths: Sequence[int] | None = None,
    stored: tuple[np.ndarray, ...] = (),
) -> np.ndarray:
    """The context of whole sequences [B, T, ...] in float64; padding's is zero.

    `stored`: keys and values that a cache holds of them, in place of those of the arguments: the
    operator looks at what it has rounded, and a number beside a half may round either way.
    """
    batch, tokens, _ = query.shape
    q = turn(query.reshape(batch, tokens, shape.heads, -1).astype(np.float64), shape)
    k, v = stored or written(shape, key, value)
    group = shape.heads // shape.key_heads
    k, v = k.repeat(group, 2), v.repeat(group, 2)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * (shape.scale or shape.size**-0.5)
    if shape.softcap:
        scores = shape.softcap * np.tanh(scores / shape.softcap)
    if bias is not None:
        scores = scores + bias.astype(np.float64)
    places = np.arange(tokens)
    seen = np.ones((batch, tokens, tokens), bool)
    if shape.causal:
        seen &= places <= places[:, None]
    if shape.window > 0:
        seen &= places > places[:, None] - shape.window
    real = np.arange(tokens) < np.array([tokens] * batch if lengths is None else lengths)[:, None]
    seen &= real[:, None]
    scores = np.where(seen[:, None], scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
    context = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, tokens, -1)
    return np.where(real[..., None], context, 0)


def loose(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its inputs' shapes, so that only the operator refuses others."""
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    return model
