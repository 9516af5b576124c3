"""What `edgeprune recipes` says of methods: every one there is, and by its figures."""

import json

import pytest
from click.testing import CliRunner

from edgeprune.cli import main
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.prune.allocate_settings import ALLOCATORS
from edgeprune.compress.prune.methods import METHODS
from edgeprune.pipeline import advice

SMOLLM2 = {
    "original": (25.0, 0),
    "magnitude, 50 % weights": (900.0, 100),
    "wanda, 50 % weights": (60.0, 90),
    "sparsegpt, 50 % weights": (50.0, 200),
    "thanos, 50 % weights": (52.0, 300),
    "20 % channels": (40.0, 60),
    "20 % layers, loss": (45.0, 50),
    "20 % layers, search": (45.0, 400),
    "nobody's": (1.0, 1),
}
MINILM = {
    "original": (1.0, 0),
    "magnitude, 50 % weights": (0.80, 4),
    "wanda, 50 % weights": (0.84, 5),
    "nap, 50 % weights": (0.83, 90),
}


def rows() -> dict[str, dict[str, float]]:
    of = {"SmolLM2": ("perplexity", SMOLLM2), "MiniLM": ("cosine", MINILM)}
    return {
        f"{model}, {cell}": {
            measure: quality,
            # The same work by another number of threads.
            "seconds": seconds / 2 if cell.startswith("thanos") else seconds,
            "threads": 4 if cell.startswith("thanos") else 2,
            "kl": 1.0,
        }
        for model, (measure, lines) in of.items()
        for cell, (quality, seconds) in lines.items()
    }


def test_every_method_has_a_sentence():
    fields = CutSettings.model_fields
    known = {
        "prune.method": set(METHODS),
        "prune.allocate": set(ALLOCATORS),
        "cut.compensate": {"false", "true"},
        "cut.layer_score": set(fields["layer_score"].annotation.__args__),
    }
    assert {setting: set(group) for setting, group in advice.METHODS.items()} == known
    assert all(row["purpose"].endswith(".") for row in advice.advice({}))


def test_the_comparison_has_every_row_that_is_read(monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(pytestconfig.rootpath / "benchmarks")
    from oneshot.design import cells

    read = {f"{model}, {cell}" for model in advice.SUBJECTS for cell in advice.cells()}
    assert read <= {cell.name for cell in cells()}


def test_a_method_is_judged_beside_those_that_do_the_same(tmp_path):
    file = tmp_path / "measured.json"
    assert advice.read(file) == {}
    advice.write(rows(), file)
    kept = advice.read(file)
    assert set(kept["SmolLM2"]) == set(SMOLLM2) - {"nobody's"}
    assert kept["SmolLM2"]["wanda, 50 % weights"] == {
        "perplexity": 60.0,
        "seconds": 90,
        "threads": 2,
    }
    found = {(row["setting"], row["value"]): row["found"] for row in advice.advice(kept)}
    figures = "SmolLM2-135M, {}, 50 % weights: perplexity {} (original 25.0) in {}"
    start = {
        name: figures.format(name, *shown)
        for name, shown in {
            "magnitude": ("900.0", "100 s on 2 threads"),
            "wanda": ("60.0", "90 s on 2 threads"),
            "sparsegpt": ("50.0", "200 s on 2 threads"),
            "thanos": ("52.0", "150 s on 4 threads"),
        }.items()
    }
    figures = "MiniLM-L6, {}, 50 % weights: cosine {} to the original in {} s on 2 threads"
    other = {
        name: figures.format(name, *shown)
        for name, shown in {
            "magnitude": ("0.800", 4),
            "wanda": ("0.840", 5),
            "nap": ("0.830", 90),
        }.items()
    }
    said = {
        "magnitude": f"{start['magnitude']}: wanda loses less in no more time. "
        f"{other['magnitude']}: the least loss short of wanda's 5 s on 2 threads.",
        "wanda": f"{start['wanda']}: the least loss short of sparsegpt's 200 s on 2 threads. "
        f"{other['wanda']}: the least loss of all.",
        "sparsegpt": f"{start['sparsegpt']}: the least loss of all.",
        "thanos": f"{start['thanos']}: sparsegpt loses less in no more time.",
        "nap": f"{other['nap']}: wanda loses less in no more time.",
        "search": "Not measured yet.",
        "momentum-variance": "",
    }
    for name, sentence in said.items():
        assert found["prune.method", name] == sentence
    assert found["cut.compensate", "false"].endswith("in 60 s on 2 threads.")
    assert found["cut.layer_score", "loss"].endswith(": the least loss of all.")
    assert found["cut.layer_score", "search"].endswith(
        "in 7 min on 2 threads: loss loses as little in less time."
    )


@pytest.mark.parametrize("measured", [True, False])
def test_recipes_shows_it(measured, tmp_path, monkeypatch):
    file = tmp_path / "measured.json"
    if measured:
        advice.write(rows(), file)
    kept = advice.read(file)
    monkeypatch.setattr(advice, "read", lambda: kept)
    shown = " ".join(CliRunner().invoke(main, ["recipes", "--all"]).stdout.split())
    assert ("the least loss of all." in shown) == measured
    assert ("not measured yet" in shown.lower()) is True
    printed = json.loads(CliRunner().invoke(main, ["recipes", "--all", "--json", "-"]).stdout)
    assert {row["value"] for row in printed["methods"]} >= {*METHODS, *ALLOCATORS}
