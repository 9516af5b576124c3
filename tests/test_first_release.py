"""What version 0.1.0 wrote is opened, run and compared as it was (tests/fixtures/first_release).

Sums in float32 end differently on other processors, and a value on the edge of two codes of INT8
then becomes the other one. How far that moves these answers was seen by altering every float32
weight by a hundred thousandth, far more than the order of a sum does: embeddings by at most 0.7 %
of their length, probabilities by 0.004, nats per token by 0.001, and no generated token. The bounds
are a few times that, and each test sees that one text's answer is well beyond them for another.
"""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeprune.cli import main

FIRST = Path(__file__).parent / "fixtures" / "first_release"
NAMES = ("encoder", "classifier", "decoder")
TASKS = ("feature-extraction", "text-classification", "text-generation")
EMBEDDING = 0.02
"""How far an embedding may be from the kept one, as a part of its length."""
PROBABILITY = 0.02
NATS = 0.02
"""Per token, of a decoder."""
# Times say nothing on a busy machine.
SAME_WORK = ("--tokens", 12, "--time-limit", 0.5, "--max-slowdown", "100000%", "--max-memory", 1000)
COSINE = ("--task", "cosine", "--data", FIRST / "encoder/texts.txt")
ORIGINAL = ("--original", FIRST / "encoder/original")


