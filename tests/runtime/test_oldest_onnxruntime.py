"""The oldest ONNX Runtime that a manifest states: it answers as the newest does, and the release
before it fails or answers otherwise.

Releases sum in other orders, so that now and then a value on the edge of two INT8 codes becomes the
other one, and all after it another number. So several texts of few values are compared, and the
median counts.

Each release goes into an environment of its own, with numpy's 1.x, which old releases want; that
needs a package index.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from tiny_models import make_batch, make_model

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.verify import complete_feed
from edgeprune.export.trace import export_onnx
from edgeprune.runtime.bundle import FIRST_RELEASES, MINIMUM_ONNXRUNTIME, oldest_onnxruntime
from edgeprune.runtime.onnx_file import read_outline
from edgeprune.targets import find

# Family and what its quantization is told -> how far the answers may be apart. Older releases round
# the activations of products in groups in other ways, or not at all.
BUNDLES: dict[str, tuple[str, dict[str, Any], float]] = {
    "encoder": ("bert", {}, 1e-4),
    "encoder, float32": ("bert", {"weights": "none"}, 1e-4),
    "encoder, sparse": ("bert", {}, 1e-4),
    "encoder, int4": ("bert", {"weights": "int4", "symmetric": False}, 0.2),
    "encoder, int8-groups": ("bert", {"weights": "int8-groups"}, 0.2),
    "classifier": ("classifier", {}, 1e-4),
    "decoder, laid out": ("llama", {}, 1e-4),
    "decoder, laid out, unpacked head": ("llama", {"unpacked_head": True}, 1e-4),
    "decoder": ("llama-fused", {}, 1e-4),
    "decoder, int4": ("llama-fused", {"weights": "int4", "symmetric": False}, 0.2),
    "decoder, int8 cache": ("llama-fused", {"cache_bits": 8}, 1e-3),
}
TEXTS = 9
BEFORE = {"1.22.0": "1.21.1", "1.28.0": "1.27.0"}
_RUN = """
import json, sys
import numpy, onnxruntime
for path, texts, answers in json.load(open(sys.argv[1])):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_outputs()[0].name
        found = [session.run([name], dict(numpy.load(feeds)))[0] for feeds in texts]
    except Exception:
        continue
    numpy.savez(answers, *found)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """By name: the graph's file, and of each text its feeds, its mask and the answer of the release
    that is installed."""
    folder = tmp_path_factory.mktemp("built")
    batches = [make_batch(2, 3, seed) for seed in range(1, TEXTS + 1)]
    target = replace(find("x86-avx2"), name="unmeasured")  # 7 bits, which no processor saturates
    made = {}
    for number, (name, (family, settings, _)) in enumerate(BUNDLES.items()):
        place = folder / str(number)
        model = make_model(family, place / "hf")
        if "sparse" in name:
            empty_blocks(model)
        quantized = quantize_model(model, batches[:1], QuantizeSettings(**settings), target)
        path = place / "rewritten.onnx"
        texts = [{key: value.numpy() for key, value in batch.items()} for batch in batches]
        exported, bits = export_onnx(model, place), settings.get("cache_bits")
        rewrite(exported, path, model.anatomy, quantized, texts[:1], target, bits)
        session = onnxruntime.InferenceSession(path)
        made[name] = path, [answered(session, text, place / f"{n}") for n, text in enumerate(texts)]
    assert "edgeprune" in read_outline(made["encoder, sparse"][0]).domains
    return made


def answered(
    session: onnxruntime.InferenceSession, text: dict[str, np.ndarray], place: Path
) -> tuple[Path, np.ndarray, np.ndarray]:
    """A text's feeds, as a file, its mask, and a session's answer."""
    feed, feeds = complete_feed(session, text), place.with_suffix(".npz")
    np.savez(feeds, **feed)
    answer = session.run([session.get_outputs()[0].name], feed)[0]
    return feeds, feed["attention_mask"] == 1, answer


def empty_blocks(model) -> None:
    """Empty nine of ten blocks of 4 inputs by 16 outputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in model.anatomy.block_linears():
            weight = model.linear(name).weight
            rows, columns = weight.shape
            kept = torch.rand(-(-rows // 16), -(-columns // 4), generator=generator) > 0.9
            weight *= kept.repeat_interleave(16, 0).repeat_interleave(4, 1)[:rows, :columns]


def answers_in(release: str, built, folder: Path) -> dict[str, list[np.ndarray]]:
    """What a release answers to each text, by name, for the files that it runs."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", f"onnxruntime=={release}", "numpy<2"]
    subprocess.run(pip, check=True)
    places = {name: folder / f"{number}.npz" for number, name in enumerate(built)}
    work = [
        (str(path), [str(feeds) for feeds, *_ in texts], str(places[name]))
        for name, (path, texts) in built.items()
    ]
    (folder / "work.json").write_text(json.dumps(work))
    subprocess.run([python, "-c", _RUN, folder / "work.json"], check=True)
    return {
        name: [found[key] for key in found.files]
        for name, place in places.items()
        if place.exists()
        for found in [np.load(place)]
    }


def agrees(name: str, answers: dict[str, list[np.ndarray]], built) -> bool:
    """Whether a release runs a file and answers most texts as the installed one does."""
    if name not in answers:
        return False
    _, texts = built[name]
    apart = []
    for (_, attended, wanted), got in zip(texts, answers[name], strict=True):
        if wanted.shape[:2] == attended.shape:
            wanted, got = wanted[attended], got[attended]
        apart.append(np.abs(got - wanted).max() / np.sqrt(np.mean(wanted**2)))
    return bool(np.median(apart) <= BUNDLES[name][2])


def number(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


@pytest.mark.slow
@pytest.mark.parametrize("release", [MINIMUM_ONNXRUNTIME, *sorted(set(FIRST_RELEASES.values()))])
def test_the_stated_release_answers_as_the_installed_one(release, built, tmp_path):
    stated = {name: oldest_onnxruntime(read_outline(path)) for name, (path, _) in built.items()}
    assert set(stated.values()) == {MINIMUM_ONNXRUNTIME, *FIRST_RELEASES.values()}
    answers = answers_in(release, built, tmp_path)
    for name in [name for name, oldest in stated.items() if oldest == release]:
        assert agrees(name, answers, built), name


@pytest.mark.slow
@pytest.mark.parametrize("release", sorted(set(FIRST_RELEASES.values())))
def test_the_release_before_the_stated_one_does_not(release, built, tmp_path):
    before = BEFORE[release]
    answers = answers_in(before, built, tmp_path)
    for name, (path, _) in built.items():
        stated = number(oldest_onnxruntime(read_outline(path))) <= number(before)
        assert agrees(name, answers, built) == stated, name


@pytest.mark.parametrize(("bits", "oldest"), [(4, MINIMUM_ONNXRUNTIME), (8, "1.22.0")])
def test_bits_of_groups_decide(bits, oldest, tmp_path):
    words = {"K": 32, "N": 16, "block_size": 32, "bits": bits}
    node = helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **words
    )
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 32])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", 16])
    model = helper.make_model(helper.make_graph([node], "groups", [value], [output]))
    onnx.save(model, tmp_path / "model.onnx")
    outline = read_outline(tmp_path / "model.onnx")
    assert outline.bits == {bits}
    assert oldest_onnxruntime(outline) == oldest
