"""Measure the recipe `ner` on MiniLM trained to find entities.

    EDGEPRUNE_DATA=<folder> python benchmarks/ner.py [--only WORDS]... [--table]

finetune.py makes the originals, once, in --work: one of WikiANN's English and German rows together,
and one of WNUT-17's. The recipe is built on the rows that each learnt from; F1 of entities is of
dev rows that took part in neither, with the paired difference's 95 % interval. `speed` is the time
of the first beside its original's, interleaved. Each row is a line of JSON in
benchmarks/results/ner.jsonl and is not run again, so an interrupted run goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from built import build_once, quality_row, speed_row
from finetune import DATA, finetune
from results_file import ratio_text
from resumed import run_rows

RESULTS = Path(__file__).parent / "results" / "ner.jsonl"
RECIPE = "ner"


@dataclass(frozen=True)
class Row:
    """The dev rows of a model, or its speed."""

    name: str
    model: str
    dev: str | None = None


ROWS = (
    Row("speed", "ner"),
    Row("wikiann en", "ner", "ner/wikiann_en.dev.jsonl"),
    Row("wikiann de", "ner", "ner/wikiann_de.dev.jsonl"),
    Row("wnut17", "wnut17", "ner/wnut17.dev.jsonl"),
)


def main() -> None:
    """Run what is not there yet, then print the table."""
    run_rows(__doc__.splitlines()[0], RESULTS, ROWS, measure, table)


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Train and build what is not there, then measure the row."""
    learned = DATA[row.model]
    model, output = work / f"{row.model}-minilm", work / row.model
    if not (model / "tokenizer.json").exists():  # the last that is written
        finetune(learned, data, model)
    options = ["--model", str(model)]
    for file in learned.train:
        options += ["--data", str(data / file)]
    build_once(RECIPE, output, options=options)
    if row.dev is None:
        return speed_row(row.name, output, seconds)
    return quality_row(row.name, output, "entities", data / row.dev)


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| rows | original | result | change |", "|---|---|---|---|"]
    for name, found in done.items():
        if "speed" in found:
            continue
        low, high = found["difference_interval"]["f1"]
        lines.append(
            f"| {name}, {found['conditions']['texts']:,} texts | {found['original']['f1']:.2f} "
            f"| {found['values']['f1']:.2f} "
            f"| {found['difference']['f1']:+.2f} ({low:+.2f} to {high:+.2f}) |"
        )
    if "speed" in done:
        speed = done["speed"]["speed"]
        megabytes = [speed[side]["model_bytes"] / 1e6 for side in ("baseline", "candidate")]
        lines.append(
            f"\n{ratio_text(speed['measures']['encoder']['ratio'])} as fast, "
            f"{megabytes[0]:.1f} MB to {megabytes[1]:.1f} MB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
