"""Run a graph in ONNX Runtime and compare it with another on the same batches."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime as ort

from edgeprune.base.memory import trim
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.outputs import Difference, Feed, Kept, Outputs
from edgeprune.kernels import register
from edgeprune.runtime.names import PER_TOKEN, PRESENT, empty_cache, is_past, present_of
from edgeprune.runtime.session import input_types

NEXT = "next."
"""Before the name of an input: its value for a decoder's next token."""


def run_graph(graph: Graph, batches: Sequence[Feed], kernels: bool = False) -> Outputs:
    """A graph's outputs by name on each batch, in a session with default options.

    The batches need only input_ids and attention_mask; the graph's other inputs are added: token
    types of zero, positions, an empty cache. A decoder then gets one
    more token with the resulting cache; its logits are in "next_logits".

    Args:
        kernels: run sparse linears by the operator library, not by their functions.
    """
    session = opened(graph, kernels)
    return [Kept(_merged(calls(session, batch))) for batch in batches]


def opened(graph: Graph, kernels: bool = False) -> ort.InferenceSession:
    """A session with default options, without or with the operator library."""
    trim()  # what sessions before this one, or torch, held
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if kernels:
        register(options)
    path = graph.save_for_session()
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def calls(session: ort.InferenceSession, batch: Feed) -> Iterator[tuple[Feed, Feed]]:
    """(inputs, outputs) of a batch, and of a decoder's next token with the cache."""
    feed = complete_feed(session, batch)
    values = outputs_of(session, feed)
    yield feed, values
    if any(name.startswith(PRESENT) for name in values):
        following = _next_feed(feed, without_padding(values, feed), batch)
        yield following, outputs_of(session, following)


def outputs_of(session: ort.InferenceSession, feed: Feed) -> dict[str, np.ndarray]:
    """A session's outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def _merged(made: Iterator[tuple[Feed, Feed]]) -> Feed:
    """The outputs of a batch's calls, merged."""
    first, *following = [without_padding(values, feed) for feed, values in made]
    return first | {
        f"next_{name}": value
        for outputs in following
        for name, value in outputs.items()
        if not name.startswith(PRESENT)
    }


def _next_feed(feed: Feed, outputs: Feed, batch: Feed) -> dict[str, np.ndarray]:
    """The inputs after a decoder's batch: each row's first token again, with the cache so far, and
    what the batch has for it under NEXT."""
    rows = len(feed["input_ids"])
    mask = np.concatenate([feed["attention_mask"], np.ones((rows, 1), np.int64)], axis=1)
    following = {
        "input_ids": feed["input_ids"][:, :1],
        "attention_mask": mask,
        "position_ids": positions(mask)[:, -1:],
        **{name.removeprefix(NEXT): batch[name] for name in batch if name.startswith(NEXT)},
    }
    return {name: outputs[present_of(name)] if is_past(name) else following[name] for name in feed}


def positions(mask: np.ndarray) -> np.ndarray:
    """Each token's position, in rows padded on either side: the tokens before it, less the padding
    in front of all."""
    return np.maximum(np.arange(mask.shape[1])[None] - mask.argmax(axis=1)[:, None], 0)


def without_padding(values: Feed, feed: Feed) -> dict[str, np.ndarray]:
    """Outputs with zeros at padded tokens, whose values are meaningless and may be NaN; as they are
    where no mask was read."""
    if "attention_mask" not in feed:
        return dict(values)
    mask = feed["attention_mask"]
    padded, cleaned = mask == 0, dict(values)
    for name, value in values.items() if padded.any() else ():
        if name in PER_TOKEN and value.shape == mask.shape:
            cleaned[name] = np.where(padded, 0, value)
        elif value.ndim == 3 and value.shape[:2] == mask.shape:
            cleaned[name] = np.where(padded[:, :, None], 0, value)
        elif value.ndim == 4 and (value.shape[0], value.shape[2]) == mask.shape:
            cleaned[name] = np.where(padded[:, None, :, None], 0, value)
    return cleaned


def complete_feed(session: ort.InferenceSession, batch: Feed) -> dict[str, np.ndarray]:
    """A batch with every input of the session.

    Raises:
        ValueError: the graph has an unknown input.
    """
    tokens = np.asarray(batch["input_ids"], np.int64)
    mask = np.asarray(batch.get("attention_mask", np.ones_like(tokens)), np.int64)
    known = {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(tokens),
        "position_ids": positions(mask),
        **batch,
    }
    feed, types = {}, input_types(session)
    for value in session.get_inputs():
        if value.name in known:
            feed[value.name] = np.asarray(known[value.name])
        elif is_past(value.name):
            feed[value.name] = np.zeros(empty_cache(value.shape, len(tokens)), types[value.name])
        else:
            raise ValueError(f"the graph has an unknown input {value.name}")
    return feed


def largest_drift(before: Outputs, after: Outputs) -> float:
    """The largest relative difference of an output: |a - b| over the root mean square of a.

    Outputs that the second graph dropped, or returns as integers (a quantized cache, whose effect
    the next logits show), are left out; NaN counts as infinite.
    """
    return max(
        (
            _finite(found.largest, found.size / max(count, 1) ** 0.5)
            for found, count in _differences(before, after)
        ),
        default=0.0,
    )


def mean_drift(before: Outputs, after: Outputs) -> float:
    """The largest ||a - b|| / ||a|| over outputs and batches: the cost of quantizing.

    Outputs are left out as above.
    """
    found = (_finite(found.apart, found.size) for found, _ in _differences(before, after))
    return max(found, default=0.0)


def _differences(before: Outputs, after: Outputs) -> Iterator[tuple[Difference, int]]:
    """Of each output in floating point, with the number of its values."""
    for old, new in zip(before, after, strict=True):
        for name, value in new.items():
            if np.issubdtype(value.dtype, np.floating):
                yield Difference.of(old[name], value), value.size


def _finite(difference: float, scale: float) -> float:
    drift = difference / max(scale, 1e-12)
    return drift if np.isfinite(drift) else np.inf
