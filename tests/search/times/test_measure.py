"""Small models as graphs, and the table that their times give."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from tiny_builds import model_folder, recipe_file, text_file
from tiny_models import make_model

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.search.shape import Shape
from edgeprune.search.times.build import write_graph
from edgeprune.search.times.measure import measure_blocks, model_name
from edgeprune.search.times.predict import predict
from edgeprune.search.times.settings import FORMS, BlockSettings
from edgeprune.targets import detect, find
from edgeprune.targets.block_times import kept

VNNI = find("x86-avx512-vnni")
SHAPE = Shape((0, 2), (2, 4), (24, 40))


def _operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def _weights(file: Path) -> Counter[tuple[int, ...]]:
    return Counter(tuple(each.dims) for each in onnx.load(file).graph.initializer)


@pytest.mark.parametrize("form", FORMS[:4])
@pytest.mark.parametrize("family", ["bert", "llama-fused"])
def test_a_graph_has_its_shape_and_format(family, form, tmp_path):
    original = make_model(family, tmp_path / "model", unequal=False, layers=3)
    before = {name: value.clone() for name, value in original.module.state_dict().items()}
    file = write_graph(original, SHAPE, form, VNNI, tmp_path / "graph")
    operators = _operators(file)
    linears = len(original.anatomy.blocks[0].linears())
    found = {
        "float32": operators["MatMul"],
        "int8": operators["MatMulInteger"],
        "int8-token": operators["MatMulInteger"],
        "int4-32": operators["MatMulNBits"],
    }[form]
    assert found >= 2 * (linears - 2)  # query, key and value may be one product
    anatomy = open_checkpoint(str(tmp_path / "graph")).anatomy
    assert [block.attention.num_heads for block in anatomy.blocks] == [2, 4]
    assert [part.channels for part in anatomy.feed_forwards] == [24, 40]
    after = original.module.state_dict()
    assert original.layers == [0, 1, 2]
    assert all(bool((after[name] == value).all()) for name, value in before.items())


def test_a_graph_is_that_of_a_build(tmp_path):
    """Operators and sizes of weights of a bundle that `edgeprune build` makes of the same shape."""
    model = model_folder(tmp_path / "model")
    command = ["build", str(recipe_file(tmp_path / "r.yaml")), "--model", str(model)]
    command += ["--data", str(text_file(tmp_path / "text.txt")), "--output", str(tmp_path / "out")]
    command += ["--set", "quantize.massive_activations=none"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    built = tmp_path / "out" / "bundle" / "onnx" / "model.onnx"
    [cut] = (tmp_path / "out" / "stages").glob("recover-*")
    sizes = open_checkpoint(str(cut)).anatomy
    shape = Shape(
        tuple(range(len(sizes.blocks))),
        tuple(block.attention.num_heads for block in sizes.blocks),
        tuple(part.channels for part in sizes.feed_forwards),
    )
    original = import_checkpoint(open_checkpoint(str(model)))
    written = write_graph(original, shape, "int8", detect(), tmp_path / "graph")
    assert _operators(written) == _operators(built)
    assert _weights(written) == _weights(built)


SETTINGS = BlockSettings(
    layers=2, head_levels=2, channel_levels=2, step=8, launches=1, time_limit=0.2, tokens=12
)


def test_a_table_is_measured_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    make_model("bert", tmp_path / "model", unequal=False)
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    table = measure_blocks(checkpoint, SETTINGS, VNNI)
    assert table.name == f"{model_name(checkpoint.anatomy)}-int8-encoder-1x12"
    assert [level.count for level in table.heads] == [1, 4]
    assert [level.count for level in table.channels] == [16, 40]
    for levels in (table.heads, table.channels):
        added = [level.us for level in levels]
        assert added[0] == 0
        assert added == sorted(added)
    whole = Shape((0, 1), (4, 4), (40, 40))
    assert predict(table, whole) * 1e6 == pytest.approx(table.whole, rel=0.9)
    about = (table.model, "int8", "encoder", 12, 1)
    assert kept(*about, 1) is None
    file = table.keep()
    assert tmp_path / "cache" in file.parents
    assert kept(*about, 1) == table
    assert kept(*about, 2) is None  # another number of threads
    assert kept(table.model, "int8", "encoder", 13, 1, 1) is None
    monkeypatch.setattr("edgeprune.targets.store.version", lambda name: "0.0")
    assert kept(*about, 1) is None  # another ONNX Runtime
    monkeypatch.undo()
    file.write_text("{}")
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="edgeprune calibrate"):
        kept(*about, 1)


@pytest.mark.parametrize("family", ["lfm2", "mixtral", "albert"])
def test_models_of_other_layers_are_refused(family, tmp_path):
    make_model(family, tmp_path, unequal=False)
    with pytest.raises(UserError, match="like layers"):
        measure_blocks(open_checkpoint(str(tmp_path)), SETTINGS, VNNI)


def test_an_encoder_does_not_decode(tmp_path):
    make_model("bert", tmp_path, unequal=False)
    with pytest.raises(UserError, match="work is encoder, not decode"):
        measure_blocks(
            open_checkpoint(str(tmp_path)), SETTINGS.model_copy(update={"work": "decode"}), VNNI
        )


def test_a_decoder_s_steps_are_timed(tmp_path):
    make_model("llama-fused", tmp_path, unequal=False)
    settings = SETTINGS.model_copy(update={"work": "decode"})
    table = measure_blocks(open_checkpoint(str(tmp_path)), settings, VNNI)
    assert (table.work, [level.count for level in table.heads]) == ("decode", [2, 4])
    assert np.isfinite(table.error)
