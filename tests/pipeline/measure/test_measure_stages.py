"""What is measured of a build, within which bounds, and what is required of it."""

from typing import Any

import pytest
from pydantic import ValidationError

from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.requirements import Requirements, judge, missed
from edgeprune.pipeline.measure.settings import MeasureSettings
from edgeprune.pipeline.measure.stages import measured_stages

ENDS = ["load", "original", "export", "rewrite"]


@pytest.mark.parametrize(
    ("ran", "expected"),
    [
        ([], ["export"]),
        (["quantize"], ["export"]),
        (["cut"], ["export"]),
        (["cut", "recover"], ["cut", "export"]),
        (["prune", "cut", "recover", "quantize"], ["cut", "recover", "export"]),
        (["prune", "recover", "quantize"], ["prune", "recover", "export"]),
        (
            ["vocabulary", "prune", "cut", "sparsify", "recover", "quantize"],
            ["vocabulary", "cut", "sparsify", "recover", "export"],
        ),
    ],
)
def test_every_model_is_measured_once(ran: list[str], expected: list[str]) -> None:
    assert measured_stages([*ENDS, *ran]) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [
        ("tokens", "tokens", 131_072),
        ("batch", "batch", 1024),
        ("threads", "threads", 256),
        ("seconds", "time_limit", 86_400.0),
    ],
)
def test_what_the_benchmark_cannot_take_is_refused(ours: str, theirs: str, value: float) -> None:
    assert getattr(MeasureSettings.model_validate({ours: value}), ours) == value
    assert getattr(BenchSettings.model_validate({theirs: value}), theirs) == value
    for kind, name in ((MeasureSettings, ours), (BenchSettings, theirs)):
        with pytest.raises(ValidationError, match="less than or equal to"):
            kind.model_validate({name: value + 1})


COSINE = {"task": "cosine", "values": {"mean_cosine": 0.99999812}}
PERPLEXITY = {
    "task": "perplexity",
    "values": {"perplexity": 22.0},
    "original": {"perplexity": 20.0},
    "difference": {"perplexity": 2.0},
}
KL = {"task": "kl", "values": {"kl_nats_per_token": 0.1}}
STS = {
    "task": "sts",
    "values": {"spearman": 79.99},
    "original": {"spearman": 81.0},
    "difference": {"spearman": -1.01},
}


def measured(*quality: dict[str, Any]) -> dict[str, Any]:
    return {
        "speed": {
            "measures": {"encoder": {"ratio": {"value": 1.9996, "low": 1.9, "high": 2.1}}},
            "candidate": {"model_bytes": 2_000_400},
        },
        "quality": list(quality),
    }


@pytest.mark.parametrize(
    ("quality", "require", "sentences"),
    [
        ([COSINE], {"cosine": 1}, ["the mean cosine is 0.999998; 1 was required"]),
        ([COSINE], {"cosine": 0.99}, []),
        (
            [COSINE],
            {"speedup": 2},
            ["the model is 1.9996x as fast as the original; 2x was required"],
        ),
        ([COSINE], {"megabytes": 2}, ["the graph has 2.0004 MB; 2 were allowed"]),
        ([PERPLEXITY, KL], {"drop": 5}, ["perplexity lost 10.00 of perplexity; 5 were allowed"]),
        ([PERPLEXITY, KL], {"drop": 10.5}, []),
        ([COSINE, STS], {"drop": 1}, ["sts lost 1.01 of spearman; 1 were allowed"]),
        ([COSINE, STS], {"drop": 1.5}, []),
    ],
)
def test_a_requirement_is_judged_by_a_measure_that_has_it(
    quality: list[dict[str, Any]], require: dict[str, float], sentences: list[str]
) -> None:
    assert missed(measured(*quality), Requirements.model_validate(require)) == sentences


def test_requirements_are_told_whether_met_or_missed() -> None:
    cosine = COSINE | {"interval": {"mean_cosine": [0.99999712, 0.99999912]}}
    perplexity = PERPLEXITY | {"difference_interval": {"perplexity": [1.0, 3.0]}}
    require = Requirements(speedup=1.5, megabytes=2, cosine=0.99, drop=20)
    assert [
        (each.of, each.asked, each.measured, each.interval, each.met)
        for each in judge(measured(cosine, perplexity), require)
    ] == [
        ("speed", "at least 1.5x as fast", "2.00x", "1.90 to 2.10", True),
        ("graph and data", "at most 2 MB", "2.0004 MB", "", False),
        ("mean cosine", "at least 0.99", "1.0000", "1.0000 to 1.0000", True),
        ("perplexity lost", "at most 20 %", "10.00 %", "5.00 to 15.00", True),
    ]
    assert judge(measured(cosine), Requirements()) == []
