"""The examples of CONTRIBUTING.md: each applied to a copy of the package, and used in a build."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import short_turns
import torch
from safetensors.torch import load_file
from tiny_builds import model_folder, recipe_file, text_file

import edgeprune

PACKAGE = Path(edgeprune.__file__).parent
GUIDE = PACKAGE.parent / "CONTRIBUTING.md"
if not GUIDE.is_file():
    pytest.skip("no checkout: the package is installed alone", allow_module_level=True)

FILES = {"criterion": 2, "stage": 6}
"""The examples, and how many files each may touch: a stage those of its folder and one more."""
RECIPE = """
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
prune: {method: ria, sparsity: 0.3, samples: 8}
recover: {steps: 4, checks: 2, precision: float32}
clip: {quantile: 0.75}
quantize: {calibration_samples: 8}
measure: {tokens: 12, seconds: 0.1, launches: 1, profile: false, curve: [], stages: false}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, the file that its first line names, and the rest."""

    language: str
    file: str
    lines: list[str]


def blocks(example: str, guide: str) -> list[Block]:
    """The blocks of the section that is marked as an example of this name."""
    marked = re.search(rf"^<!-- example: {example} -->\n(.*?)(?=^## |\Z)", guide, re.M | re.S)
    assert marked, example
    found = []
    for _, language, first, rest in re.findall(
        r"^(`{3,})(\w+)\n([^\n]*)\n(.*?)^\1$", marked[1], re.M | re.S
    ):
        file = re.fullmatch(r"(?:#|<!--) (edgeprune/\S+)(?: -->)?", first)
        assert file, f"the block's first line names no file: {first}"
        found.append(Block(language, file[1], rest.splitlines(keepends=True)))
    assert found, example
    return found


def apply(block: Block, place: Path) -> None:
    """Write a new file, or change one where the context of each hunk stands, which is once."""
    file = place / block.file
    if block.language != "diff":
        assert not file.exists(), f"{block.file} is there already"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(block.lines), encoding="utf-8")
        return
    content = file.read_text(encoding="utf-8")
    hunks: list[list[str]] = []
    for line in block.lines:
        if line == "@@\n":
            hunks.append([])
        else:
            assert line[0] in " +-\n", f"{block.file}: {line}"
            hunks[-1].append(line if line[0] != "\n" else f" {line}")
    for hunk in hunks:
        before, after = ("".join(at[1:] for at in hunk if at[0] != sign) for sign in "+-")
        assert before != after
        assert content.count(before) == 1, f"{block.file} does not hold once:\n{before}"
        content = content.replace(before, after)
    file.write_text(content, encoding="utf-8")


def files(example: str) -> set[str]:
    """The files that an example adds or changes."""
    return {block.file for block in blocks(example, GUIDE.read_text(encoding="utf-8"))}


def applied(place: Path, *examples: str) -> Path:
    """A folder with a copy of the package that has the files of these examples."""
    ignored = shutil.ignore_patterns("*.pyc.*")  # that another process is writing
    shutil.copytree(PACKAGE, place / "edgeprune", ignore=ignored)
    for example in examples:
        for block in blocks(example, GUIDE.read_text(encoding="utf-8")):
            apply(block, place)
    return place


def run(package: Path, *given: object, code: int = 0, lines: str = "") -> str:
    """What the command of a copied package prints, given these lines in a pipe."""
    command = [sys.executable, "-P", short_turns.__file__, *map(str, given)]
    where = {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command,
        env=os.environ | where,
        cwd=package,
        input=lines,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def load_module(file: Path) -> ModuleType:
    """A module of a copy, which imports what the package itself has."""
    spec = importlib.util.spec_from_file_location(f"copied_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Built:
    """What a package with all the examples made of a model."""

    package: Path
    model: Path
    out: Path
    did: dict[str, dict]
    """What each stage recorded, in order."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    package = applied(tmp_path_factory.mktemp("examples"), *FILES)
    model = model_folder(package / "model")
    recipe = recipe_file(package / "recipe.yaml", RECIPE)
    given = [recipe, "--model", model, "--data", text_file(package / "text.txt")]
    run(package, "build", *given, "--output", package / "out")
    manifest = json.loads((package / "out/bundle/edgeprune.json").read_text())
    did = {stage["name"]: stage for stage in manifest["stages"]}
    return Built(package, model, package / "out", did)


