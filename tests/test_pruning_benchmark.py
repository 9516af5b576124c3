"""The one-shot comparison's cells, without running them."""

from pathlib import Path
from typing import Any

import pytest

from edgeprune.cut.settings import CutSettings
from edgeprune.prune.allocate_settings import ALLOCATORS
from edgeprune.prune.methods import METHODS


@pytest.fixture
def pruning(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import pruning

    return pruning


def test_every_cell_has_settings_that_the_stages_take(pruning):
    cells = list(pruning.cells())
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        CutSettings(**cell.cut)
        if cell.prune:
            settings = pruning.settings_of(cell, quick=False)
            pattern = cell.prune.get("pattern", "weights")
            assert settings.pattern == pattern
            assert settings.sparsity == (0.5 if pattern == "2:4" else cell.prune["sparsity"])
    for subject in pruning.SUBJECTS:
        mine = [cell for cell in cells if cell.subject == subject]
        methods = {cell.prune["method"] for cell in mine if cell.prune}
        assert methods == set(METHODS) - {"momentum-variance"}
        named = {cell.prune["allocate"]["by"] for cell in mine if "allocate" in cell.prune}
        assert named == set(ALLOCATORS) - {"uniform"}
        assert sum(bool(cell.sampler) for cell in mine) == 9


def test_tables_have_a_column_for_what_each_model_is_measured_by(pruning):
    common = {"seconds": 61.2, "peak_megabytes": 2048}
    decoder = {"perplexity": 25.481, "kl_nats_per_token": 0.12345, "same_top_token": 81.26}
    done = {
        "a": {"name": "a", "subject": "SmolLM2", **common, **decoder},
        "b": {"name": "b", "subject": "MiniLM", **common, "spearman": 86.719, "cosine": 0.98765},
    }
    lines = pruning.tables(done).splitlines()
    assert "| a | 25.48 | 0.1235 | 81.3 % | 61 | 2,048 |" in lines
    assert "| b | 86.72 | 0.9877 | 61 | 2,048 |" in lines
