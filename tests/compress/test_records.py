"""Stages' records write what they read, in the same order, and refuse what is damaged."""

import json

import pytest
from pydantic import ValidationError

from edgeprune.compress.cut.record import Cut
from edgeprune.compress.cut.vocabulary_record import Trimmed
from edgeprune.compress.load.record import Loaded
from edgeprune.compress.prune.record import Pruned
from edgeprune.compress.quantize.plan import Entry, Plan
from edgeprune.compress.quantize.record import Quantized
from edgeprune.compress.recover.record import Recovered
from edgeprune.export.record import Exported
from edgeprune.export.rewrite.record import Rewritten

CHECK = {"step": 3, "learning_rate": 0.1, "loss": 1.5, "held_out": 1.25}
UPDATE = {
    "update": 0,
    "step": 1,
    "target": 0.0,
    "deficit": 0.0,
    "norm": None,
    "trend": 1.0,
    "deviation": 0.0,
    "beta": 0.5,
    "budget": 0.0,
    "sparsity": 0.0,
    "dropped": 0,
    "grown": 0,
    "churn": 0.0,
    "kept": {"channels.0": 40},
}
POOL = {"pattern": "channels", "units": 80, "removed": 40, "trajectory": [UPDATE]}
LAYER = {"removed": 5, "weights": 10, "error": 0.5}
ONE_SHOT = {"pattern": "4x1", "removed": 5, "weights": 10, "layers": {"a": LAYER}}
PLAN = Plan(
    (
        Entry("embeddings", "word", (131, 32), "int8-rows", bits=7),
        Entry("a", "up", (32, 64), "sparse-4x1", bits=7, sparsity=0.5, predicted_us=1.5),
    )
)
TENSORS = json.loads(json.dumps(PLAN.to_json()))
QUANTIZED = {
    "plan": TENSORS,
    "errors": {"a": {"relative": 0.1, "output": 0.2}},
    "smoothed": [],
    "massive_activations": {"a": 30.5},
    "activation_drift": 0.125,
    "costs": {"a": {"int8": 0.25}},
}
SHAPES = {"heads": [4, 4], "channels": [40, 39]}
PASS = {
    "name": "fold constants",
    "changed": 67,
    "nodes": 141,
    "drift": 0.0,
    "tolerance": 0.5,
    "kept": True,
    "reason": "",
    "rounding": None,
}
TOKENS = {"texts": 3, "texts_same": 1.0, "tokens_kept": 0.5, "length": 1.5}
WRITTEN = [
    (Loaded, {"parameters": 21360, **SHAPES}),
    (Exported, {"bytes": 121762}),
    (
        Trimmed,
        {
            "tokens_before": 9,
            "tokens": 5,
            "used": 4,
            "parameters_before": 90,
            "parameters": 50,
            "held_out": TOKENS,
        },
    ),
    (
        Pruned,
        {
            "method": "momentum",
            "pools": [POOL],
            "checks": [CHECK],
            "best_step": 3,
            "held_out": 1.25,
        },
    ),
    (Pruned, {"method": "nap", **ONE_SHOT}),
    (Pruned, {"method": "search", **ONE_SHOT, "search": {"best": [1, 2.5]}}),
    (Cut, {"layers": [0, 2], "experts": [], **SHAPES, "parameters": 9}),
    (Cut, {"layers": [0], "layer_scores": [0.5], "experts": [[0]], **SHAPES, "parameters": 9}),
    (Recovered, {"checks": [CHECK], "best_step": 3, "held_out": 1.25}),
    (Quantized, QUANTIZED),
    (Rewritten, {"passes": [PASS]}),
]


@pytest.mark.parametrize(("kind", "content"), WRITTEN)
def test_a_record_writes_what_it_read(kind, content):
    assert json.dumps(kind.model_validate(content).to_json()) == json.dumps(content)


def test_a_plan_comes_back_from_its_record():
    assert Plan.from_json(Quantized.model_validate(QUANTIZED).plan.to_json()) == PLAN


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        (Pruned, {"layers": {"a": LAYER}}, "layers without their pattern and sums"),
        (
            Pruned,
            {"pools": [{**POOL, "trajectory": [UPDATE, {**UPDATE, "kept": {"heads.0": 4}}]}]},
            "updates of different layers",
        ),
        (Quantized, {"plan": {"entries": [{**TENSORS["entries"][1], "format": "x"}]}}, "no tensor"),
        (Quantized, {**QUANTIZED, "errors": {"a": {"output": 0.5}}}, "without its relative one"),
        (Recovered, {"checks": [], "best_step": 3, "held_out": 1.25}, "at least 1 item"),
        (Recovered, {"checks": [CHECK], "best_step": 3, "held_out": float("nan")}, "finite"),
    ],
)
def test_what_is_damaged_is_refused(kind, content, reason):
    with pytest.raises(ValidationError, match=reason):
        kind.model_validate(content)
