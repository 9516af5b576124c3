"""Measure what prompt lookup brings, and that it changes no token.

    EDGEPRUNE_DATA=<folder> python benchmarks/lookup.py [--only WORDS]... [--work FOLDER] [--table]

SmolLM2-135M in INT8 by the operator library, rounded to nearest and built once in --work, answers
every first turn of copy/ and chat/ greedily, with up to 96 tokens, with lookup and without, in
turns. A prompt is read once before; times are of this thread's processor, on which the session
runs, so that another process's load does not count. A row is a file of prompts: the geometric mean
of how many times faster the tokens come, with its 95 % bootstrap interval over the prompts. Where
the answers differ in one token, the benchmark ends.

Answers that loop are counted apart, because nothing is easier to look up: those whose last 48
tokens repeat after at most 16. A row is a line of JSON in benchmarks/results/lookup.jsonl and is
not run again.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from built import build_once
from results_file import ratio_text
from resumed import run_rows

from edgeprune import runtime
from edgeprune.base.bootstrap import bootstrap
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.reading import Reading
from edgeprune.runtime.sampling import Sampling

RESULTS = Path(__file__).parent / "results" / "lookup.jsonl"
SETS = {
    "copy": ("quixbugs_edit", "specbench_rag", "specbench_summarization", "specbench_translation"),
    "other": ("specbench_math_reasoning", "specbench_qa"),
    "chat": ("mt_bench", "vicuna_bench"),
}
"""Files of prompts by what their answers are: copied from the prompt in parts, or made anew."""
FOLDERS = {"copy": "copy", "other": "copy", "chat": "chat"}
TOKENS = 96
LOOP, PERIOD = 48, 16
OVERRIDES = ("cut=off", "recover=off", "quantize.operators=true", "measure.launches=1")


@dataclass(frozen=True)
class Row:
    """A file of prompts."""

    kind: str
    file: str

    @property
    def name(self) -> str:
        """What the row is kept under."""
        return f"{self.kind}: {self.file}"


def rows() -> Iterator[Row]:
    """Every row."""
    return (Row(kind, file) for kind, files in SETS.items() for file in files)


def main() -> None:
    """Run what is not there yet, then print the table."""
    run_rows(__doc__.splitlines()[0], RESULTS, rows(), measure, table)


def prompts_of(file: Path) -> list[str]:
    """The first turn of each of a file's rows."""
    found = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [row["prompt"] if "prompt" in row else row["turns"][0] for row in found]


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Build the bundle if it is not there, then answer the row's prompts both ways."""
    model = runtime.load(build_once("decoder", work / "operators", OVERRIDES) / "bundle", threads=1)
    if not model.decoder.drafts:
        sys.exit("Nothing is drafted here: the operator library is not installed.")
    answers = []
    for number, text in enumerate(prompts_of(data / FOLDERS[row.kind] / f"{row.file}.jsonl")):
        prompt = model.chat_ids([{"role": "user", "content": text}])
        answers.append(answered(model, prompt, number % 2 == 0))
    return {
        "name": row.name,
        "onnxruntime": onnxruntime.__version__,
        "all": speed_of(answers),
        "not loops": speed_of([each for each in answers if not each["loops"]]),
    }


def answered(model: Generator, prompt: Sequence[int], plain_first: bool) -> dict[str, Any]:
    """How much faster an answer's tokens come by lookup than plainly, and whether it loops."""
    reading = Reading(model.decoder)
    reading.read(prompt)
    seconds, texts = {}, {}
    for how in ("off", "auto") if plain_first else ("auto", "off"):
        steps = model.steps(prompt, Sampling(max_tokens=TOKENS, lookup=how), reading)
        start = time.thread_time()
        texts[how] = [written.id for written in steps]
        seconds[how] = time.thread_time() - start
    if texts["auto"] != texts["off"]:
        sys.exit(f"Lookup changed an answer: {texts['auto']}, not {texts['off']}.")
    return {"faster": seconds["off"] / seconds["auto"], "loops": loops(texts["off"])}


def loops(ids: Sequence[int]) -> bool:
    """Whether a text ends in a few tokens over and over."""
    end = list(ids[-LOOP:])
    return len(end) == LOOP and any(end[n:] == end[:-n] for n in range(1, PERIOD + 1))


def speed_of(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The number of answers, and the geometric mean of their ratios with its interval."""
    logs = np.log([answer["faster"] for answer in answers])
    intervals = bootstrap(lambda some: {"mean": logs[some].mean()}, np.arange(len(logs)))
    if not intervals:
        return {"answers": len(answers)}
    low, high = (math.exp(bound) for bound in intervals["mean"])
    return {
        "answers": len(answers),
        "ratio": {"value": math.exp(logs.mean()), "low": low, "high": high},
        "least": math.exp(logs.min()),
    }


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| prompts | answers, all the same | faster by lookup | the slowest answer "
        "| answers that do not loop | faster by lookup |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in done.items():
        whole, straight = result["all"], result["not loops"]
        apart = ratio_text(straight["ratio"]) if "ratio" in straight else "-"
        lines.append(
            f"| {name} | {whole['answers']} | {ratio_text(whole['ratio'])} "
            f"| {whole['least']:.2f}x | {straight['answers']} | {apart} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
