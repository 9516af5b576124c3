"""Tiny models emitted, as the passes get them, and the operators that they end in."""

from collections import Counter
from dataclasses import replace

from tiny_models import make_batch

from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import padded_prompts, torch_outputs
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import Emitted
from edgeprune.model.model import Model
from edgeprune.model.store import save_model
from edgeprune.targets import find

VNNI = replace(find("x86-avx512-vnni"), name="unmeasured")
BATCH = make_batch(rows=2)
FEED = {name: value.numpy() for name, value in BATCH.items()}


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def emission(model: Model, folder) -> Emitted:
    save_model(model, folder)
    graph = emitted(folder, plain_sums=True)
    assert graph is not None
    prompts = padded_prompts([FEED])
    return Emitted(graph, torch_outputs(model, [FEED, *prompts]), prompts)
