"""What the peers' scripts share: conversions that are made once, and token ids."""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

MODELS = Path(__file__).parents[2] / "build" / "peers" / "models"


def converted(source: Path, how: str, convert: Callable[[Path, Path], None]) -> Path:
    """The folder that `convert(source, folder)` filled, now or in an earlier run.

    It runs in a process of its own: converting takes more memory than running does, and a
    contestant's peak memory is measured.

    Args:
        how: names the converter, its version and its settings.
    """
    key = hashlib.sha256(f"{how} {source.resolve()}".encode())
    for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
        key.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    folder = MODELS / key.hexdigest()[:16]
    if folder.exists():
        return folder
    aside = folder.with_suffix(f".{os.getpid()}")
    aside.mkdir(parents=True)
    # Forked, so that it needs nothing of this script to be importable.
    child = multiprocessing.get_context("fork").Process(
        target=_quietly, args=(convert, source, aside)
    )
    child.start()
    child.join()
    if child.exitcode:
        shutil.rmtree(aside)
        sys.exit(f"{source} could not be converted by {how}")
    aside.rename(folder)
    return folder


def _quietly(convert: Callable[[Path, Path], None], source: Path, folder: Path) -> None:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # standard output belongs to the protocol
    convert(source, folder)


def read_config(folder: Path) -> dict:
    """config.json of a model's folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def onnx_file(folder: Path) -> Path:
    """The ONNX file of a folder as the Hugging Face hub lays it out."""
    places = [folder / "onnx" / "model.onnx", folder / "model.onnx"]
    found = next((place for place in places if place.is_file()), None)
    return found or sys.exit(f"{folder} holds no ONNX model: give edgeprune's `original` folder.")


def weight_files(folder: Path) -> list[str]:
    """All files of a converted model but its texts: what has to lie on a device."""
    texts = (".json", ".txt", ".jinja", ".md", ".model", ".py")
    return [str(file) for file in sorted(folder.iterdir()) if file.suffix not in texts]


def add_embed_option(parser: argparse.ArgumentParser) -> None:
    """--embed IDS OUTPUT: write embeddings instead of being timed."""
    parser.add_argument("--embed", nargs=2, type=Path, metavar=("IDS", "OUTPUT"))


def write_embeddings(places: Sequence[Path], hidden: Callable[[np.ndarray], np.ndarray]) -> None:
    """The mean of each text's hidden states, alone in its batch: what quality is measured on.

    Args:
        places: a JSON file of token ids, a list a text, and the .npy file for [texts, size].
        hidden: hidden states [1, tokens, size] of ids [1, tokens].
    """
    ids, output = places
    texts = json.loads(ids.read_text())
    np.save(output, np.stack([hidden(np.array([text]))[0].mean(axis=0) for text in texts]))


def add_nats_option(parser: argparse.ArgumentParser) -> None:
    """--nats IDS OUTPUT: write how unlikely texts are instead of being timed."""
    parser.add_argument("--nats", nargs=2, type=Path, metavar=("IDS", "OUTPUT"))


def write_nats(places: Sequence[Path], logits: Callable[[np.ndarray], np.ndarray]) -> None:
    """Each window's negative log likelihood, of all its tokens but the first: for perplexity.

    Args:
        places: a JSON file of token ids, a list a window, and the JSON file for a list of numbers.
        logits: logits [tokens, vocabulary] of ids [tokens].
    """
    ids, output = places
    found = []
    for window in json.loads(ids.read_text()):
        values = np.asarray(logits(np.array(window))[:-1], np.float64)
        values -= values.max(axis=1, keepdims=True)
        chosen = values[np.arange(len(values)), window[1:]]
        found.append(float((np.log(np.exp(values).sum(axis=1)) - chosen).sum()))
    output.write_text(json.dumps(found))


def one_sequence(request: dict) -> None:
    """Refuse batches, where the peer's way of decoding has none."""
    if request["batch"] != 1:
        raise ValueError("this peer's script takes one sequence at a time: leave --batch at 1")
