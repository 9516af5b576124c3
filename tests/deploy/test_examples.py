"""The examples' numbers are Python's: compiled and run where their tools and packages are.

EDGEPRUNE_ORT_INCLUDE names a folder with onnxruntime_cxx_api.h where the system has none, and
EDGEPRUNE_NODE_MODULES one with the packages of deploy/examples/node/package.json.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import VOCABULARY, WORDS, encoder_folder
from sparse_models import library_for_tests, open_sparse, random_linear, sparse_model
from tokenizers import Tokenizer

from edgeprune import runtime
from edgeprune.runtime.bundle import write_bundle

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
TEXTS = ["the cat sat on a mat", "a dog", " ".join(WORDS)]
KINDS = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
MODULES = [
    {"idx": number, "type": f"sentence_transformers.models.{kind}", "path": path}
    for number, (path, kind) in enumerate(KINDS.items())
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle of an encoder, of which sentence-transformers would say: mean, length 1."""
    place = tmp_path_factory.mktemp("bundle")
    assets = encoder_folder(place / "assets", depth=2)
    graph = (assets / "model.onnx").rename(place / "model.onnx")
    (assets / "modules.json").write_text(json.dumps(MODULES))
    (assets / "1_Pooling").mkdir()
    (assets / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    manifest = {"task": "feature-extraction"}
    return write_bundle(place / "b", {"onnx/model.onnx": graph}, assets, manifest).folder


def ids(folder: Path, texts: list[str]) -> str:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return "".join(" ".join(map(str, tokenizer.encode(text).ids)) + "\n" for text in texts)


# C++ ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    include = os.environ.get("EDGEPRUNE_ORT_INCLUDE", "/usr/include/onnxruntime")
    if not (Path(include) / "onnxruntime_cxx_api.h").is_file():
        pytest.skip("ONNX Runtime's C++ headers are not here: EDGEPRUNE_ORT_INCLUDE may name them")
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("CMake or a C++ compiler is not here")
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime package has no library for C++")
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copy(libraries[-1], folder / "libonnxruntime.so.1")  # by the name it is loaded by
    options = [
        f"-DONNXRUNTIME_INCLUDE={include}",
        f"-DONNXRUNTIME_LIBRARY={folder}/libonnxruntime.so.1",
    ]
    for command in (
        ["cmake", "-S", EXAMPLES / "cpp", "-B", folder, *options],
        ["cmake", "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "embed"


def cpp(program: Path, *words: object, lines: str, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [program, *map(str, words)],
        input=lines,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        check=False,
    )


def test_cpp_embeds_as_python_does(program, bundle):
    done = cpp(program, bundle / "onnx" / "model.onnx", lines=ids(bundle, TEXTS))
    assert done.returncode == 0, done.stderr
    found = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    np.testing.assert_allclose(found, runtime.load(bundle).embed(TEXTS, batch_size=1), rtol=1e-4)


def test_cpp_runs_sparse_linears_by_the_operator_library(program, tmp_path):
    library = library_for_tests(tmp_path)
    linear = random_linear("int8-4x16", 64, 64, 0.8)
    model = encoder_of(sparse_model(linear))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    lines = "1 4 5 2\n1 7 2\n"
    done = cpp(program, path, library, lines=lines)
    assert done.returncode == 0, done.stderr
    found = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    session = open_sparse(model, library)
    for row, line in zip(found, lines.splitlines(), strict=True):
        tokens = np.array([line.split()], np.int64)
        feed = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
        mean = session.run(["last_hidden_state"], feed)[0][0].mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    # The library is what ran: it refuses an instruction set that it does not have.
    refused = cpp(program, path, library, lines=lines, EDGEPRUNE_KERNELS="none-such")
    assert refused.returncode == 1
    assert "EDGEPRUNE_KERNELS names" in refused.stderr
    assert cpp(program, path, lines=lines, EDGEPRUNE_KERNELS="none-such").returncode == 0


def test_cpp_says_what_is_wrong(program, bundle, tmp_path):
    model = bundle / "onnx" / "model.onnx"
    assert cpp(program, lines="").returncode == 2
    for place, lines in ((tmp_path / "none.onnx", ""), (model, "1 x 2\n"), (model, "\n")):
        done = cpp(program, place, lines=lines)
        assert (done.returncode, done.stderr.startswith("embed: ")) == (1, True)


def encoder_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """An encoder whose hidden states are the model's y of x, a row of random numbers a token."""
    graph = model.graph
    width = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    table = np.random.default_rng(3).normal(size=(len(VOCABULARY), width)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(table, "table"))
    graph.node.insert(0, helper.make_node("Gather", ["table", "input_ids"], ["x"]))
    graph.node.append(helper.make_node("Identity", ["y"], ["last_hidden_state"]))
    graph.node.append(helper.make_node("Identity", ["attention_mask"], ["mask"]))
    del graph.input[:], graph.output[:]
    for name in ("input_ids", "attention_mask"):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]))
    hidden = ["b", "t", None]
    graph.output.append(
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, hidden)
    )
    graph.output.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["b", "t"]))
    return model


# Node --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Path:
    modules = Path(os.environ.get("EDGEPRUNE_NODE_MODULES", EXAMPLES / "node" / "node_modules"))
    if not shutil.which("node") or not (modules / "onnxruntime-node").is_dir():
        pytest.skip("Node or its packages are not here: EDGEPRUNE_NODE_MODULES may name them")
    folder = tmp_path_factory.mktemp("node")
    for name in ("embed.mjs", "package.json"):
        shutil.copy(EXAMPLES / "node" / name, folder)
    (folder / "node_modules").symlink_to(modules)
    return folder / "embed.mjs"


def test_node_embeds_as_python_does(node, bundle):
    command = ["node", node, bundle, *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.array([json.loads(line) for line in done.stdout.splitlines()])
    np.testing.assert_allclose(found, runtime.load(bundle).embed(TEXTS, batch_size=1), rtol=1e-4)
