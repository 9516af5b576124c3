"""A build whose linears are emptied in blocks after a cut, and what every command does with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from sparse_models import library_for_tests
from tiny_builds import RECIPE, model_folder, recipe_file, sentence_lines, text_file

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.kernels import library
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.resolve import resolve
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder
from edgeprune.runtime.session import open_session, uses_kernels

# A target that nobody measured: sparse from 75 % on.
SPARSE = RECIPE.replace("name: tiny", "name: tiny\ntarget: x86-avx-vnni").replace(
    "recover:",
    """sparsify:
  pattern: 4x16
  sparsity: 0.85
  max_layer_sparsity: 0.95
  steps: 8
  updates: 3
  checks: 2
  precision: float32
recover:""",
)
QUICK = BenchSettings(tokens=12, launches=2, time_limit=0.2, min_rounds=3, turn_seconds=0.01)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site")
    arguments = ["build", recipe_file(site / "tiny.yaml", SPARSE)]
    arguments += ["--model", model_folder(site / "model"), "--data", text_file(site / "text.txt")]
    result = CliRunner().invoke(main, [*map(str, arguments), "--output", str(site / "out")])
    assert result.exit_code == 0, result.output
    return site / "out"


@pytest.fixture
def operators(tmp_path_factory, monkeypatch) -> Path:
    """The operator library as an installed one."""
    found = library_for_tests(tmp_path_factory.mktemp("library"))
    monkeypatch.setattr(library, "LIBRARY", found)
    library._loaded.cache_clear()
    return found


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("x86-avx512-vnni", "x86-avx512-vnni's break-even table finds faster at 12 tokens"),
        ("x86-avx-vnni", "x86-avx-vnni, which was not measured, takes to be safely faster"),
    ],
)
def test_a_dry_run_says_what_decides_on_sparse_formats(
    tmp_path: Path, target: str, rule: str
) -> None:
    text = SPARSE.replace("x86-avx-vnni", target)
    arguments = ["build", recipe_file(tmp_path / "tiny.yaml", text), "--dry-run"]
    arguments += ["--model", model_folder(tmp_path / "model")]
    arguments += ["--data", text_file(tmp_path / "text.txt"), "--set", "quantize.tokens=12"]
    shown = " ".join(CliRunner().invoke(main, list(map(str, arguments))).stdout.split())
    assert f"linears become sparse that lost enough blocks: what {rule}" in shown
    dense = CliRunner().invoke(main, [*map(str, arguments), "--set", "quantize.sparse=false"])
    assert "lost enough blocks" not in dense.stdout


def stage(folder: Path, name: str) -> dict:
    stages = json.loads((folder / "bundle" / "edgeprune.json").read_text())["stages"]
    return next(each for each in stages if each["name"] == name)


def sparse_entries(folder: Path) -> list[dict]:
    entries = stage(folder, "quantize")["plan"]["entries"]
    return [entry for entry in entries if entry["format"].startswith("sparse")]


def test_blocks_are_emptied_after_the_cut_and_stay_empty(built):
    [pool] = stage(built, "sparsify")["pools"]
    assert pool["removed"] == round(0.85 * pool["units"])
    [folder] = (built / "stages").glob("quantize-*")
    weights = load_file(folder / "model.safetensors")
    entries = sparse_entries(built)
    assert entries
    for entry in entries:
        weight = weights[f"{entry['name']}.weight"]
        outputs, inputs = weight.shape
        assert entry["shape"] == [outputs, inputs]
        padded = np.pad(weight, ((0, -outputs % 16), (0, -inputs % 4)))
        blocks = padded.reshape(-(-outputs // 16), 16, -(-inputs // 4), 4)
        empty = 1 - np.any(blocks != 0, axis=(1, 3)).mean()
        assert entry["sparsity"] == pytest.approx(empty, abs=1e-6)


def test_the_manifest_says_what_the_file_can_use(built):
    manifest = json.loads((built / "bundle" / "edgeprune.json").read_text())
    kinds = manifest["kernels"]["operators"]
    assert sum(kinds.values()) <= len(sparse_entries(built))
    assert all(name.startswith("SparseLinearInt8") for name in kinds)
    assert manifest["target"]["evidence"]["break_even"] == "unmeasured"
    found = stage(built, "measure")["sparse"]
    assert found["linears"] == len(sparse_entries(built))
    assert (found["predicted_us"], found["predicted_rows"]) == (None, 128)
    assert ("over_stock" in found) == library.installed()
    assert manifest["kernels"]["measured_with"] == (found["instruction_set"] or "none")


def test_a_session_takes_the_library_where_it_is(built, operators, monkeypatch, tmp_path):
    bundle = Bundle.open(built / "bundle")
    texts = sentence_lines(5, seed=3)
    fast = Embedder(bundle).embed(texts)
    kinds = {node.op_type for node in _run_nodes(bundle, tmp_path / "with")}
    assert any(name.startswith("SparseLinear") for name in kinds)
    stock = {node.op_type for node in _run_nodes(bundle, tmp_path / "stock", stock=True)}
    assert not any(name.startswith("SparseLinear") for name in stock)
    assert not uses_kernels(built / "original" / "onnx" / "model.onnx")
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    without = Embedder(bundle).embed(texts)
    assert {node.op_type for node in _run_nodes(bundle, tmp_path / "without")} == stock
    cosines = (
        (fast * without).sum(1) / np.linalg.norm(fast, axis=1) / np.linalg.norm(without, axis=1)
    )
    assert cosines.min() > 0.99


def _run_nodes(bundle: Bundle, file: Path, stock: bool = False) -> list:
    import onnx

    open_session(bundle.model_path, 1, optimized_path=file, stock=stock)
    return list(onnx.load(str(file)).graph.node)


def test_inspect_says_who_runs_it(built, operators, monkeypatch, tmp_path):
    def shown() -> str:
        result = CliRunner().invoke(main, ["inspect", str(built / "bundle")])
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    with_library = shown()
    assert "sparse linears: run by edgeprune.kernels" in with_library
    assert "4x16 blocks" in with_library
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    assert "run as dense INT8, without the operator library: install a C++" in shown()
    arguments = ["inspect", str(built / "bundle"), "--json", "-"]
    found = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert "CumSum" not in found["operators"]  # of a function's body, not of the graph
    layers = [layer for layer in found["layers"] if layer["block"]]
    assert layers
    assert all(0.5 < layer["sparsity"] < 1 for layer in layers)
    dense = sum(layer["shape"][0] * layer["shape"][1] for layer in layers)
    assert sum(layer["bytes"] for layer in layers) < dense


def test_bench_can_leave_the_library_out(built):
    bundle = built / "bundle"
    result = compare(bundle, f"stock:{bundle}", QUICK)
    assert result.baseline.name == f"stock:{bundle}"
    assert not result.baseline.notes
    told = [note for note in result.candidate.notes if "edgeprune.kernels" in note]
    assert bool(told) == library.installed()
    with resolve(f"stock:{bundle / 'onnx' / 'model.onnx'}") as subject:
        assert subject.load["stock"]
    torch = f"stock:torch:{built.parent / 'model'}"
    with pytest.raises(UserError, match="does not run in ONNX Runtime"), resolve(torch):
        pass


def test_evaluate_and_run_work_on_it(built):
    bundle = str(built / "bundle")
    [held] = (built / "stages").glob("measure-*/held_out.txt")
    for arguments in (
        ["run", bundle, "w001 w002 w003"],
        ["evaluate", bundle, "--task", "cosine", "--data", str(held), "--against", bundle],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
