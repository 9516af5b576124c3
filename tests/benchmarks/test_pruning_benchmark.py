"""The one-shot comparison: its cells, its figures beside `evaluate`'s, its goals. None is run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_model

from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.prune.allocate_settings import ALLOCATORS
from edgeprune.compress.prune.methods import METHODS
from edgeprune.measure.evaluate.perplexity import negative_log_likelihood
from edgeprune.runtime.logits import kl_divergence

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_every_cell_has_settings_that_the_stages_take():
    from oneshot.design import SUBJECTS, cells, estimate
    from oneshot.measure import settings_of

    every = cells()
    assert len({cell.name for cell in every}) == len(every)
    for cell in every:
        CutSettings(**cell.cut)
        assert estimate(cell) > 0
        if cell.prune:
            settings = settings_of(cell, quick=False)
            pattern = cell.prune.get("pattern", "weights")
            assert settings.pattern == pattern
            assert settings.sparsity == (0.5 if pattern == "2:4" else cell.prune["sparsity"])
    for subject in SUBJECTS:
        mine = [cell for cell in every if cell.subject == subject]
        methods = {cell.prune["method"] for cell in mine if cell.prune}
        assert methods == set(METHODS) - {"momentum-variance"}
        named = {cell.prune["allocate"]["by"] for cell in mine if "allocate" in cell.prune}
        assert named == set(ALLOCATORS) - {"uniform"}
        assert sum(bool(cell.sampler) for cell in mine) == 9


def test_the_cells_that_goals_need_come_first():
    from oneshot.design import cells
    from oneshot.report import goals

    facts = {"seconds": 1.0, "peak_megabytes": 1, "by_window": {"kl": [0.1, 0.2]}}
    first = {cell.name: {"perplexity": n, **facts} for n, cell in enumerate(cells()[:8], start=1)}
    assert not any("not run" in line for line in goals(first))
    first.popitem()
    assert sum("not run" in line for line in goals(first)) == 1


@torch.no_grad()
def test_a_decoder_is_measured_as_evaluate_does(tmp_path):
    from oneshot.cache import before_head
    from oneshot.measure import beside_original

    original, model = (make_model("llama", tmp_path) for _ in range(2))
    for name in model.anatomy.block_linears():
        weight = model.linear(name).weight
        weight.masked_fill_(torch.rand_like(weight) < 0.3, 0)
    windows = np.random.default_rng(0).integers(5, 131, (4, 16))
    hidden = before_head(original, windows)
    found = beside_original(model, torch.from_numpy(windows), hidden)
    its, ours = (
        [m.module(torch.from_numpy(ids)[None]).logits[0].numpy() for ids in windows]
        for m in (original, model)
    )
    nats = [
        negative_log_likelihood(o[:-1], ids[1:]).mean()
        for o, ids in zip(ours, windows, strict=True)
    ]
    divergences = [kl_divergence(i, o).mean() for i, o in zip(its, ours, strict=True)]
    agreed = [(i.argmax(1) == o.argmax(1)).mean() for i, o in zip(its, ours, strict=True)]
    np.testing.assert_allclose(found["by_window"]["nats"], nats, rtol=1e-5)
    np.testing.assert_allclose(found["by_window"]["kl"], divergences, rtol=1e-4)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert found["same_top_token"] == pytest.approx(100 * np.mean(agreed))
    same = beside_original(original, torch.from_numpy(windows), hidden)
    assert same["kl_nats_per_token"] == pytest.approx(0, abs=1e-5)
    assert same["same_top_token"] == 100


def test_the_original_is_read_once(tmp_path):
    from oneshot.cache import model_folder, of_original

    make_model("llama", tmp_path / "hf", unequal=False)
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    place = model_folder(str(tmp_path / "hf"), tmp_path / "cache")
    assert model_folder(str(tmp_path / "hf"), tmp_path / "cache") == place
    asked = []

    def make(model: Any) -> dict[str, Any]:
        asked.append(model)
        return {"layers": torch.tensor(model.layers)}

    for key in ("64 windows", "64 windows", "1 window"):
        assert of_original(place, key, make)["layers"].tolist() == [0, 1]
    assert len(asked) == 2


def line(name: str, perplexity: float, **others: Any) -> dict[str, Any]:
    common = {"threads": 2, "seconds": 61.2, "peak_megabytes": 2048, "total_seconds": 90.0}
    decoder = {"perplexity": perplexity, "kl_nats_per_token": 0.12345, "same_top_token": 81.26}
    name = f"SmolLM2, {name}"
    return {name: {"name": name, "subject": "SmolLM2", **common, **decoder, **others}}


def test_goals_are_reached_or_missed_by_the_figures():
    from oneshot.report import goals

    kl = list(np.linspace(0.2, 0.4, 64))
    done = {
        **line("original", 25.0),
        **line("magnitude, 50 % weights", 900.0),
        **line("wanda, 50 % weights", 60.0, seconds=181.0, by_window={"kl": kl}),
        **line("sparsegpt, 50 % weights", 50.0),
        **line("thanos, 50 % weights", 51.5, peak_megabytes=4100),
        **line("20 % channels", 45.0),
        **line("20 % channels, compensated", 40.0),
        **line("wanda, 50 %, evopress", 55.0, by_window={"kl": [k - 0.01 for k in kl]}),
    }
    found = list(goals(done))[1:]
    verdicts = [row.split(" | ")[-1].strip("| ") for row in found]
    missed = "**missed**"
    assert verdicts == [
        *("reached", "reached", "reached", missed, "reached"),
        *(missed, "reached", missed, "reached"),
    ]
    assert "-0.0100 (-0.0100 to -0.0100) nats, 1 minutes" in found[-1]
    assert "+15.00 and +20.00, 0.75 of it" in found[4]
    done |= line("wanda, 50 %, evopress", 55.0, by_window={"kl": kl[::-1]})
    assert missed in list(goals(done))[-1]


def test_tables_have_a_column_for_what_each_model_is_measured_by():
    from oneshot.report import tables

    costs = {"threads": 1, "seconds": 61.2, "peak_megabytes": 2048}
    encoder = {**costs, "spearman": 86.719, "cosine": 0.98765}
    done = {
        **line("wanda, 2:4", 99.5),
        **line("original", 25.481),
        "MiniLM, original": {"name": "MiniLM, original", "subject": "MiniLM", **encoder},
    }
    lines = tables(done).splitlines()
    first = lines.index("| SmolLM2, original | 25.48 | 0.1235 | 81.3 % | 2 | 61 | 2,048 |")
    assert lines[first + 1].startswith("| SmolLM2, wanda, 2:4 | 99.50 |")  # in the design's order
    assert "| MiniLM, original | 86.72 | 0.9877 | 1 | 61 | 2,048 |" in lines


def test_estimates_follow_what_cells_took():
    import pruning
    from oneshot.design import cells, estimate

    first, second = cells()[:2]
    done = {first.name: {"total_seconds": 3 * estimate(first)}}
    assert pruning.slowness({}) == 1
    assert pruning.slowness(done) == pytest.approx(3)
    one, other, last = pruning.listed([first, second], done)
    assert "done" in one
    assert other.startswith(pruning._time(3 * estimate(second)))
    assert "3.00 times" in last
