"""Measure MiniLM in INT8 beside OpenVINO's and ONNX Runtime's own INT8, nothing pruned.

    EDGEPRUNE_DATA=<folder> python benchmarks/encoders.py [--only WORDS]... [--table]

Ours is the recipe encoder-int8, built once in --work: in a stock ONNX Runtime with default options
(dense), or with the operator library, in whose layout its linears are then (in blocks).
OpenVINO's is quantized by NNCF, which calibrates on texts of WikiText-2 train; ONNX Runtime's by
quantize_dynamic, and runs without the SkipLayerNormalization fusion that slows it down. Peers run
in environments of their own: `python benchmarks/peers/setup.py openvino`, and `onnxruntime`.

A row is ours beside one peer at one number of threads and one size of work, interleaved. It is a
line of JSON in benchmarks/results/encoders.jsonl and is not run again, so an interrupted run goes
on; --only takes rows whose name holds the words. Quality is Spearman x 100 on STS-B dev, each text
alone in its batch, with the paired difference's 95 % interval over pairs.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from built import build_once
from contestants import is_missing, peer_command, peer_words
from results_file import ratio_text
from resumed import kept, run_rows

import edgeprune.runtime
from edgeprune.base.bootstrap import bootstrap
from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.subject import SLOW_FUSIONS
from edgeprune.measure.evaluate.sts import spearman
from edgeprune.model.projection import unit_length
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.files import read_rows, read_texts

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "encoders.jsonl"
RECIPE = "encoder-int8"
ARRANGEMENTS: dict[str, tuple[str, ...]] = {"dense": (), "in blocks": ("quantize.sparse=whole",)}
"""What the recipe is told."""
PAIRS, CALIBRATION = "pairs/stsb.dev.jsonl", "text/wikitext2.train.txt"
CALIBRATION_TEXTS = 300
"""NNCF's own default."""


@dataclass(frozen=True)
class Peer:
    """Another runtime: its environment, its script, and what the script is told."""

    environment: str
    script: str
    options: tuple[str, ...] = ()
    calibrates: bool = False


PEERS = {
    "OpenVINO INT8": Peer("openvino", "run_openvino.py", ("--int8",), calibrates=True),
    "ONNX Runtime INT8": Peer(
        "onnxruntime",
        "run_onnxruntime.py",
        ("--int8", *(part for name in SLOW_FUSIONS for part in ("--without", name))),
    ),
}
# Peer, tokens, batch -> how many times its speed is to be reached.
GOALS = {
    ("OpenVINO INT8", 128, 1): 0.85,
    ("ONNX Runtime INT8", 16, 1): 0.98,
    ("ONNX Runtime INT8", 64, 1): 0.98,
    ("ONNX Runtime INT8", 256, 1): 0.98,
    ("ONNX Runtime INT8", 128, 8): 0.98,
}
WORKS = ((128, 1), (16, 1), (64, 1), (256, 1), (128, 8))


@dataclass(frozen=True)
class Row:
    """Ours beside one peer."""

    peer: str
    threads: int
    tokens: int
    batch: int
    arrangement: str = "dense"

    @property
    def name(self) -> str:
        """What the row is kept under."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        name = f"{self.peer}, {threads}, {self.tokens} tokens, batch {self.batch}"
        return name if self.arrangement == "dense" else f"{self.arrangement}, {name}"

    @property
    def goal(self) -> float | None:
        """What ratio it should reach, where one was set."""
        return GOALS.get((self.peer, self.tokens, self.batch))


def rows() -> Iterator[Row]:
    """Every row, one thread first."""
    every = product(ARRANGEMENTS, (1, 2), WORKS, PEERS)
    for arrangement, threads, (tokens, batch), peer in every:
        yield Row(peer, threads, tokens, batch, arrangement)


def main() -> None:
    """Run what is not there yet, then print the table."""
    run_rows(__doc__.splitlines()[0], RESULTS, rows(), measure, table, _missing)


def _missing(row: Row) -> str:
    environment = PEERS[row.peer].environment
    return f"build/peers/{environment}" if is_missing(environment) else ""


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Build ours if it is not there, then time it beside the peer; quality is measured once."""
    arrangement = row.arrangement.replace(" ", "-")
    output = build_once(RECIPE, work / f"{RECIPE}-{arrangement}", ARRANGEMENTS[row.arrangement])
    peer = PEERS[row.peer]
    words = (peer.environment, peer.script, *arguments(peer, output, data, work))
    file = work / f"sts-{peer.environment}-{arrangement}.json"
    quality = kept(file, lambda: compare_sts(output, peer_words(*words), data, work))
    settings = BenchSettings(
        threads=row.threads, tokens=row.tokens, batch=row.batch, time_limit=seconds
    )
    speed = compare(output / "bundle", peer_command(*words), settings).to_json()
    for side, name in (("candidate", RECIPE), ("baseline", row.peer)):
        speed[side]["name"] = name  # not where it lies on this machine
    return {
        "name": row.name,
        "row": asdict(row),
        "goal": row.goal,
        "sts": quality,
        "speed": speed,
    }


