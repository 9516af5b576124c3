"""Let a generating client ask for only the last tokens' logits.

The head is a fifth of SmolLM2's weights, and a prompt needs it once, not once per token. The number
of tokens whose logits are wanted is an optional input, `num_logits_to_keep`, as in transformers.js.
Its default of 0 means all, so that other clients get the same as from a plain export.

    hidden (B,S,W) ─> the last n tokens (B,n,W) ─> head ─> logits (B,n,V)
"""

import numpy as np

from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.linears import find_linears
from edgeprune.model.anatomy import Anatomy
from edgeprune.runtime.names import KEPT_LOGITS

_END = np.iinfo(np.int64).max


def choose_logits(graph: Graph, anatomy: Anatomy) -> int:
    """Insert the choice before the head; return the number of nodes added.

    Raises:
        ValueError: the graph has no head by its name.
    """
    found = find_linears(graph, [anatomy.head or ""])
    if not found:
        raise ValueError(f"the graph has no product named for {anatomy.head}")
    [head] = found[anatomy.head or ""]
    path = "/last_logits"
    kept = graph.add_option(KEPT_LOGITS, np.array(0, np.int64))
    # Zero tokens from the end means the start: everything.
    negative = graph.add("Neg", [kept], f"{path}/Neg")
    first = graph.add_constant(f"{path}/first", np.array([0], np.int64))
    start = graph.add("Unsqueeze", [negative, first], f"{path}/Unsqueeze")
    end = graph.add_constant(f"{path}/end", np.array([_END], np.int64))
    axis = graph.add_constant(f"{path}/axis", np.array([1], np.int64))
    rows = graph.add("Slice", [head.input, start, end, axis], f"{path}/Slice")
    head.product.input[0] = rows
    graph.index()
    return 3
