import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from onnx_models import (
    VOCABULARY,
    classifier_folder,
    decoder_folder,
    encoder_folder,
    ids_of,
    int4_folder,
    make_bundle,
    mixing,
    poison,
    table,
    write_json,
)
from processes import running, until

from edgeprune.base.errors import RequirementMissed, UserError
from edgeprune.cli import Commands, main


def edgeprune(*arguments: object, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=given)


def mistake(result: Result) -> str:
    """The one sentence of a user's mistake."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("edgeprune: ")
    return lines[0]


def test_the_start_is_light() -> None:
    code = "import sys, edgeprune.cli; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(found.stdout.split()) & {"numpy", "onnxruntime", "onnx", "pydantic", "rich"}


def test_run_imports_what_it_uses_and_no_more() -> None:
    """Time passes differently everywhere: what is loaded is what a start costs."""
    bundle = Path(__file__).parent / "fixtures" / "first_release" / "encoder" / "bundle"
    code = f"""
import sys
before = set(sys.modules)
sys.argv = ["edgeprune", "run", {str(bundle)!r}, "w001", "--json"]
from edgeprune.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(*(set(sys.modules) - before))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.splitlines()[-1].split())
    ours = {name.split(".")[1] for name in loaded if name.startswith("edgeprune.")}
    rooms = {"base", "kernels", "model", "runtime", "targets", "text"}
    assert {"runtime", "model"} <= ours <= rooms | {"__main__", "cli"}
    # Of numpy, onnxruntime, tokenizers, click and pydantic nothing is ours to leave out.
    heavy = {"psutil", "yaml", "jinja2", "pygments", "sentencex", "cpuinfo", "huggingface_hub"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
    assert not {"rich.progress", "rich.markdown", "multiprocessing", "asyncio"} & loaded


def test_help_names_every_command() -> None:
    result = edgeprune("--help")
    assert result.exit_code == 0
    assert {"run", "bench", "evaluate", "inspect"} <= set(result.stdout.split())


def test_run_embeds_a_text_and_lines(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p"))
    alone = edgeprune("run", folder, "the cat", "--json")
    expected = (table()[ids_of("the cat")] @ mixing()).mean(axis=0)
    answer = json.loads(alone.stdout)
    assert answer["text"] == "the cat"
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-6)
    lines = edgeprune("run", folder, "-", "--json", given="a dog\nthe cat\r\n\n").stdout
    answers = [json.loads(line) for line in lines.splitlines()]
    assert [answer["text"] for answer in answers] == ["a dog", "the cat", ""]
    np.testing.assert_allclose(answers[1]["embedding"], expected, atol=1e-6)
    shown = edgeprune("run", folder, "the cat").stdout
    assert shown.startswith(" ".join(f"{number:+.4f}" for number in expected[:6]))
    assert "(8 numbers" in shown


def test_run_bounds_a_line_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p"))
    monkeypatch.setattr("edgeprune.runtime.terminal._LONGEST_LINE", 1000)
    fits = b"the cat".ljust(999) + b"\n"
    assert edgeprune("run", folder, "-", given=fits + fits).exit_code == 0
    said = edgeprune("run", folder, "-", given=fits + b"the cat" * 10_000)
    assert said.exit_code == 2
    assert "Line 2 of standard input is longer than" in said.stderr


def test_run_classifies(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path)
    logits = table()[ids_of("the cat")].sum(axis=0) @ table(8, 3, seed=5)
    label = ["bad", "good", "so-so"][int(logits.argmax())]
    assert edgeprune("run", folder, "the cat").stdout.split()[0] == label
    answer = json.loads(edgeprune("run", folder, "the cat", "--json").stdout)
    assert answer["label"] == label
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_run_generates_through_the_chat_template_or_raw(tmp_path: Path) -> None:
    folder = decoder_folder(tmp_path)
    assert "use --raw" in mistake(edgeprune("run", folder, "the cat"))
    raw = edgeprune("run", folder, "the cat", "--raw", "--max-tokens", 5)
    assert raw.exit_code == 0
    assert set(raw.stdout.split()) <= set(VOCABULARY)
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})
    chat = edgeprune("run", folder, "the dog ran", "--max-tokens", 5, "--json")
    answer = json.loads(chat.stdout)
    assert answer["text"] == "the dog ran"
    again = edgeprune("run", folder, "-", "--max-tokens", 5, given="the dog ran\n")
    assert again.stdout == answer["generated"] + "\n"


