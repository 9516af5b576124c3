"""What is measured of a build, within which bounds, and what is required of it."""

import pytest
from pydantic import ValidationError
from speeds import make_side, make_speed

from edgeprune.measure.bench.record import Ratio
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.result import Evaluation
from edgeprune.measure.record import Measured
from edgeprune.measure.requirements import Requirements, judge, missed
from edgeprune.pipeline.measure.settings import MeasureSettings
from edgeprune.pipeline.measure.stages import measured_stages


@pytest.mark.parametrize(
    ("wrote", "expected"),
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
        (["prune", "another", "quantize"], ["prune", "another", "export"]),
    ],
)
def test_every_model_is_measured_once(wrote: list[str], expected: list[str]) -> None:
    assert measured_stages(["load", *wrote]) == expected


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


def scored(task: str, **found: dict[str, float]) -> Evaluation:
    return Evaluation.model_validate({"task": task, "data": "d", "conditions": {}, **found})


COSINE = scored("cosine", values={"mean_cosine": 0.99999812})
PERPLEXITY = scored(
    "perplexity",
    values={"perplexity": 22.0},
    original={"perplexity": 20.0},
    difference={"perplexity": 2.0},
)
KL = scored("kl", values={"kl_nats_per_token": 0.1})
STS = scored(
    "sts",
    values={"spearman": 79.99},
    original={"spearman": 81.0},
    difference={"spearman": -1.01},
)


def measured(*quality: Evaluation) -> Measured:
    speed = make_speed("feature-extraction")
    ratio = Ratio(value=1.9996, low=1.9, high=2.1)
    pair = speed.measures["encoder"].model_copy(update={"ratio": ratio})
    smaller = make_side("bundle", model_bytes=2_000_400)
    speed = speed.model_copy(update={"measures": {"encoder": pair}, "candidate": smaller})
    return Measured(speed=speed, quality=quality)


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
    quality: list[Evaluation], require: dict[str, float], sentences: list[str]
) -> None:
    assert missed(measured(*quality), Requirements.model_validate(require)) == sentences


def test_requirements_are_told_whether_met_or_missed() -> None:
    ends = {"mean_cosine": (0.99999712, 0.99999912)}
    cosine = COSINE.model_copy(update={"interval": ends})
    perplexity = PERPLEXITY.model_copy(update={"difference_interval": {"perplexity": (1.0, 3.0)}})
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


@pytest.mark.parametrize("damage", ["model_bytes", "peak_memory_bytes"])
def test_a_build_knows_bytes_and_memory_of_both_sides(damage: str) -> None:
    content = measured(COSINE).to_json()
    assert Measured.model_validate(content) == measured(COSINE)
    assert content.keys() == {"speed", "quality"}
    content["speed"]["baseline"][damage] = 0
    with pytest.raises(ValidationError, match="without bytes and memory"):
        Measured.model_validate(content)