def arguments(peer: Peer, output: Path, data: Path, work: Path) -> list[object]:
    """What a peer's script is told: the original, how to quantize it, and on what text."""
    told: list[object] = [(output / "original").absolute(), *peer.options]
    if peer.calibrates:
        file = work.absolute() / "calibration.json"
        if not file.exists():
            lines = read_texts(data / CALIBRATION)
            drawn = np.random.default_rng(0).choice(len(lines), CALIBRATION_TEXTS, replace=False)
            write_ids(output, [lines[place] for place in drawn], file)
        told += ["--calibration", file]
    return told


def write_ids(output: Path, texts: list[str], file: Path) -> None:
    """Token ids for a peer's script: JSON, a list a text."""
    tokens = Tokenizer(Bundle.open(output / "bundle")).encode(texts)
    file.write_text(json.dumps([list(each.ids) for each in tokens]))


def compare_sts(output: Path, words: list[str], data: Path, work: Path) -> dict[str, Any]:
    """STS-B dev of ours, of the peer, and their difference with its interval."""
    pairs = read_rows(data / PAIRS, ["text", "text_pair", "score"])
    texts = [str(pair[side]) for side in ("text", "text_pair") for pair in pairs]
    scores = np.array([float(pair["score"]) for pair in pairs])
    ids, answers = work.absolute() / "sts-ids.json", work.absolute() / "answers.npy"
    write_ids(output, texts, ids)
    subprocess.run([*words, "--embed", ids, answers], check=True)
    ours = cosines(edgeprune.runtime.load(output / "bundle").embed(texts, batch_size=1))
    peers = cosines(unit_length(np.load(answers)))

    def statistic(chosen: np.ndarray) -> dict[str, float]:
        both = [100 * spearman(each[chosen], scores[chosen]) for each in (ours, peers)]
        return {"ours": both[0], "peer": both[1], "difference": both[0] - both[1]}

    everything = np.arange(len(scores))
    return {**statistic(everything), "interval": bootstrap(statistic, everything)["difference"]}


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Of the first half of unit vectors with the second."""
    left, right = np.split(vectors, 2)
    return (left * right).sum(axis=1)


def verdict(ratio: dict[str, float], goal: float | None) -> str:
    """Whether the whole interval reaches the goal, or misses it."""
    if goal is None:
        return ""
    if ratio["low"] >= goal:
        return "reached"
    return "missed" if ratio["high"] < goal else "undecided"


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown: how many times the peer's speed, with 95 % intervals."""
    lines = [
        "| ours | peer | threads | tokens | batch | ours, peer, ms | speed | goal "
        "| STS-B: ours, peer | difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in done.values():
        row, found = Row(**result["row"]), result["speed"]["measures"]["encoder"]
        times = ", ".join(f"{found[s]['median_ms']:.2f}" for s in ("candidate", "baseline"))
        goal = f"{result['goal']:g}x, " if result["goal"] else ""
        sts = result["sts"]
        low, high = sts["interval"]
        lines.append(
            f"| {row.arrangement} | {row.peer} | {row.threads} | {row.tokens} | {row.batch} "
            f"| {times} "
            f"| {ratio_text(found['ratio'])} | {goal}{verdict(found['ratio'], result['goal'])} "
            f"| {sts['ours']:.2f}, {sts['peer']:.2f} "
            f"| {sts['difference']:+.2f} ({low:+.2f} to {high:+.2f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