def edgeprune(*arguments: object, given: str | None = None) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=given)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def kept(name: str) -> list[dict[str, Any]]:
    """The answers of 0.1.0."""
    lines = (FIRST / name / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answered(name: str, *options: object) -> list[dict[str, Any]]:
    """Today's answers to the same texts."""
    texts = (FIRST / name / "texts.txt").read_text(encoding="utf-8")
    result = edgeprune("run", FIRST / name / "bundle", "-", "--json", *options, given=texts)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def measured(*words: object) -> dict[str, Any]:
    result = edgeprune("evaluate", *words, "--rows", "--json", "-")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read(name: str) -> dict[str, Any]:
    return json.loads((FIRST / name).read_text(encoding="utf-8"))


# bundles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "task"), list(zip(NAMES, TASKS, strict=True)))
def test_a_bundle_is_whole_and_what_it_was(name: str, task: str) -> None:
    result = edgeprune("inspect", FIRST / name / "bundle", "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    manifest = read(f"{name}/bundle/edgeprune.json")
    assert manifest["edgeprune"] == "0.1.0"
    assert found["manifest"] == manifest
    assert found["task"] == task
    assert found["model_bytes"] == manifest["files"]["onnx/model.onnx"]["bytes"]
    # Every linear of the plan is in INT8; the heads' three may be one in the graph.
    linears = [each for each in found["layers"] if each["kind"] == "linear"]
    assert {each["bits"] for each in linears} == {8}
    said = " ".join(edgeprune("inspect", FIRST / name / "bundle").stdout.split())
    assert f"files: {len(manifest['files'])}, all as the manifest says" in said
    assert "made by edgeprune 0.1.0" in said


def test_an_encoder_gives_the_vectors_that_it_gave() -> None:
    then, now = kept("encoder"), answered("encoder")
    assert [each["text"] for each in now] == [each["text"] for each in then]
    old, new = (np.array([each["embedding"] for each in side]) for side in (then, now))
    lengths = np.linalg.norm(old, axis=1)
    assert (np.linalg.norm(new - old, axis=1) <= EMBEDDING * lengths).all()
    assert min(np.linalg.norm(a - b) for a, b in pairwise(old)) > 10 * EMBEDDING * lengths.max()


def test_a_classifier_gives_the_labels_that_it_gave() -> None:
    then, now = kept("classifier"), answered("classifier")
    assert [(each["text"], each["label"]) for each in now] == [
        (each["text"], each["label"]) for each in then
    ]
    assert {each["label"] for each in then} == {"LABEL_0", "LABEL_1", "LABEL_2"}
    for old, new in zip(then, now, strict=True):
        assert new["probabilities"] == pytest.approx(old["probabilities"], abs=PROBABILITY)
        first, second, _ = sorted(old["probabilities"].values(), reverse=True)
        assert first - second > 4 * PROBABILITY


def test_a_decoder_writes_what_it_wrote_with_its_cache() -> None:
    then = kept("decoder")
    assert answered("decoder", "--raw", "--max-tokens", 5) == then
    assert len({each["generated"] for each in then}) == len(then)


def test_a_decoder_measures_as_it_did() -> None:
    data = FIRST / "decoder/texts.txt"
    found = measured(
        FIRST / "decoder/bundle", "--task", "perplexity", "--data", data, "--window", 16
    )
    old = read("decoder/evaluate.json")
    assert found["conditions"] == old["conditions"]
    assert found["rows"]["bundle"]["tokens"] == old["rows"]["bundle"]["tokens"]
    nats = "nats_per_token"
    assert found["values"][nats] == pytest.approx(old["values"][nats], abs=NATS)


def test_an_encoder_is_as_near_to_its_original_as_it_was() -> None:
    """No cosine moves by more than the vectors do."""
    original = FIRST / "encoder/original"
    found = measured(FIRST / "encoder/bundle", *COSINE, "--against", original)
    old = read("encoder/evaluate.json")
    assert found["conditions"] == old["conditions"]
    assert found["values"] == pytest.approx(old["values"], abs=EMBEDDING)
    assert found["rows"]["bundle"]["cosine"] == pytest.approx(
        old["rows"]["bundle"]["cosine"], abs=EMBEDDING
    )
    assert max(old["rows"]["bundle"]["cosine"]) < 1 - 2 * EMBEDDING


# saved results -----------------------------------------------------------------------------------


def test_the_gate_compares_with_what_it_saved() -> None:
    """Bytes and answers anywhere; operators, memory and times where the runtime and the machine
    are the same."""
    bundle, saved = FIRST / "encoder/bundle", FIRST / "encoder/gate.json"
    given = ("--max-drop", 2, *SAME_WORK, *COSINE, *ORIGINAL, "--json", "-")
    result = edgeprune("check", bundle, "--against", saved, *given)
    assert result.exit_code == 0, result.output
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    verdicts = {name: check["verdict"] for name, check in checks.items()}
    for name in ("source model", "graph and data", "cosine as built", "cosine quality"):
        assert verdicts.pop(name) == "pass"
    assert verdicts.keys() == {"operators", "fused operators", "peak memory", "latency"}
    for name, verdict in verdicts.items():
        assert verdict == "pass" or " then, " in checks[name]["sentence"]
    old = json.loads(saved.read_text(encoding="utf-8"))
    assert checks["graph and data"]["baseline"] == old["model_bytes"]
    assert checks["cosine quality"]["baseline"] == old["quality"]["values"]["mean_cosine"]


def test_the_gate_finds_what_became_worse_than_it_saved() -> None:
    """The original is 2.6 times as large as the bundle that the figures are of."""
    saved = FIRST / "encoder/gate.json"
    result = edgeprune(
        "check", FIRST / "encoder/original", "--against", saved, *SAME_WORK, "--json", "-"
    )
    assert result.exit_code == 1, result.output
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["graph and data"]["verdict"] == "fail"
    sizes = [read(f"encoder/{part}/edgeprune.json")["files"] for part in ("original", "bundle")]
    ours, theirs = (files["onnx/model.onnx"]["bytes"] for files in sizes)
    assert checks["graph and data"]["change"] == pytest.approx(100 * (ours / theirs - 1))


def test_the_gate_takes_what_bench_saved() -> None:
    bundle, saved = FIRST / "encoder/bundle", FIRST / "encoder/bench.json"
    result = edgeprune("check", bundle, "--against", saved, *SAME_WORK, "--json", "-")
    assert result.exit_code == 0, result.output
    checks = {check["name"]: check["verdict"] for check in json.loads(result.stdout)["checks"]}
    assert checks["graph and data"] == "pass"


def test_the_gate_refuses_another_models_figures_in_one_sentence() -> None:
    result = edgeprune(
        "check", FIRST / "classifier/bundle", "--against", FIRST / "encoder/gate.json"
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    [said] = result.stderr.strip().splitlines()
    assert "is of another model" in said
    assert "it does feature-extraction" in said


@pytest.mark.parametrize(
    ("name", "results"),
    [("encoder", ("evaluate.json", "bench.json")), ("classifier", ()), ("decoder", ())],
)
def test_a_report_is_drawn_of_what_an_old_build_left(name, results, tmp_path, monkeypatch) -> None:
    """With old results of the bundle, which they name by its place."""
    shutil.copytree(FIRST / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    drawn = edgeprune("report", name, *(f"{name}/{result}" for result in results))
    assert drawn.exit_code == 0, drawn.output
    page = words((tmp_path / name / "report.html").read_text(encoding="utf-8"))
    assert f"{name}, cut and in INT8" in page
    stages = {stage["name"]: stage for stage in read(f"{name}/report.json")["stages"]}
    assert f"{stages['load']['parameters']:,} parameters" in page
    for measure in stages["measure"]["speed"]["measures"].values():
        assert f"{measure['ratio']['value']:.2f}x faster" in page
    values = read(f"{name}/evaluate.json")["values"] if results else {}
    for quality, value in values.items():
        said = f"{quality.replace('_', ' ')} (texts.txt), to the original"
        assert re.search(rf"{re.escape(said)} {value:.4f}", page)


def words(page: str) -> str:
    """What a page says, without its pictures."""
    text = re.sub(r"<(style|svg|script).*?</\1>|<wbr ?/?>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
