"""The examples of CONTRIBUTING.md: each is applied to a copy of the package and used in a build."""

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
import torch
import transformers
from tiny_builds import model_folder, recipe_file, sentence_lines, text_file
from tokenizers import Tokenizer

import edgeprune

PACKAGE = Path(edgeprune.__file__).parent
GUIDE = PACKAGE.parent / "CONTRIBUTING.md"
if not GUIDE.is_file():
    pytest.skip("no checkout: the package is installed alone", allow_module_level=True)

MEASURE = "measure: {tokens: 12, seconds: 0.1, profile: false, curve: [], stages: true}"
TEXT = "text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}"


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


def applied(example: str, most: int, place: Path) -> Path:
    """A folder with a copy of the package that has an example's files, at most so many."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, place / "edgeprune", ignore=ignored)
    found = blocks(example, GUIDE.read_text(encoding="utf-8"))
    files = {block.file for block in found}
    assert len(files) <= most
    for block in found:
        apply(block, place)
    return place


def run(package: Path, *given: object, code: int = 0) -> str:
    """What the command of a copied package prints; warnings are errors as in every test."""
    command = [sys.executable, "-m", "edgeprune", *map(str, given)]
    where = {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command, env=os.environ | where, cwd=package, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def build(package: Path, stages: str, model: Path) -> tuple[Path, dict[str, dict]]:
    """The folder of a build by a copied package, and what each stage recorded."""
    recipe = recipe_file(package / "recipe.yaml", f"{TEXT}\n{stages}\n{MEASURE}\n")
    given = ["build", recipe, "--model", model, "--data", text_file(package / "text.txt")]
    run(package, *given, "--output", package / "out")
    manifest = json.loads((package / "out/bundle/edgeprune.json").read_text())
    return package / "out", {stage["name"]: stage for stage in manifest["stages"]}


def load_file(file: Path) -> ModuleType:
    """A module of a copy, which imports what the package itself has."""
    spec = importlib.util.spec_from_file_location(f"copied_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_criterion_of_two_files_prunes_exactly(tmp_path):
    package = applied("criterion", 2, tmp_path)
    model = model_folder(tmp_path / "model")
    out, did = build(package, "prune: {method: ria, sparsity: 0.3, samples: 8}", model)
    pruned = did["prune"]
    sizes = [layer["weights"] for layer in pruned["layers"].values()]
    assert len(sizes) == 12
    assert pruned["method"] == "ria"
    assert pruned["weights"] == sum(sizes)
    assert pruned["removed"] == round(0.3 * sum(sizes))
    assert "As wanda, each weight" in run(package, "recipes", "--methods")


def test_the_criterion_is_the_papers(tmp_path):
    """Beside the formula in plain loops, with a row of zeros."""
    module = load_file(applied("criterion", 2, tmp_path) / "edgeprune/compress/prune/ria.py")
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


def test_a_stage_is_a_folder_and_a_row(tmp_path):
    package = applied("stage", 6, tmp_path)
    model = model_folder(tmp_path / "model")
    touched = {block.file for block in blocks("stage", GUIDE.read_text(encoding="utf-8"))}
    outside = {file for file in touched if not file.startswith("edgeprune/compress/clip/")}
    assert outside == {"edgeprune/export/stages.py"}

    recipe = recipe_file(package / "alone.yaml", f"{TEXT}\nclip: {{}}\n{MEASURE}\n")
    given = ["--model", model, "--data", text_file(package / "text.txt"), "--dry-run"]
    assert "this recipe has no quantize" in run(package, "build", recipe, *given, code=2)
    recipe.write_text(f"{TEXT}\nclip: {{quantile: 0.75}}\nquantize: {{}}\n{MEASURE}\n")
    shown = " ".join(run(package, "build", recipe, *given).split())
    assert "the largest 0.25 of the weights of 12 linears are clipped" in shown

    stages = "clip: {quantile: 0.75}\nquantize: {calibration_samples: 8}"
    out, did = build(package, stages, model)
    assert list(did).index("clip") == list(did).index("quantize") - 1
    assert did["clip"]["clipped"] == round(0.25 * did["clip"]["weights"])
    assert [each["name"] for each in did["measure"]["stages"]] == ["clip", "export"]
    card = (out / "bundle/README.md").read_text(encoding="utf-8")
    assert f"{did['clip']['clipped']:,} of {did['clip']['weights']:,} weights clipped" in card


def test_a_task_of_five_files_answers_as_the_torch_model_does(tmp_path):
    package = applied("task", 5, tmp_path)
    model = model_folder(tmp_path / "model")
    torch.manual_seed(0)
    config = transformers.BertConfig.from_pretrained(model, num_labels=3)
    tagger = transformers.BertForTokenClassification(config).eval()
    with torch.no_grad():
        tagger.classifier.weight.normal_()  # so that no two labels are as likely
    tagger.save_pretrained(model)
    stages = """
prune: {pattern: channels, sparsity: 0.5, steps: 6, updates: 2, checks: 2, precision: float32}
cut: {}
recover: {steps: 4, checks: 2, precision: float32}
quantize: {calibration_samples: 8, method: gptq}
"""
    out, did = build(package, stages, model)
    assert did["cut"]["channels"] != [40, 40]
    assert sum(did["cut"]["channels"]) == 40
    checks = did["recover"]["checks"]
    assert checks[-1]["step"] == 4
    [quality] = did["measure"]["quality"]
    assert quality["values"].keys() == {"kl_nats_per_token", "same_top_token"}

    texts = sentence_lines(3, seed=1)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    for text in texts:
        encoding = tokenizer.encode(text)
        with torch.no_grad():
            logits = tagger(torch.tensor([encoding.ids])).logits[0]
        answers = [
            json.loads(run(package, "run", folder, text, "--json").splitlines()[-1])
            for folder in (out / "original", out / "bundle")
        ]
        wanted = [f"LABEL_{best}" for best in logits.argmax(-1).tolist()[1:-1]]
        assert answers[0] == {"text": text, "tokens": text.split(), "labels": wanted}
        assert answers[1]["tokens"] == text.split()


def test_a_changed_context_is_noticed(tmp_path):
    (tmp_path / "edgeprune").mkdir()
    (tmp_path / "edgeprune/a.py").write_text("one\ntwo\nthree\n")
    change = "<!-- example: x -->\n```diff\n# edgeprune/a.py\n@@\n two\n+more\n@@\n-three\n```\n"
    [block] = blocks("x", change)
    apply(block, tmp_path)
    assert (tmp_path / "edgeprune/a.py").read_text() == "one\ntwo\nmore\n"
    with pytest.raises(AssertionError, match="does not hold once"):
        apply(block, tmp_path)
