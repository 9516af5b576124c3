"""Measure the recipe `reranker` on MiniLM trained to score pairs.

    EDGEPRUNE_DATA=<folder> python benchmarks/rerank.py [--only WORDS]... [--table]

The original is what finetune_reranker.py makes, once, in --work; the recipe is built on the pairs
that it learnt from. A row is one collection, with nDCG, MRR and recall at ten of the bundle and the
original, and the paired difference's 95 % interval over queries:

    cranfield     the 50 nearest documents by all-MiniLM-L6-v2 of each of 225 queries
    trecqa        dev and test of TREC QA, all judged sentences of 133 questions

and `speed` is the time beside the original's, interleaved. Each row is a line of JSON in
benchmarks/results/rerank.jsonl and is not run again, so an interrupted run goes on.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from built import build_once, quality_row, speed_row
from finetune import MODEL
from finetune_reranker import finetune
from results_file import ratio_text
from resumed import run_rows

from edgeprune import runtime
from edgeprune.export.opened import open_model
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.text.files import read_rows

RESULTS = Path(__file__).parent / "results" / "rerank.jsonl"
RECIPE, CANDIDATES = "reranker", 50


@dataclass(frozen=True)
class Row:
    """A collection, or the speed."""

    name: str
    data: Callable[[Path, Path], Path] | None = None
    """(folder of texts, --work) -> what `evaluate --task ranking` reads."""


def main() -> None:
    """Run what is not there yet, then print the table."""
    rows = [Row("speed"), Row("trecqa", trecqa), Row("cranfield", cranfield)]
    run_rows(__doc__.splitlines()[0], RESULTS, rows, measure, table)


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Train and build what is not there, then measure the row."""
    model, output = work / "reranker-minilm", work / RECIPE
    if not (model / "tokenizer.json").exists():  # the last that is written
        finetune(data, model)
    options = ("--model", str(model), "--data", str(model.with_suffix(".jsonl")))
    build_once(RECIPE, output, options=options)
    if row.data is None:
        return speed_row(row.name, output, seconds)
    return quality_row(row.name, output, "ranking", row.data(data, work))


def trecqa(data: Path, work: Path) -> Path:
    """Both parts that nothing was trained on, in one file."""
    parts = [data / f"rerank/trecqa.{part}.jsonl" for part in ("dev", "test")]
    file = work / "trecqa.jsonl"
    file.write_text("\n".join(part.read_text(encoding="utf-8").strip() for part in parts))
    return file


def cranfield(data: Path, work: Path) -> Path:
    """The collection with the nearest documents of each query as candidates."""
    folder = work / "cranfield"
    if (folder / "candidates.tsv").exists():
        return folder
    shutil.copytree(data / "retrieval" / "cranfield", folder, dirs_exist_ok=True)
    documents = read_rows(folder / "corpus.jsonl", ["_id", "text"])
    queries = read_rows(folder / "queries.jsonl", ["_id", "text"])
    with open_model(open_checkpoint(MODEL).folder) as opened:
        encoder = runtime.load(opened)
        vectors = encoder.embed([f"{row['title']} {row['text']}".strip() for row in documents])
        asked = encoder.embed([row["text"] for row in queries])
    nearest = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, :CANDIDATES]
    lines = [
        f"{query['_id']}\t{documents[place]['_id']}"
        for query, places in zip(queries, nearest, strict=True)
        for place in places
    ]
    (folder / "candidates.tsv").write_text("\n".join(["query-id\tcorpus-id", *lines, ""]))
    return folder


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| row | queries | original | result | difference |", "|---|---|---|---|---|"]
    if speed := done.get("speed"):
        ratio = next(iter(speed["speed"]["measures"].values()))["ratio"]
        lines.append(f"| speed | | | {ratio_text(ratio)} | |")
    for name in ("cranfield", "trecqa"):
        if row := done.get(name):
            for value, found in row["values"].items():
                low, high = row["difference_interval"][value]
                lines.append(
                    f"| {name}, {value} | {row['conditions']['queries']} "
                    f"| {row['original'][value]:.2f} | {found:.2f} "
                    f"| {row['difference'][value]:+.2f} ({low:+.2f} to {high:+.2f}) |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
