"""Subjects of every kind: ONNX files, PyTorch itself, and programs that speak the protocol."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bench_runs import QUICK, _no_process_stays, table_text  # noqa: F401
from onnx import TensorProto, helper, numpy_helper
from onnx_models import classifier_folder, decoder_folder, encoder_folder

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.compare import compare, measure
from edgeprune.measure.bench.graph_file import ASSUMED_VOCABULARY, embedding_rows
from edgeprune.measure.bench.process import Process
from edgeprune.measure.bench.protocol import VERSION
from edgeprune.measure.bench.resolve import resolve
from edgeprune.runtime.onnx_graph import parse_graph

# ONNX files --------------------------------------------------------------------------------------


def test_a_file_runs_as_its_folder_does(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path, depth=4, width=256)
    result = compare(folder / "model.onnx", folder, QUICK)
    assert 0.5 < result.measures["encoder"].ratio.value < 2
    assert result.candidate.model_bytes == result.baseline.model_bytes
    assert result.candidate.name == str(folder / "model.onnx")
    assert result.candidate.notes == ()


def test_a_file_with_a_cache_is_a_decoder(tmp_path: Path) -> None:
    folder = decoder_folder(tmp_path)
    with resolve(folder / "model.onnx") as ours, resolve(folder) as theirs:
        assert ours.kinds == theirs.kinds == ("prompt", "decode")
        assert ours.load == theirs.load
        # Gather fails beyond its table.
        with Process(ours, QUICK, None) as process:
            process.ask("decode", batch=2, context=30, steps=30)


def test_the_sizes_of_an_open_cache_come_from_the_config_beside(tmp_path: Path) -> None:
    folder = decoder_folder(tmp_path / "m", hidden_size=16, num_attention_heads=2)
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    with resolve(folder / "onnx" / "model.onnx") as subject:
        assert subject.load["config"] == {"hidden_size": 16, "num_attention_heads": 2}


def graph(nodes: list[onnx.NodeProto], tables: dict[str, np.ndarray]) -> onnx.GraphProto:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "t"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", "t", "h"])
    weights = [numpy_helper.from_array(value, name) for name, value in tables.items()]
    return helper.make_graph(nodes, "g", [ids], [out], weights)


def rows(made: onnx.GraphProto) -> int | None:
    model = helper.make_model(made)
    return embedding_rows(parse_graph(model.SerializeToString()).graph)


def test_the_embeddings_rows_are_found_behind_casts_and_quantization() -> None:
    table = {"t": np.zeros((321, 4), np.uint8), "scale": np.float32(1), "other": np.zeros((7, 2))}
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["other", "shape"], ["positions"]),
        helper.make_node("DequantizeLinear", ["t", "scale"], ["rows"]),
        helper.make_node("Cast", ["input_ids"], ["ids32"], to=TensorProto.INT32),
        helper.make_node("Gather", ["rows", "ids32"], ["out"]),
    ]
    assert rows(graph(nodes, table)) == 321
    assert rows(graph(nodes[:3], table)) is None
    # Fused: ids, segments, words, positions, ...
    embed = helper.make_node("EmbedLayerNormalization", ["input_ids", "", "t", "other"], ["out"])
    assert rows(graph([embed], table)) == 321


def test_a_vocabulary_that_is_not_found_is_assumed_and_said(tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["input_ids"], ["out"], to=TensorProto.FLOAT)
    model = helper.make_model(graph([cast], {}), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "plain.onnx")
    result = measure(tmp_path / "plain.onnx", QUICK)
    assert f"below {ASSUMED_VOCABULARY:,}" in result.candidate.notes[0]
    assert "no table of embeddings" in " ".join(table_text(result).split())


def test_data_of_a_file_must_be_there_and_inside(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"), resolve(tmp_path / "no.onnx"):
        pass
    folder = encoder_folder(tmp_path / "m", depth=2, width=64)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "big.onnx", save_as_external_data=True, location="big.data")
    with resolve(folder / "big.onnx") as subject:
        assert subject.files == (folder / "big.onnx", folder / "big.data")
    (folder / "big.data").rename(tmp_path / "big.data")
    with pytest.raises(UserError, match="missing"), resolve(folder / "big.onnx"):
        pass
    model = onnx.load(folder / "big.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../big.data"
    (folder / "big.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="outside its folder"), resolve(folder / "big.onnx"):
        pass


# PyTorch -----------------------------------------------------------------------------------------


def test_torch_runs_a_folder_in_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tiny_builds import model_folder

    with resolve(f"torch:{model_folder(tmp_path)}") as subject:
        assert subject.kinds == ("encoder",)
        assert subject.max_length == 96
        assert subject.files == (tmp_path / "model.safetensors",)
        with Process(subject, QUICK, None) as process:
            assert process.hello["runtime"].startswith("PyTorch ")
            answer = process.ask("encoder", batch=2, tokens=96, calls=3)
    assert len(answer["seconds"]) == 3
    assert min(answer["seconds"]) > 0


def test_torch_decodes_token_by_token_on_its_cache(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tiny_builds import model_folder

    from edgeprune.measure.bench.torch_worker import TorchWorker

    folder = model_folder(tmp_path, "llama")
    worker = TorchWorker()
    worker.load({"model": str(folder), "threads": 1, "cores": None, "seed": 0})
    seen, forward = [], worker.module.forward

    def watched(*args: Any, **inputs: Any) -> Any:
        past = inputs.get("cache")
        seen.append((tuple(inputs["input_ids"].shape), past.get_seq_length() if past else 0))
        return forward(*args, **inputs)

    worker.module.forward = watched
    assert len(worker.decode({"batch": 2, "context": 9, "steps": 3})["seconds"]) == 3
    assert seen == [((2, 9), 0), *(((2, 1), 9 + step) for step in range(4))]
    seen.clear()
    assert len(worker.prompt({"batch": 1, "tokens": 7, "calls": 2})["seconds"]) == 2
    assert seen == [((1, 7), 0)] * 2


# Programs ----------------------------------------------------------------------------------------

# Knows no edgeprune: it answers that every call takes so many seconds.
PROGRAM = """
import json, sys
seconds, does = float(sys.argv[1]), json.loads(sys.argv[2])
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "exit":
        break
    calls = asked.get("calls", asked.get("steps", 1))
    answers = {
        "hello": {"protocol": %d, "runtime": "Stopwatch 1", "does": does, "files": [__file__]},
        "memory": {"peak_bytes": 12345678},
    }
    print(json.dumps(answers.get(asked["do"], {"seconds": [seconds] * calls})), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Any:
    def make(seconds: float, *does: str, version: int = VERSION) -> str:
        file = tmp_path / f"program {version}.py"
        file.write_text(PROGRAM % version)
        return "command:" + shlex.join([sys.executable, str(file), str(seconds), json.dumps(does)])

    return make


def test_programs_are_compared_by_what_they_say(program: Any, tmp_path: Path) -> None:
    result = compare(program(0.002, "encoder"), program(0.006, "encoder"), QUICK)
    found = result.measures["encoder"]
    assert found.ratio.value == pytest.approx(3)
    assert found.candidate.median_ms == found.candidate.p99_ms == pytest.approx(2)
    assert result.candidate.peak_memory_bytes == 12345678
    assert result.candidate.runtime == "Stopwatch 1"
    assert result.candidate.model_bytes == len(PROGRAM % VERSION)
    assert "in Stopwatch 1" in " ".join(table_text(result).split())
    decoder = measure(program(0.001, "prompt", "decode"), QUICK)
    assert decoder.measures["decode"].candidate.tokens_per_second == pytest.approx(1000)
    bundle = compare(encoder_folder(tmp_path / "m"), program(5, "encoder"), QUICK)
    assert bundle.measures["encoder"].ratio.low > 100


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("command:", "names no program"),
        ("command:'", "is not a command line"),
        ("command:/nowhere/at/all", "cannot be started: No such file"),
        ("command:cat", "speaks version None"),
        ("command:echo hello", "does not speak the protocol .* said 'hello'"),
        ("command:false", "ended with exit code 1"),
    ],
)
def test_what_does_not_speak_the_protocol_is_refused(line: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        measure(line, QUICK)


def test_a_program_may_not_know_its_memory_and_must_not_invent_it(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    untold = PROGRAM.replace("12345678", "None")
    monkeypatch.setitem(globals(), "PROGRAM", untold)
    result = measure(program(0.001, "encoder"), QUICK)
    assert result.to_json()["candidate"]["peak_memory_bytes"] is None
    assert "peak memory" not in table_text(result)
    monkeypatch.setitem(globals(), "PROGRAM", untold.replace("None", "'much'"))
    with pytest.raises(UserError, match="memory with 'much', which is not a number of bytes"):
        measure(program(0.001, "encoder"), QUICK)


def test_programs_that_cannot_be_compared_are_refused(program: Any) -> None:
    with pytest.raises(
        UserError, match=r"an encoder and .* a decoder: there is nothing to compare"
    ):
        compare(program(1, "encoder"), program(1, "prompt", "decode"), QUICK)
    with pytest.raises(UserError, match="without a key-value cache"):
        compare(program(1, "prompt"), program(1, "prompt", "decode"), QUICK)
    with pytest.raises(UserError, match="says it does decode; it must"):
        measure(program(1, "decode"), QUICK)
    with pytest.raises(UserError, match=f"speaks version 99 .* version {VERSION}"):
        measure(program(1, "encoder", version=99), QUICK)


def test_a_program_may_print_and_its_children_end_with_it(tmp_path: Path) -> None:
    """With serve(), prints go elsewhere; a command above the process is no hiding place."""
    script = tmp_path / "loud.py"
    script.write_text("""
from edgeprune.measure.bench.protocol import serve
def load(request):
    print("Loading, as libraries say!")
    return {"seconds": [1.5]}
def encoder(request):
    raise MemoryError("too big\\nby far")
import os
serve("Loud " + os.environ["ORT_DISABLE_TELEMETRY"], {"load": load, "encoder": encoder})
""")
    line = shlex.join(["sh", "-c", f"{shlex.join([sys.executable, str(script)])}; true"])
    with resolve(f"command:{line}") as subject:
        with Process(subject, QUICK, None) as process:
            assert process.load_seconds == 1.5
            assert process.hello["does"] == ["encoder"]
            assert process.hello["runtime"] == "Loud 1"  # ONNX Runtime's telemetry is off
        with (
            pytest.raises(UserError, match=r"cannot be benchmarked: too big$"),
            Process(subject, QUICK, None) as process,
        ):
            process.ask("encoder", batch=1, tokens=1, calls=1)


def test_models_of_different_tasks_are_not_compared(tmp_path: Path) -> None:
    encoder, classifier = encoder_folder(tmp_path / "e"), classifier_folder(tmp_path / "c")
    with pytest.raises(UserError, match=r"does text-classification and .* feature-extraction"):
        compare(classifier, encoder, QUICK)
