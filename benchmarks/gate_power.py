"""How well `edgeprune check` finds a slower model, and how often its intervals hold the truth, on
this machine and whatever else runs on it.

    python benchmarks/gate_power.py [--bundle FOLDER] [--runs N] [--only PERCENT] [--table]

A slowdown is injected as nodes in the graph: products with a projection, whose result is multiplied
by zero and added to the output, so that the answers stay equal to the last bit. How many nodes make
3, 5 and 10 % is measured first. Then `edgeprune check` runs as anyone would run it: 100 times each
at 0 and 10 %, 30 times at 3 and 5 %, in turns. At 0 % both graphs are the same, so that the truth
is known: the table tells how many of the 95 % intervals hold it, how many lie above and below, and
where their middles lie on average. One line of JSON a run in benchmarks/results/gate_power.jsonl; a
run that is there is not run again, so an interrupted benchmark goes on. About an hour and a half.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.runtime.bundle import MANIFEST, Bundle, write_bundle

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gate_power.jsonl"
RUNS = {0: 100, 10: 100, 3: 30, 5: 30}
LIMIT = 5
"""Per cent that the gate allows."""
LAUNCHES = 12
"""Of the measurement of what is injected."""
RANK = 16
"""Columns of the injected projection: a unit costs 4 * 128 * 384 * 16 operations on MiniLM, 3 M."""
TRIAL_UNITS = 24
SKIPPED_FIGURES = ("--max-operators", "100000", "--max-size", "100", "--max-memory", "100")
"""Speed alone is judged: more nodes are more operators, which the gate would find at once."""


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="an encoder's; default: build encoder-int8")
    parser.add_argument("--work", type=Path, default=Path("build") / "gate_power")
    parser.add_argument("--runs", type=int, help="the most runs to make this time")
    parser.add_argument("--only", type=int, choices=RUNS, help="this slowdown alone")
    parser.add_argument("--calibration", type=float, default=60.0, help="seconds a measurement")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    done = read(given.results)
    if not given.table:
        injected = prepare(given.bundle, given.work, given.calibration)
        given.results.parent.mkdir(parents=True, exist_ok=True)
        missing = [each for each in left(done) if given.only in (None, each[0])][: given.runs]
        for number, (slowdown, run) in enumerate(missing, start=1):
            row = measure(slowdown, run, injected, given.work)
            done.append(row)
            with given.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(
                f"[{number}/{len(missing)}] {slowdown} %: {row['verdict']}, "
                f"{row['change']:+.1f} % in {row['seconds']} s",
                file=sys.stderr,
            )
    print(table(done))


def prepare(bundle: Path | None, work: Path, seconds: float) -> dict[str, Any]:
    """Make a bundle a slowdown, and measure what each really costs; once."""
    record = work / "injected.json"
    if record.is_file():
        return json.loads(record.read_text())
    source = Bundle.open(bundle or build(work))
    folders = {slowdown: work / f"slower-{slowdown}" for slowdown in RUNS}
    base = inject(source, folders[0], 0)
    a_unit = slower(inject(source, work / "trial", TRIAL_UNITS), base, seconds)["percent"]
    a_unit /= TRIAL_UNITS
    if a_unit <= 0:
        sys.exit(f"{TRIAL_UNITS} units cost nothing that could be measured: try again.")
    injected: dict[str, Any] = {"bundle": str(source.folder), "percent_a_unit": a_unit, "made": {}}
    for slowdown, folder in folders.items():
        if slowdown:
            units = max(1, round(slowdown / a_unit))
            found = slower(inject(source, folder, units), base, seconds)
            injected["made"][str(slowdown)] = {"units": units, **found}
    shutil.rmtree(work / "trial")
    record.write_text(json.dumps(injected, indent=1))
    return injected


def build(work: Path) -> Path:
    """MiniLM in INT8, by the recipe that ships."""
    command = [sys.executable, "-m", "edgeprune", "build", "encoder-int8"]
    subprocess.run([*command, "--output", str(work / "encoder-int8")], check=True)
    return work / "encoder-int8" / "bundle"


def inject(source: Bundle, folder: Path, units: int) -> Path:
    """A bundle of the same answers that computes more.

    Each unit is two products, with a projection's factors Q and Q', [size, RANK]: projecting again
    and again neither grows nor vanishes, and no optimizer knows that it changes nothing.
    """
    model = onnx.load(source.model_path)
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    size = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if units:
        columns, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, RANK)))
        weights = {"down": columns, "up": columns.T, "nought": np.zeros(())}
        for name, value in weights.items():
            tensor = numpy_helper.from_array(value.astype(np.float32), f"injected/{name}")
            model.graph.initializer.append(tensor)
        last.output[list(last.output).index(output)] = "injected/true"
        at = "injected/true"
        for unit in range(units):
            names = f"injected/{unit}/down", f"injected/{unit}/up"
            model.graph.node.extend(
                [
                    helper.make_node("MatMul", [at, "injected/down"], [names[0]]),
                    helper.make_node("MatMul", [names[0], "injected/up"], [names[1]]),
                ]
            )
            at = names[1]
        model.graph.node.append(helper.make_node("Mul", [at, "injected/nought"], ["injected/0"]))
        model.graph.node.append(helper.make_node("Add", ["injected/true", "injected/0"], [output]))
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        parts, assets = Path(scratch) / "onnx", Path(scratch) / "assets"
        parts.mkdir()
        onnx.save(model, parts / "model.onnx")
        shutil.copytree(source.folder, assets, ignore=shutil.ignore_patterns("onnx", MANIFEST))
        graphs = {"onnx/model.onnx": parts / "model.onnx"}
        write_bundle(folder, graphs, assets, {"task": source.task, **source.manifest})
    check_answers(source, Bundle.open(folder))
    return folder


def check_answers(source: Bundle, made: Bundle) -> None:
    """Stop unless both give the same numbers, to the last bit."""
    ids = np.random.default_rng(1).integers(0, source.config["vocab_size"], (2, 32))
    answers = []
    for bundle in (source, made):
        session = onnxruntime.InferenceSession(bundle.model_path)
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        feeds = {x.name: known.get(x.name, np.zeros_like(ids)) for x in session.get_inputs()}
        answers.append(session.run(None, feeds)[0])
    if not np.array_equal(*answers):
        sys.exit(f"{made.folder} gives other answers than {source.folder}.")


def slower(candidate: Path, baseline: Path, seconds: float) -> dict[str, Any]:
    """Per cent more time that a bundle takes, with its 95 % interval, measured for long."""
    settings = BenchSettings(time_limit=seconds, launches=LAUNCHES, tune_baseline=False)
    ratio = compare(candidate, baseline, settings).measures["encoder"].ratio
    return {
        "percent": 100 * (1 / ratio.value - 1),
        "interval": [100 * (1 / ratio.high - 1), 100 * (1 / ratio.low - 1)],
    }


def left(done: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """(slowdown, run) that are missing, the slowdowns in turns: a noisy hour meets all of them."""
    there = {(row["slowdown"], row["run"]) for row in done}
    for run in range(max(RUNS.values())):
        for slowdown, count in RUNS.items():
            if run < count and (slowdown, run) not in there:
                yield slowdown, run


def measure(slowdown: int, run: int, injected: dict[str, Any], work: Path) -> dict[str, Any]:
    """Run the gate once, as a process of its own."""
    command = [sys.executable, "-m", "edgeprune", "check", str(work / f"slower-{slowdown}")]
    command += ["--against", str(work / "slower-0"), "--format", "json"]
    command += ["--max-slowdown", f"{LIMIT}%", *SKIPPED_FIGURES]
    load = os.getloadavg()[0]
    started = time.monotonic()
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.monotonic() - started
    if not found.stdout:
        sys.exit(f"{' '.join(command)}: {found.stderr}")
    outcome = json.loads(found.stdout)
    speed = next(check for check in outcome["checks"] if check["name"] == "latency")
    return {
        "slowdown": slowdown,
        "run": run,
        "injected": injected["made"].get(str(slowdown)),
        "verdict": speed["verdict"],
        "change": speed["change"],
        "interval": speed["interval"],
        "pairs": speed["pairs"],
        "baseline_ms": speed["baseline"],
        "exit_code": found.returncode,
        "also_failed": [
            check["name"]
            for check in outcome["checks"]
            if check["verdict"] == "fail" and check is not speed
        ],
        "seconds": round(took, 1),
        "load": load,
        "processor": outcome["candidate"]["conditions"]["processor"],
        "bundle": Path(injected["bundle"]).parent.name,
    }


def read(results: Path) -> list[dict[str, Any]]:
    """The runs that are there."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def table(done: list[dict[str, Any]]) -> str:
    """The power curve as Markdown, and whether the goals are met."""
    lines = [
        f"| injected | measured | runs | found beyond {LIMIT} % | undecided | passed "
        "| median width | longest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    failed = {}
    for slowdown in sorted(RUNS):
        rows = [row for row in done if row["slowdown"] == slowdown]
        if not rows:
            continue
        verdicts = [row["verdict"] for row in rows]
        failed[slowdown] = verdicts.count("fail")
        made = rows[-1]["injected"]
        measured = f"{made['percent']:.1f} %" if made else "the same graph"
        width = np.median([row["interval"][1] - row["interval"][0] for row in rows])
        lines.append(
            f"| {slowdown} % | {measured} | {len(rows)} | {failed[slowdown]} "
            f"| {verdicts.count('undecided')} | {verdicts.count('pass')} "
            f"| {width:.1f} % | {max(row['seconds'] for row in rows)} s |"
        )
    goals = ((0, "false alarms", "at most 2"), (10, "found", "at least 95"))
    lines += [""] + [
        f"{name} at {slowdown} %: {failed[slowdown]} of "
        f"{sum(row['slowdown'] == slowdown for row in done)} (goal: {goal} of 100)"
        for slowdown, name, goal in goals
        if slowdown in failed
    ]
    return "\n".join([*lines, *coverage([row for row in done if row["slowdown"] == 0])])


def coverage(same: list[dict[str, Any]]) -> list[str]:
    """How often the interval of a graph beside itself holds 0 %, as lines."""
    if not same:
        return []
    above = sum(row["interval"][0] > 0 for row in same)
    below = sum(row["interval"][1] < 0 for row in same)
    changes = [row["change"] for row in same]
    lean, error = np.mean(changes), np.std(changes) / np.sqrt(len(changes))
    return [
        f"95 % intervals that hold the truth: {len(same) - above - below} of {len(same)} "
        f"(goal: at least 92 of 100); {above} lie above it, {below} below",
        f"mean of their middles: {lean:+.2f} % of the time, standard error {error:.2f} "
        "(goal: within 0.2)",
        f"median seconds of a run: {np.median([row['seconds'] for row in same]):.1f}",
    ]


if __name__ == "__main__":
    main()
