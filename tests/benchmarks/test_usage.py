"""The benchmark of usage: the kinds that it claims, what it counts, and that it finds faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprune.model.families import known_model_types

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def usage(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import usage

    return usage


def test_every_family_in_the_table_has_a_toy(usage):
    from toys.models import TYPES

    downloaded = {kind.model_type for kind in usage.read_table()}
    assert downloaded & set(known_model_types()) == downloaded & set(TYPES)


def test_every_way_that_is_known_is_claimed(usage):
    kinds = usage.read_table()
    found = [way for kind in kinds for way in usage.ways(kind.model_type, kind.task)]
    assert all(map(usage.claimed, found))
    assert not usage.claimed(replace(found[0], task="another"))


def test_shares_are_of_all_downloads(usage):
    kinds = [
        usage.Kind("bert", "feature-extraction", 50.0),
        usage.Kind("gpt2", "text-generation", 30.0),
        usage.Kind("whisper", "automatic-speech-recognition", 20.0),
    ]
    lines = list(usage.told(kinds, {"bert feature-extraction": {"held": True}}))
    assert [line.split()[-6::2] for line in lines[1:]] == [
        ["50.0", "50.0", "50.0"],
        ["30.0", "30.0", "0.0"],
        ["100.0", "80.0", "50.0"],
    ]


def test_a_kind_is_held_only_where_its_answers_are_those_of_transformers(
    usage, monkeypatch, tmp_path
):
    from toys import bundles

    kind = usage.Kind("bert", "feature-extraction", 1.0)
    found = usage.measure(kind, tmp_path / "right", quick=True)
    assert found["held"]
    assert found["ways"]["plain"]["float32"] < 1e-5

    (way,) = usage.ways(kind.model_type, kind.task)
    other = replace(way, asked=lambda *given: [(w, n + 2e-4) for w, n in way.asked(*given)])
    monkeypatch.setattr(usage, "ways", lambda *_: (other,))
    found = usage.measure(kind, tmp_path / "wrong", quick=True)
    assert not found["held"]
    assert "float32 answers differ by 0.0002" in found["why"]

    monkeypatch.setattr(usage, "ways", lambda *_: (way,))
    monkeypatch.setattr(usage, "drift", lambda *given: 12 * bundles.drift(*given))
    found = usage.measure(kind, tmp_path / "rounded", quick=True)
    assert found["failed"]
    assert "INT8 moves outputs by" in found["why"]


def test_other_words_are_no_matter_of_tolerance(usage):
    from toys.bundles import far

    one = [("positive", np.array([0.5, 0.5]))]
    assert far(one, [("positive", np.array([0.25, 0.5]))]) == 0.25
    with pytest.raises(AssertionError, match="'negative', transformers 'positive'"):
        far(one, [("negative", np.array([0.5, 0.5]))])
