"""Other clients open a built bundle and get the same embeddings: nothing of ours is needed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from other_python import in_clients, in_node, needs_clients, needs_node
from sentence_encoder import make_sentence_encoder
from tiny_builds import recipe_file, sentence_lines, text_file
from transformers import AutoTokenizer
from transformers.exporters import ExportedModel

from edgeprune.cli import main
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.embed import Embedder

TEXTS = sentence_lines(7, seed=11)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Pruned, cut to layers of unequal size, recovered and quantized."""
    folder = tmp_path_factory.mktemp("clients")
    command = ["build", recipe_file(folder / "tiny.yaml")]
    command += ["--model", make_sentence_encoder(folder / "model")]
    command += ["--data", text_file(folder / "text.txt"), "--output", folder / "out"]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.stderr
    return folder / "out" / "bundle"


@pytest.fixture(scope="module")
def ours(bundle) -> np.ndarray:
    """One text a call: the scale of dynamic INT8 activations is a batch's."""
    return Embedder(Bundle.open(bundle)).embed(TEXTS, batch_size=1)


def test_embeddings_have_length_1_and_differ(ours):
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert np.abs(ours[:, None] - ours[None]).max(-1)[~np.eye(len(ours), dtype=bool)].min() > 1e-2


def test_the_layout_is_the_hubs(bundle):
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "1_Pooling/config.json",
        "config.json",
        "edgeprune.json",
        "export.json",
        "modules.json",
        "onnx/model.onnx",
        "onnx/model.onnx.data",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.fixture(scope="module")
def several(bundle, tmp_path_factory) -> Path:
    """The same from another build that goes on from its stages, with further graphs."""
    out = tmp_path_factory.mktemp("several") / "out"
    shutil.copytree(bundle.parent / "stages", out / "stages")
    place = bundle.parents[1]
    command = ["build", place / "tiny.yaml", "--model", place / "model"]
    command += ["--data", place / "text.txt", "--output", out]
    command += ["--set", "variants=[pi4, float32, quantized]"]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.stderr
    return out / "bundle"


FILES = {
    "arm64": "model_qint8_arm64.onnx",
    "quantized": "model_quantized.onnx",
    "float32": "model.onnx",
}


def by_variant(folder: Path) -> dict[str, np.ndarray]:
    return {name: Embedder(Bundle.open(folder, name)).embed(TEXTS, batch_size=1) for name in FILES}


OPTIMUM = """
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer
folder, texts = given
model = ORTModelForFeatureExtraction.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
print(json.dumps([each.mean(0).tolist() for each in hidden]))
"""


@needs_clients
def test_optimum_gets_the_same(bundle, ours, tmp_path):
    means = np.array(in_clients(tmp_path / "run.py", OPTIMUM, str(bundle), TEXTS))
    found = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(found, ours, atol=1e-5)


OPTIMUM_BY_FILE = """
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer
folder, texts, files = given
tokenizer = AutoTokenizer.from_pretrained(folder)
found = {}
for name, file in files.items():
    model = ORTModelForFeatureExtraction.from_pretrained(folder, subfolder="onnx", file_name=file)
    hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    found[name] = [each.mean(0).tolist() for each in hidden]
print(json.dumps(found))
"""


@needs_clients
def test_optimum_names_a_variant_by_its_file(several, tmp_path):
    given = (str(several), TEXTS, FILES)
    expected = by_variant(several)
    for name, means in in_clients(tmp_path / "run.py", OPTIMUM_BY_FILE, *given).items():
        found = np.array(means) / np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected[name], atol=1e-5)


SENTENCE_TRANSFORMERS_BY_FILE = """
from sentence_transformers import SentenceTransformer
folder, texts, files = given
found = {}
for name, file in files.items():
    options = {"provider": "CPUExecutionProvider", "file_name": "onnx/" + file}
    model = SentenceTransformer(
        folder, backend="onnx", device="cpu", model_kwargs=options, local_files_only=True
    )
    found[name] = model.encode(texts, batch_size=1).tolist()
print(json.dumps(found))
"""


@needs_clients
def test_sentence_transformers_names_a_variant_by_its_file(several, tmp_path):
    given = (str(several), TEXTS, FILES)
    expected = by_variant(several)
    for name, found in in_clients(
        tmp_path / "run.py", SENTENCE_TRANSFORMERS_BY_FILE, *given
    ).items():
        np.testing.assert_allclose(found, expected[name], atol=1e-5)


JS_BY_TYPE = """
const [folder, texts, types] = given;
const found = {};
for (const [name, dtype] of Object.entries(types)) {
    const options = { dtype, device: "cpu", local_files_only: true };
    const model = await t.pipeline("feature-extraction", folder, options);
    found[name] = [];
    for (const text of texts) {
        const vector = await model(text, { pooling: "mean", normalize: true });
        found[name].push(Array.from(vector.data));
    }
}
console.log(JSON.stringify(found));
"""


@needs_node
def test_transformers_js_names_a_variant_by_its_type(several, tmp_path):
    types = {"quantized": "q8", "float32": "fp32"}
    expected = by_variant(several)
    found = in_node(tmp_path / "run.mjs", JS_BY_TYPE, str(several), TEXTS, types)
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, expected[name], atol=1e-5)
    assert np.abs(expected["quantized"] - expected["float32"]).max() > 1e-3


SENTENCE_TRANSFORMERS = """
from sentence_transformers import SentenceTransformer
folder, texts = given
options = {"provider": "CPUExecutionProvider", "file_name": "onnx/model.onnx"}
model = SentenceTransformer(
    folder, backend="onnx", device="cpu", model_kwargs=options, local_files_only=True
)
print(json.dumps(model.encode(texts, batch_size=1).tolist()))
"""


@needs_clients
def test_sentence_transformers_gets_the_same(bundle, ours, tmp_path):
    found = in_clients(tmp_path / "run.py", SENTENCE_TRANSFORMERS, str(bundle), TEXTS)
    np.testing.assert_allclose(found, ours, atol=1e-5)


def test_transformers_gets_the_same(bundle, ours):
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = ExportedModel.from_pretrained(bundle)
    for text, expected in zip(TEXTS, ours, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=True)
        mean = model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(mean / mean.norm(), expected, atol=1e-5)


ALONE = """
import json, sys
import numpy, onnxruntime, tokenizers
folder, texts = sys.argv[1], json.loads(sys.argv[2])
session = onnxruntime.InferenceSession(folder + "/onnx/model.onnx")
tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
found = []
for text in texts:
    encoding = tokenizer.encode(text)
    known = {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
    }
    feed = {node.name: numpy.array([known[node.name]]) for node in session.get_inputs()}
    mean = session.run(["last_hidden_state"], feed)[0][0].mean(0)
    found.append((mean / numpy.linalg.norm(mean)).tolist())
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "transformers", "optimum", "edgeprune"}, loaded
print(json.dumps(found))
"""


def test_onnxruntime_alone_gets_the_same(bundle, ours):
    found = subprocess.run(
        [sys.executable, "-c", ALONE, str(bundle), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    np.testing.assert_allclose(json.loads(found.stdout), ours, atol=1e-5)


def test_the_command_line_gets_the_same(bundle, ours):
    result = CliRunner().invoke(main, ["run", str(bundle), TEXTS[0], "--json"])
    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(json.loads(result.stdout)["embedding"], ours[0], atol=1e-5)
