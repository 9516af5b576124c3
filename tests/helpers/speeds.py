"""A benchmark's result, without a benchmark."""

from typing import Any


def make_speed(task: str) -> dict[str, Any]:
    """What a benchmark might have found; here no time is of interest."""
    side = {
        "median_ms": 2.0,
        "interval_ms": [1.5, 2.5],
        "p95_ms": 3.0,
        "texts_per_second": 500.0,
        "tokens_per_second": 6000.0,
    }
    ratio = {"value": 2.0, "low": 1.75, "high": 2.25}
    model = {"model_bytes": 3_000_000, "peak_memory_bytes": 5_000_000}
    return {
        "settings": {"tokens": 12, "batch": 1, "threads": 1, "width": 0.03},
        "machine": {"processor": "a processor", "onnxruntime": "1"},
        "baseline": model,
        "candidate": model,
        "measures": {
            work: {"baseline": side, "candidate": side, "ratio": ratio, "settled": True}
            for work in WORKS[task]
        },
    }


WORKS = {
    "feature-extraction": ("encoder",),
    "text-classification": ("encoder",),
    "text-generation": ("prompt", "decode"),
}