@pytest.mark.parametrize("make", [encoder_folder, classifier_folder, decoder_folder])
def test_what_is_no_number_is_told_and_never_printed(make: Any, tmp_path: Path) -> None:
    folder = poison(make(tmp_path / "m"), "table", ids_of("cat")[1:-1])
    write_json(folder / "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})
    write_json(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    modules = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {"type": f"sentence_transformers.models.{name}", "path": path}
        for name, path in modules.items()
    ]
    write_json(folder / "modules.json", listed)
    assert edgeprune("run", folder, "the dog", "--json").exit_code == 0
    for words in (("run", folder, "the cat", "--json"), ("run", folder, "the cat")):
        assert "The model m produced NaN or infinite" in mistake(edgeprune(*words))


def test_bench_writes_what_it_prints(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    options = ("--tokens", 8, "--time-limit", 0.5)
    result = edgeprune("bench", folder, "--against", folder, *options, "--json", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "r").read_text())
    ratio = found["measures"]["encoder"]["ratio"]
    told = [ratio[key] for key in ("value", "low", "high")]
    word = "faster"
    if ratio["value"] < 1:
        told, word = [1 / told[0], 1 / told[2], 1 / told[1]], "slower"
    assert "{:.2f}x {word} ({:.2f}-{:.2f})".format(*told, word=word) in result.stdout
    alone = edgeprune("bench", folder, *options, "--json", "-")
    found = json.loads(alone.stdout)
    assert found["settings"]["tokens"] == 8
    assert "compressed_bytes" not in found["candidate"]  # minutes, of large models
    asked = edgeprune("bench", folder, *options, "--compressed", "--json", "-")
    assert json.loads(asked.stdout)["candidate"]["compressed_bytes"] > 0


def test_evaluate_and_inspect_write_what_they_print(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p", depth=3))
    data = tmp_path / "t.txt"
    data.write_text("the cat\na dog\n")
    arguments = ("evaluate", folder, "--task", "cosine", "--data", data, "--against", folder)
    assert json.loads(edgeprune(*arguments, "--json", "-").stdout)["values"][
        "mean_cosine"
    ] == pytest.approx(1)
    shown = edgeprune(*arguments).stdout
    assert "mean cosine" in shown
    assert max(map(len, edgeprune("inspect", folder).stdout.splitlines())) <= 80
    found = json.loads(edgeprune("inspect", folder, "--json", "-").stdout)
    assert found["operators"] == {"MatMul": 3, "Gather": 1, "Identity": 1}
    assert [layer["name"] for layer in found["layers"] if layer["kind"] == "linear"] == [
        f"l.{index}.up" for index in range(3)
    ]


def test_what_users_name_is_printed_as_it_is(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b [v2] :smile:", encoder_folder(tmp_path / "p"))
    rows = [
        {"text": text, "g": group} for text in ("the cat", "a dog") for group in ("[/b]", "[x]")
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = ("--data", tmp_path / "t.jsonl", "--against", folder, "--group", "g")
    result = edgeprune("evaluate", folder, "--task", "cosine", *found, "--json", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "r").read_text())["groups"].keys() == {"[/b]", "[x]"}
    assert {"[/b]", "[x]"} <= set(result.stdout.split())
    assert "b [v2] :smile:" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("harm", "words"),
    [({"stages": 5}, "stages are not a list"), ({"max_length": float("nan")}, "NaN or infinity")],
)
def test_a_damaged_manifest_is_not_inspected(harm: Any, words: str, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p"))
    file = folder / "edgeprune.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | harm))
    assert words in mistake(edgeprune("inspect", folder))


@pytest.mark.parametrize("name", [None, 5, ["a"], {"b": 1}])
def test_names_of_any_kind_in_a_manifest_are_shown(name: Any, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", encoder_folder(tmp_path / "p"))
    file = folder / "edgeprune.json"
    odd = {"stages": [{"name": name, "steps": 7}, name], "recipe": name, "source": {"name": name}}
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    shown = edgeprune("inspect", folder)
    assert shown.exit_code == 0, shown.output
    assert "stages: " in shown.stdout


def test_inspect_reads_quantized_layers_as_the_runtime_has_them(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = encoder_folder(tmp_path / "f", depth=2, width=64)
    eight, four = encoder_folder(tmp_path / "8"), int4_folder(tmp_path / "4")
    quantize_dynamic(folder / "model.onnx", eight / "model.onnx", weight_type=QuantType.QInt8)
    stored = {}
    for name, place in (("float", folder), ("eight", eight), ("four", four)):
        found = json.loads(edgeprune("inspect", place, "--json", "-").stdout)
        linears = [layer for layer in found["layers"] if layer["kind"] == "linear"]
        assert [layer["shape"] for layer in linears] == [[64, 64]] * 2, name
        assert sum(found["bytes"].values()) == (place / "model.onnx").stat().st_size
        stored[name] = {(layer["bits"], layer["bytes"], layer["group"]) for layer in linears}
    assert stored == {
        "float": {(32, 64 * 64 * 4, None)},
        "eight": {(8, 64 * 64, None)},
        "four": {(4, 64 * 64 // 2, 32)},
    }


def test_inspect_reads_safetensors_as_their_library_writes_them(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    arrays = {
        "h.0.w": np.zeros((3, 5), np.float32),
        "h.1.w": np.zeros((3, 5), np.float32),
        "b": np.zeros(7, np.float16),
    }
    numpy_files.save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    write_json(tmp_path / "config.json", {"architectures": ["X"]})
    found = json.loads(edgeprune("inspect", tmp_path, "--json", "-").stdout)
    assert {name: (entry["shape"], entry["bytes"]) for name, entry in found["tensors"].items()} == {
        name: (list(array.shape), array.nbytes) for name, array in arrays.items()
    }
    assert found["parameters"] == 37
    assert "0-1" in edgeprune("inspect", tmp_path).stdout
    whole = (tmp_path / "model.safetensors").read_bytes()
    for broken in (whole[:-1], whole[:50], whole[:3], b"\xff" * 8 + whole[8:], b""):
        (tmp_path / "model.safetensors").write_bytes(broken)
        assert "not a whole safetensors" in mistake(edgeprune("inspect", tmp_path))


def test_mistakes_get_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    data = ("--data", tmp_path / "latin.txt")
    for arguments, sentence in (
        (("run", tmp_path / "none", "hi"), "There is no folder"),
        (("run", pickled, "hi"), "holds no ONNX model"),
        (("run", folder, "hi", "--top-p", 2), "--top-p 2.0: Input should be less than"),
        (("run", folder, "hi", "--max-tokens", 0), "--max-tokens 0: Input should be greater"),
        (("bench", folder, "--tokens", 65), "takes 64 tokens at most"),
        (("bench", folder, "--batch", 0), "--batch 0"),
        (("bench", folder, "--json", tmp_path / "no" / "r.json"), "no folder"),
        (("evaluate", folder, "--task", "stz", *data), "Did you mean sts?"),
        (("evaluate", folder, "--task", "cosine", "--against", folder, *data), "not UTF-8"),
        (("inspect", pickled), "only pickled weights (pytorch_model.bin)"),
        (("inspect", tmp_path), "holds no model"),
        (("inspect", folder / "model.onnx"), "is a file: name the folder"),
    ):
        assert sentence in mistake(edgeprune(*arguments)), arguments
    assert "Line 2 of standard input" in (
        edgeprune("run", folder, "-", given=b"fine\n\xe9\n").stderr.strip()
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("it is\n  wrong."), 2, "edgeprune: it is wrong."),
        (RequirementMissed("it is slow."), 1, "edgeprune: it is slow."),
        (KeyboardInterrupt(), 130, "edgeprune: Stopped."),
        (
            OSError(errno.ENOSPC, "x", "/out"),
            2,
            "edgeprune: The disk is full: /out could not be written.",
        ),
        (PermissionError(errno.EACCES, "No", "/out"), 2, "edgeprune: /out: No."),
    ],
)
def test_errors_become_exit_codes(error: BaseException, code: int, said: str) -> None:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == code
    assert result.stderr.strip() == said


def test_an_error_of_ours_is_not_hidden() -> None:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, ZeroDivisionError)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_a_benchmark_and_its_processes(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "m", depth=8, width=256)
    command = [sys.executable, "-m", "edgeprune", "bench", "--tokens", "16"]
    process = subprocess.Popen(
        [*command, str(folder), "--against", str(folder), "--json", str(tmp_path / "r.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(running("edgeprune.measure.bench.worker", process.pid)) == 3)
    workers = running("edgeprune.measure.bench.worker", process.pid)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "edgeprune: Stopped."
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "r.json").exists()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
