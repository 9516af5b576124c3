"""One build, several graphs: each is what a build for it alone makes, under the hub's names."""

import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from sentence_encoder import make_sentence_encoder
from tiny_builds import RECIPE, model_folder, recipe_file, sentence_lines, text_file
from without_measuring import MEASURED, leave_out_measuring

from edgeprune.cli import main
from edgeprune.pipeline.build import prepare
from edgeprune.pipeline.recipe import read_recipe, validate
from edgeprune.pipeline.run import run
from edgeprune.runtime.bundle import MANIFEST, Bundle
from edgeprune.runtime.embed import Embedder
from edgeprune.search.trial import hurried

NAMES = {
    "x86-avx512-vnni": "onnx/model_qint8_avx512_vnni.onnx",
    "arm64": "onnx/model_qint8_arm64.onnx",
    "float32": "onnx/model.onnx",
    "int4": "onnx/model_q4.onnx",
    "quantized": "onnx/model_quantized.onnx",
}
ASKED = "variants=[pi4, pi5, float32, int4, quantized, x86-avx512-vnni]"
"""The two boards share a file, and the last is what the recipe makes itself."""
TARGET = "target=x86-avx512-vnni"
TEXTS = sentence_lines(5, seed=3)


def build(place: Path, model: Path, *sets: str, output: str = "out") -> Path:
    """Build in `place`, with nothing measured; the output folder."""
    read = read_recipe(str(recipe_file(place / "recipe.yaml", RECIPE)), sets)
    text = str(text_file(place / "text.txt"))
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        leave_out_measuring(patch)
        made = prepare(read, str(model), (text,), place / output)
        run(made)
    assert made.context.results["measure"] == MEASURED  # a search reads it there
    (place / "said").write_text(said.getvalue())
    return place / output


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    make_sentence_encoder(folder / "model")
    return folder


@pytest.fixture(scope="module")
def bundle(place) -> Path:
    return build(place, place / "model", TARGET, ASKED) / "bundle"


def tensors(file: Path) -> dict[str, np.ndarray]:
    stored = onnx.load(file).graph.initializer
    return {each.name: numpy_helper.to_array(each) for each in stored}


def test_every_graph_has_its_name_on_the_hub_and_its_record(bundle):
    manifest = json.loads((bundle / MANIFEST).read_text())
    entries = {each["name"]: each for each in manifest["variants"]}
    assert {name: each["file"] for name, each in entries.items()} == NAMES
    bits = {"x86-avx512-vnni": 8, "arm64": 8, "float32": None, "int4": None, "quantized": 7}
    assert {name: each["int8_bits"] for name, each in entries.items()} == bits
    for name, entry in entries.items():
        opened = Bundle.open(bundle, name)
        assert entry["bytes"] == opened.model_bytes
        assert entry["minimum_onnxruntime"] == "1.17.0"
        machine = MEASURED.speed.machine.processor
        ratio = MEASURED.speed.measures["encoder"].ratio
        ratios = {"encoder": [ratio.low, ratio.high]}
        assert entry["measured"] == {"processor": machine, "ratios": ratios}
        ran = [stage["name"] for stage in opened.stages]
        own = ["quantize", "export", "rewrite", "measure"]
        if name == "x86-avx512-vnni":
            assert ran == ["load", "original", "prune", "cut", "recover", *own]
        else:
            assert ran == [stage for stage in own if (stage, name) != ("quantize", "float32")]
    assert Bundle.open(bundle, "arm64").manifest["target"]["name"] == "x86-avx512-vnni"


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("arm64", ["target=pi4"]),
        ("float32", ["quantize=off"]),
        ("quantized", ["target=x86-avx2", "quantize.sparse=false"]),
        ("int4", ["target=x86-avx2", "quantize.weights=int4"]),
    ],
)
def test_each_is_what_a_build_for_it_alone_makes(name, sets, bundle, place, tmp_path):
    shutil.copytree(place / "out" / "stages", tmp_path / "out" / "stages")
    alone = build(tmp_path, place / "model", *sets) / "bundle" / "onnx" / "model.onnx"
    expected, found = tensors(alone), tensors(bundle / NAMES[name])
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)