@pytest.mark.parametrize(("example", "most"), FILES.items())
def test_an_example_touches_no_more_files_than_it_should(example, most):
    assert len(files(example)) <= most
    others = set().union(*(files(other) for other in FILES if other != example))
    assert not files(example) & others  # so that each can stand alone


def test_a_stage_is_its_folder_and_a_row():
    outside = {file for file in files("stage") if not file.startswith("edgeprune/compress/clip/")}
    assert outside == {"edgeprune/export/stages.py"}


def test_the_criterion_prunes_exactly(built):
    pruned = built.did["prune"]
    sizes = [layer["weights"] for layer in pruned["layers"].values()]
    assert len(sizes) == 12
    assert pruned["method"] == "ria"
    assert pruned["weights"] == sum(sizes)
    assert pruned["removed"] == round(0.3 * sum(sizes))
    [masks] = built.out.glob("stages/recover-*/masks.safetensors")
    kept = load_file(masks).values()
    assert sum(int((mask == 0).sum()) for mask in kept) == pruned["removed"]
    assert "As wanda, each weight" in " ".join(run(built.package, "recipes", "--all").split())


def test_the_criterion_is_the_papers(tmp_path):
    """Beside the formula in plain loops, with a row of zeros."""
    module = load_module(applied(tmp_path, "criterion") / "edgeprune/compress/prune/ria.py")
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(5, 7)), rng.normal(size=(7, 30))
    weight[2] = 0
    expected = np.zeros((5, 7))
    for i in range(5):
        for j in range(7):
            row, column = sum(map(abs, weight[i])), sum(map(abs, weight[:, j]))
            if weight[i, j]:
                shares = abs(weight[i, j]) / column + abs(weight[i, j]) / row
                expected[i, j] = shares * sum(inputs[j] ** 2) ** 0.5**2
    torch_weight, gram = torch.tensor(weight), torch.tensor(inputs @ inputs.T)
    found = module.importance(torch_weight, gram.diagonal(), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    kept = module.ria(torch_weight, gram, "weights", 17, 0.5).kept
    gone = np.argsort(expected, axis=None)[:17]
    assert sorted(np.flatnonzero(~kept)) == sorted(gone)


def test_the_stage_is_refused_shown_carried_out_and_told(built, tmp_path):
    given = ["--model", built.model, "--data", built.package / "text.txt", "--dry-run"]
    alone = recipe_file(tmp_path / "alone.yaml", RECIPE.replace("quantize:", "# quantize:"))
    assert "this recipe has no quantize" in run(built.package, "build", alone, *given, code=2)
    shown = run(built.package, "build", built.package / "recipe.yaml", *given)
    assert "the largest 0.25 of the weights of 12 linears are clipped" in " ".join(shown.split())

    names, clip = list(built.did), built.did["clip"]
    assert names.index("recover") + 1 == names.index("clip") == names.index("quantize") - 1
    assert clip["clipped"] == round(0.25 * clip["weights"])
    card = (built.out / "bundle/README.md").read_text(encoding="utf-8")
    assert f"{clip['clipped']:,} of {clip['weights']:,} weights clipped" in card


def test_the_guide_to_a_task_names_files_that_are_there():
    guide = GUIDE.read_text(encoding="utf-8")
    [section] = re.findall(r"^## A task\n(.*?)^## ", guide, re.M | re.S)
    named = re.findall(r"^\| `(\S+)` \|", section, re.M)
    assert len(named) >= 7
    for file in named:
        assert (PACKAGE / file).is_file() or (GUIDE.parent / file).is_file(), file


def test_a_changed_context_is_noticed(tmp_path):
    (tmp_path / "edgeprune").mkdir()
    (tmp_path / "edgeprune/a.py").write_text("one\ntwo\nthree\n")
    change = "<!-- example: x -->\n```diff\n# edgeprune/a.py\n@@\n two\n+more\n@@\n-three\n```\n"
    [block] = blocks("x", change)
    apply(block, tmp_path)
    assert (tmp_path / "edgeprune/a.py").read_text() == "one\ntwo\nmore\n"
    with pytest.raises(AssertionError, match="does not hold once"):
        apply(block, tmp_path)
