"""Other processors under QEMU: x86 without VNNI, and ARM's instruction counts, where
benchmarks/qemu/setup.py has been run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import encoder_folder
from tiny_models import make_batch, make_model

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.embeddings import lower_embeddings
from edgeprune.export.rewrite.groups import lower_groups
from edgeprune.export.rewrite.int8 import lower_linears
from edgeprune.export.rewrite.verify import run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.targets import find

ROOT = Path(__file__).parents[2]
READY = (ROOT / "build" / "qemu" / "count_instructions.so").exists() and shutil.which(
    "qemu-aarch64"
)


@pytest.mark.skipif(not READY, reason="benchmarks/qemu/setup.py has not been run here")
def test_more_products_take_as_many_more_instructions(tmp_path: Path) -> None:
    """Four more [16, 256] x [256, 256] products; NEON multiplies and adds 4 floats at a time."""
    light = encoder_folder(tmp_path / "light", depth=2, width=256)
    heavy = encoder_folder(tmp_path / "heavy", depth=6, width=256)
    command = [sys.executable, ROOT / "benchmarks" / "qemu" / "count.py", light, "--against", heavy]
    options = ["--tokens", "16", "--json", tmp_path / "counts.json"]
    found = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    assert "counts, not times" in found.stdout
    counts = json.loads((tmp_path / "counts.json").read_text())["counts"]["encoder"]
    least = 4 * 16 * 256 * 256 / 4
    assert least < counts["baseline"] - counts["candidate"] < 2 * least


# AVX2 and no VNNI, as x86 processors were until 2019 and some are today; and neither.
OLD_X86 = {"Haswell": "x86-avx2", "Nehalem": "x86"}
_RUN = """
import sys
import numpy, onnxruntime
feeds = dict(numpy.load(sys.argv[1]))
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    numpy.save(path + ".npy", session.run(["last_hidden_state"], feeds)[0])
"""
FEEDS = {name: value.numpy() for name, value in make_batch().items()}
FEEDS["token_type_ids"] = np.zeros_like(FEEDS["input_ids"])


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """By format and bits: the lowered graph's file, and what its weights give in float32.

    All weights are as large as their channel's largest, the case in which most sums saturate.
    """
    folder = tmp_path_factory.mktemp("lowered")
    made = {}
    for weights, target in (
        ("int8", "x86-avx512-vnni"),
        ("int8", "x86-avx2"),
        ("int4", "x86-avx2"),
        ("int8-groups", "x86-avx2"),
    ):
        model = make_model("bert", folder / f"{weights}-{target}")
        with torch.no_grad():
            for linear in model.anatomy.linears():
                weight = model.linear(linear).weight
                weight.copy_(weight.sign() * weight.std())
        quantized = quantize_model(model, [], QuantizeSettings(weights=weights), find(target))
        path = export_onnx(model, folder / f"{weights}-{target}")
        graph = Graph.load(path)
        [exact] = run_graph(graph, [FEEDS])
        for lower in (lower_embeddings, lower_linears, lower_groups):
            lower(graph, quantized)
        made[weights, find(target).weight_bits] = (
            graph.save(path.with_name("lowered.onnx"))[0],
            exact["last_hidden_state"],
        )
    return made


@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="qemu-user is not installed")
@pytest.mark.parametrize(("processor", "target"), OLD_X86.items())
def test_a_plan_for_older_processors_does_not_saturate_there(
    processor: str, target: str, lowered: dict[tuple[str, int], Any], tmp_path: Path
) -> None:
    """Where two products are summed in 16 bits, weights of 8 bits give nonsense and 7 do not."""
    np.savez(tmp_path / "feeds.npz", **FEEDS)
    command = ["qemu-x86_64", "-cpu", processor, os.path.realpath(sys.executable), "-c", _RUN]
    command += map(str, (tmp_path / "feeds.npz", *(path for path, _ in lowered.values())))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, env=environment)
    attended = FEEDS["attention_mask"] == 1
    error = {}
    for name, (path, exact) in lowered.items():
        got, wanted = np.load(f"{path}.npy")[attended], exact[attended]
        error[name] = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
    if processor == "Haswell":
        assert error.pop(("int8", 8)) > 0.3  # the naive plan
    assert ("int8", find(target).weight_bits) in error
    assert max(error.values()) < 0.05, error
