"""From what context on a quantized key-value cache pays: a bundle beside itself with a float cache.

The operator's integer cache takes longer to fill (a prompt) and less to read (a long context), so
neither side is given one number: prompt and step are timed at each length.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.runtime.bundle import Bundle

CONTEXTS = (256, 1024, 4096)


def measure_cache(
    source: Path, scratch: Path, bench: BenchSettings, contexts: Sequence[int] = CONTEXTS
) -> dict[str, Any] | None:
    """Time a folder's graph beside the same with its cache in float32.

    Args:
        scratch: a folder in which the other may stand for a while.

    Returns:
        None where the cache is in float32. Else "bytes_per_token" and "float_bytes_per_token" of
        the cache; "contexts": by tokens of the context how many times faster "prompt" and "decode"
        are (ratios with intervals) and both sides' "peak_memory_bytes"; "decode_pays_from" and
        "prompt_pays_from", the shortest context that was measured from which on the ratio's whole
        interval is above 1, None where there is none.
    """
    # The passes need the build install, and a dry run on a device imports this file.
    from edgeprune.export.rewrite.graph import Graph
    from edgeprune.export.rewrite.quantized_cache import cache_bytes, float_cache

    graph = Graph.load(source / "onnx" / "model.onnx")
    small = cache_bytes(graph)
    if not float_cache(graph):
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
    return {
        "bytes_per_token": small,
        "float_bytes_per_token": cache_bytes(graph),
        "contexts": {str(tokens): found for tokens, found in by_length.items()},
        "decode_pays_from": pays_from(by_length, "decode"),
        "prompt_pays_from": pays_from(by_length, "prompt"),
    }


def pays_from(by_length: dict[int, dict[str, Any]], work: str) -> int | None:
    """The shortest context from which on a ratio's interval lies above 1."""
    found = None
    for tokens in sorted(by_length, reverse=True):
        if by_length[tokens][work]["low"] <= 1:
            return found
        found = tokens
    return found


def _at(result: dict[str, Any]) -> dict[str, Any]:
    ratios = {work: times["ratio"] for work, times in result["measures"].items()}
    peaks = [result[side]["peak_memory_bytes"] for side in ("candidate", "baseline")]
    return ratios | {"peak_memory_bytes": peaks[0], "float_peak_memory_bytes": peaks[1]}
