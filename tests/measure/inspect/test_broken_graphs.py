"""Graphs that no exporter writes: one sentence each, and never an end that does not come."""

import copy
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx_models import encoder_folder, int4_folder, make_bundle

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.measure.bench.compare import measure
from edgeprune.measure.bench.graph_file import of_graph_file
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.inspect import describe, inspect_table

OPERATORS = ("MatMul", "Gather", "MatMulNBits", "Transpose", "Identity", "Gemm", "NoSuch")
QUICK = BenchSettings(tokens=8, launches=1, time_limit=0.1, min_rounds=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[Path, onnx.ModelProto]:
    """Tiny models in folders, whose files are to be changed."""
    folder = tmp_path_factory.mktemp("graphs")
    folders = [encoder_folder(folder / "plain", depth=2), int4_folder(folder / "four")]
    return {place: onnx.load(place / "model.onnx") for place in folders}


@pytest.fixture
def in_time() -> Iterator[None]:
    """Fails what does not end, instead of waiting for it."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it did not end"))
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def harmed(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """A model's file with one or two of its parts put wrong."""
    model = copy.deepcopy(model)
    graph = model.graph
    for _ in range(chance.choice((1, 1, 2))):
        node, tensor = chance.choice(graph.node), chance.choice(graph.initializer)
        outputs = [output for each in graph.node for output in each.output]
        harm = chance.randrange(13)
        if harm == 0 and node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(outputs)
        elif harm == 1:
            del node.input[:]
        elif harm == 2:
            del node.output[:]
        elif harm == 3:
            del node.attribute[:]
        elif harm == 4:
            node.op_type = chance.choice(OPERATORS)
        elif harm == 5:
            node.domain = chance.choice(("edgeprune", "com.microsoft", "x"))
        elif harm == 6:
            tensor.data_type = chance.choice((0, 99, 7, 1, 10))
        elif harm == 7 and tensor.dims:
            tensor.dims[0] = chance.choice((-1, 0, 10**12))
        elif harm == 8:
            del tensor.dims[:]
        elif harm == 9:
            model.opset_import[0].version = chance.choice((0, 1, 99))
        elif harm == 10:
            del graph.output[:]
        elif harm == 11 and node.input:
            node.input.pop()
        elif harm == 12 and node.attribute:
            chance.choice(node.attribute).type = chance.choice((0, 1, 2, 3, 4))
    content = bytearray(model.SerializeToString())
    if chance.random() < 0.2:
        for _ in range(3):
            content[chance.randrange(min(len(content), 2000))] = chance.randrange(256)
    return bytes(content)


def test_no_graph_hangs_or_ends_in_a_traceback(models, in_time):
    sentences = []
    for seed in range(400):
        chance = random.Random(seed)
        folder = chance.choice(list(models))
        file = folder / "model.onnx"
        file.write_bytes(harmed(models[folder], chance))
        for look in (lambda f: inspect_table(describe(f.parent)), of_graph_file):
            try:
                look(file)
            except UserError as error:
                sentences.append(str(error))
    assert len(sentences) > 50
    assert not [said for said in sentences if "\n" in said]


def test_nodes_that_feed_each_other_are_named(models, tmp_path, in_time):
    for place, (plain, model) in enumerate(models.items()):
        folder = tmp_path / str(place)
        make_bundle(folder, plain) if place else encoder_folder(folder, depth=2)
        circle = copy.deepcopy(model)
        first, second = [node for node in circle.graph.node if "MatMul" in node.op_type][:2]
        first.input[0], second.input[0] = second.output[0], first.output[0]
        target = folder / "model.onnx" if not place else folder / "onnx" / "model.onnx"
        onnx.save(circle, target)
        for command in (["inspect", folder], ["bench", target]):
            done = CliRunner().invoke(main, list(map(str, command)))
            assert done.exit_code == 2, done.exception
            if command[0] == "inspect" and place:
                assert "bytes" in done.stderr  # its manifest tells first
                continue
            assert "its nodes feed each other in a circle" in done.stderr
            assert f"{first.name} ({first.op_type})" in done.stderr


@pytest.mark.parametrize("harm", ["operator", "opset", "inputs", "shape", "data", "outside"])
def test_a_graph_that_does_not_run_is_one_sentence(harm, tmp_path, in_time):
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p", depth=2))
    (folder / "edgeprune.json").unlink()
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    weight = next(each for each in model.graph.initializer if each.name == node.input[1])
    if harm == "operator":
        node.op_type = "NoSuch"
    elif harm == "opset":
        model.opset_import[0].version = 99
    elif harm == "inputs":
        del node.input[:]
    elif harm == "shape":  # is met when it is run, and not before
        del node.input[1:]
        node.op_type = "Reshape"
        shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [7, 12345])
        model.graph.initializer.append(shape)
        node.input.append("shape")
        del model.graph.value_info[:]
    else:
        weight.ClearField("raw_data")
        weight.ClearField("float_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        place = {"data": "none.bin", "outside": "../../../etc/passwd"}[harm]
        weight.external_data.add(key="location", value=place)
    onnx.save(model, file)
    commands = [["run", folder, "the cat"]]
    commands += [["inspect", folder]] if harm in ("data", "outside", "inputs") else []
    for command in commands:
        done = CliRunner().invoke(main, list(map(str, command)))
        assert done.exit_code == 2, done.exception
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("edgeprune: ")
    for place in (folder, file):
        with pytest.raises(UserError) as refused:
            measure(place, QUICK)
        assert "\n" not in str(refused.value)
