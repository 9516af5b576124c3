"""Attention whose rows do not depend on each other, as a node.

    query, key, value ─> RowAttention (rotary, cache, product, softmax, product) ─> context

The node has the inputs of ONNX Runtime's GroupQueryAttention and takes its place, but gives a row
the same bits whether it comes alone, among others, in a prompt cut anywhere or in a batch. With a
float32 or float16 cache it has a function (attention_function.py); with int8 it runs only where the
library is registered.
"""

from collections.abc import Sequence

from onnx import NodeProto, helper

from edgeprune.kernels.formats import DOMAIN

ROW_ATTENTION = {
    "float32": "RowAttention",
    "float16": "RowAttentionFloat16",
    "int8": "RowAttentionInt8",
}
"""The operator of each type of cache."""


def make_row_attention(
    name: str,
    query: str,
    context: str,
    *,
    num_heads: int,
    kv_num_heads: int,
    key: str = "",
    value: str = "",
    past: Sequence[str] = (),
    present: Sequence[str] = (),
    lengths: tuple[str, str] = ("", ""),
    rotary: tuple[str, str] | None = None,
    bias: str = "",
    cache: str = "float32",
    scale: float = 0.0,
    softcap: float = 0.0,
    window: int = -1,
    causal: bool = True,
) -> NodeProto:
    """The node for one layer's attention.

    B sequences have S new tokens, T with the past, which has room for P; heads have D numbers.

    Args:
        query: float32 [B, S, num_heads * D]; with `key` and `value` left out, [B, S, (num_heads +
            2 * kv_num_heads) * D]: queries, keys and values of a token side by side.
        context: the result, float32 [B, S, num_heads * D].
        key, value: float32 [B, S, kv_num_heads * D].
        past: keys and values of `cache`'s type [B, kv_num_heads, P, D]; for int8 followed by their
            scales, float32 [B, kv_num_heads, P]. Empty: there is no past.
        present: the same with the new tokens; bound to the memory of `past`, they are written in
            place. Empty: nothing is kept, which needs a `past` that is empty.
        lengths: each sequence's tokens with the new ones, less one (int32 [B]), and T (int32 [1]).
        rotary: cosines and sines, float32 [positions, at most D / 2], that turn queries and keys.
        bias: float32 [B or 1, num_heads or 1, S or 1, T], or [B, T], added to the scores.
        scale: of the scores; 0 is 1 / sqrt(D).
        softcap: bounds the scaled scores by tanh; 0 does not.
        window: tokens that a token sees, itself included; -1 is all.
        causal: a token sees none after it.

    Raises:
        ValueError: the arguments contradict each other.
    """
    if cache not in ROW_ATTENTION:
        raise ValueError(f"no cache of {cache!r}")
    parts = 4 if cache == "int8" else 2
    if len(past) not in (0, parts) or len(present) not in (0, parts):
        raise ValueError(f"a cache of {cache} has {parts} tensors")
    if past and not (present and all(lengths) and causal):
        raise ValueError("a past needs a present, lengths, and causal attention")
    if bool(key) != bool(value):
        raise ValueError("key and value are given together, or neither is")
    inputs = [query, key, value, *(past[:2] or ("", "")), *lengths, *(rotary or ("", "")), "", bias]
    inputs += past[2:]
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node(
        ROW_ATTENTION[cache],
        inputs,
        [context, *present],
        name,
        domain=DOMAIN,
        num_heads=num_heads,
        kv_num_heads=kv_num_heads,
        scale=float(scale),
        softcap=float(softcap),
        local_window_size=window,
        do_rotary=int(rotary is not None),
        causal=int(causal),
    )
