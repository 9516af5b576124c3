"""Names of a graph by which what writes it and what runs it agree; the hub's where it has any."""

from collections.abc import Sequence

PAST, PRESENT = "past_key_values.", "present."
"""Prefixes of a decoder's keys and values, among its inputs and its outputs."""
PAST_CONVOLVED, PRESENT_CONVOLVED = "past_conv.", "present_conv."
"""The same of what its short convolutions keep, of one size whatever came before."""


def is_past(name: str) -> bool:
    """Whether an input is a part of a decoder's cache."""
    return name.startswith((PAST, PAST_CONVOLVED))


def empty_cache(shape: Sequence[int | str], rows: int) -> tuple[int, ...]:
    """The shape of an input of the cache before the first token, from that in the graph: keys and
    values [rows, heads, tokens, size], or columns of a convolution [rows, channels, taps]."""
    _, *inner = shape
    return (rows, *(size if isinstance(size, int) else 0 for size in inner))


def present_of(past: str) -> str:
    """The output that becomes an input of the next call."""
    kinds = {PAST: PRESENT, PAST_CONVOLVED: PRESENT_CONVOLVED}
    [before] = [prefix for prefix in kinds if past.startswith(prefix)]
    return kinds[before] + past.removeprefix(before)


PER_TOKEN = ("start_logits", "end_logits")
"""Outputs of a number for each token [texts, tokens]: to be the first and the last of an answer."""
SHARED_CACHE = "edgeprune.shared_cache"
"""An entry of the graph's metadata: past and present may be one buffer, longer than the tokens."""
ROW_INVARIANT = "edgeprune.row_invariant"
"""An entry of the graph's metadata: by the operator library, a token's logits have the same bits,
however many others are computed in its call."""
ROW_LENGTHS = "edgeprune.row_lengths"
"""An entry of the graph's metadata: each row of a call counts its own tokens, up to the last that
attention_mask has of it, so that rows of different lengths share a cache in place."""
KEPT_LOGITS = "num_logits_to_keep"
"""An optional input: the number of last tokens whose logits are wanted; 0 for all."""
FUSED_ATTENTION = "GroupQueryAttention"
"""The runtime's operator that attends and writes the cache."""
