"""From what context on a quantized key-value cache pays: a bundle beside itself with a float cache.

The operator's integer cache takes longer to fill (a prompt) and less to read (a long context), so
neither side is given one number: prompt and step are timed at each length.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.record import Comparison, Ratio
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.record import Cache, CacheAt
from edgeprune.runtime.bundle import Bundle

CONTEXTS = (256, 1024, 4096)


def measure_cache(
    source: Path, scratch: Path, bench: BenchSettings, contexts: Sequence[int] = CONTEXTS
) -> Cache | None:
    """Time a folder's graph beside the same with its cache in float32; None where it is in float32.

    Args:
        scratch: a folder in which the other may stand for a while.
    """
    # The passes need the build install, and a dry run on a device imports this file.
    from edgeprune.export.graph import Graph
    from edgeprune.export.rewrite.half_cache import whole_cache
    from edgeprune.export.rewrite.quantized_cache import cache_bytes, float_cache

    graph = Graph.load(source / "onnx" / "model.onnx")
    small = cache_bytes(graph)
    if not (whole_cache(graph) or float_cache(graph)):
        return None
    twin = scratch / "float-cache"
    try:
        shutil.copytree(source, twin, ignore=shutil.ignore_patterns("onnx"))
        graph.save(twin / "onnx" / "model.onnx")
        longest = Bundle(source, {}).max_length or max(contexts)
        by_length = {}
        for tokens in contexts:
            if tokens + bench.decode_steps < longest:
                settings = bench.model_copy(update={"tokens": tokens, "min_rounds": 3})
                by_length[tokens] = _at(compare(source, twin, settings))
    finally:
        shutil.rmtree(twin, ignore_errors=True)
    return Cache(
        bytes_per_token=small,
        float_bytes_per_token=cache_bytes(graph),
        contexts={str(tokens): found for tokens, found in by_length.items()},
        decode_pays_from=pays_from({at: found.decode for at, found in by_length.items()}),
        prompt_pays_from=pays_from({at: found.prompt for at, found in by_length.items()}),
    )


def pays_from(ratios: Mapping[int, Ratio]) -> int | None:
    """The shortest context from which on a ratio's interval lies above 1; None where there is none.

    Args:
        ratios: by tokens of the context.
    """
    found = None
    for tokens in sorted(ratios, reverse=True):
        if ratios[tokens].low <= 1:
            return found
        found = tokens
    return found


def _at(result: Comparison) -> CacheAt:
    return CacheAt(
        prompt=result.measures["prompt"].ratio,
        decode=result.measures["decode"].ratio,
        peak_memory_bytes=result.candidate.peak_memory_bytes,
        float_peak_memory_bytes=result.baseline.peak_memory_bytes,
    )