def test_graphs_for_processors_keep_what_is_equal_once(bundle):
    """Two of them read the same bytes; those that clients fetch by their format are whole."""
    own, arm = (bundle / NAMES[name] for name in ("x86-avx512-vnni", "arm64"))
    data = bundle / "onnx/model_qint8_avx512_vnni.onnx_data"
    outside = {
        each.name: {entry.key: entry.value for entry in each.external_data}
        for each in onnx.load(own, load_external_data=False).graph.initializer
        if each.external_data
    }
    large = {name for name, values in tensors(own).items() if values.nbytes >= 4096}
    assert large
    assert outside.keys() == large
    for each in onnx.load(arm, load_external_data=False).graph.initializer:
        if each.name in large:
            read = {entry.key: entry.value for entry in each.external_data}
            assert read == outside[each.name]
            assert read["location"] == data.name
    assert data.stat().st_size < 4096 + sum(tensors(own)[name].nbytes + 4096 for name in large)
    for name in ("float32", "int4", "quantized"):
        assert Bundle.open(bundle, name).data_paths == ()


def test_each_answers_near_the_float_one(bundle):
    found = {name: Embedder(Bundle.open(bundle, name)).embed(TEXTS, batch_size=1) for name in NAMES}
    np.testing.assert_array_equal(found["arm64"], found["x86-avx512-vnni"])
    for name, vectors in found.items():
        assert (vectors * found["float32"]).sum(1).min() > 0.9, name
    assert np.abs(found["int4"] - found["quantized"]).max() > 1e-4


def test_stock_onnxruntime_opens_each_by_its_file(bundle):
    for file in NAMES.values():
        session = onnxruntime.InferenceSession(str(bundle / file))
        assert [each.name for each in session.get_outputs()] == ["last_hidden_state"]


def test_one_graph_more_leaves_the_others_as_they_are(place, tmp_path):
    fewer = build(tmp_path, place / "model", TARGET, "variants=[arm64]")
    first = (fewer / "bundle/onnx/model.onnx").read_bytes()
    assert "kept" not in (tmp_path / "said").read_text()
    build(tmp_path, place / "model", TARGET, "variants=[arm64, int4]")
    said = (tmp_path / "said").read_text()
    assert said.count("kept from an earlier build") == 5 + 2 * 4
    assert "[14/17] quantize, int4" in said
    assert (fewer / "bundle/onnx/model.onnx").read_bytes() == first
    build(tmp_path, place / "model", TARGET)
    assert (tmp_path / "said").read_text().count("kept from an earlier build") == 9
    left = [folder.name.partition("-")[0] for folder in (fewer / "stages").iterdir()]
    assert sorted(left) == sorted(set(left))  # a stage's outputs of other variants are gone
    [entry] = Bundle.open(fewer / "bundle").manifest["variants"]
    assert (entry["name"], entry["file"]) == ("x86-avx512-vnni", "onnx/model.onnx")


def test_what_cannot_be_made_is_refused_in_a_sentence(place, tmp_path):
    recipe = recipe_file(tmp_path / "recipe.yaml", RECIPE)
    text = text_file(tmp_path / "text.txt")
    for sets, said in (
        (["variants=[pi9]"], "variants: there is no 'pi9'; known are float32, quantized, int4, "),
        (["variants=[arm64]", "quantize=off"], "without quantize a graph is the same for arm64"),
        (
            ["variants=[x86-avx2]", "quantize.weights=mixed", "quantize.linears_ms=1", TARGET],
            "variants: x86-avx2 cannot be made: quantize.linears_ms needs times",
        ),
    ):
        command = ["build", recipe, "--model", place / "model", "--data", text, "--dry-run"]
        command += [word for each in sets for word in ("--set", each)]
        result = CliRunner().invoke(main, list(map(str, command)))
        assert result.exit_code == 2, result.output
        assert said in result.stderr


def test_a_decoder_s_variants_fit_other_clients(tmp_path):
    """Caches of integers are for our own target; clients that choose by format have floats."""
    model = model_folder(tmp_path / "model", "llama-fused")
    recipe = (
        "text: {max_tokens: 16}\nquantize: {cache_bits: 8, prefer: prompt}\nmeasure: {tokens: 12}"
    )
    sets = [TARGET, "variants=[quantized, int4, float32]"]
    read = read_recipe(str(recipe_file(tmp_path / "recipe.yaml", recipe)), sets)
    made = prepare(
        read, str(model), (str(text_file(tmp_path / "text.txt", 400)),), tmp_path / "out"
    )
    bits = {
        each.name: (each.settings["quantize"].weights, each.settings["quantize"].cache_bits)
        for each in made.variants
        if "quantize" in each.settings
    }
    assert bits == {
        "x86-avx512-vnni": ("int8", 8),
        "quantized": ("int8", None),
        "int4": ("int4", None),
    }
    assert [each.target.name for each in made.variants][1:3] == ["x86-avx2"] * 2


def test_a_search_s_candidates_have_one_graph():
    recipe = validate({"variants": ["arm64"], "quantize": {}}, "here")
    assert recipe.variants == ("arm64",)
    assert hurried(recipe).variants == ()
