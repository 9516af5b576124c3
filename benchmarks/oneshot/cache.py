"""What all cells of a model share, made once: weights and tokenizer, and what the original says.

SmolLM2's logits on 64 windows are 6 GB; the hidden states that its head makes them of are 75 MB,
and no method here touches the head.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeprune.base.progress import track
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model

FOLDER = Path(__file__).parents[2] / "build" / "pruning"


def model_folder(name: str, folder: Path = FOLDER) -> Path:
    """A folder with the model and its tokenizer, which `load_model` reads in seconds."""
    digest = hashlib.sha256()
    checkpoint = open_checkpoint(name)
    for file in checkpoint.files:
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    place = folder / digest.hexdigest()[:12]
    if not place.exists():
        aside = place.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_model(import_checkpoint(checkpoint), aside)
        import_tokenizer(checkpoint, aside)
        aside.rename(place)
    return place


def of_original(
    place: Path, key: str, make: Callable[[Model], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `make` finds of the untouched model in a folder, read from the file of that key where it
    was found before."""
    file = place / f"original-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if not file.exists():
        aside = file.with_suffix(".part")
        save_file(make(load_model(place)), aside)
        aside.rename(file)
    return load_file(file)


def head_of(model: Model) -> nn.Linear:
    """The linear that yields a decoder's logits."""
    assert model.anatomy.head
    return model.linear(model.anatomy.head)


@torch.no_grad()
def before_head(model: Model, windows: np.ndarray) -> Tensor:
    """What a decoder's head reads on windows of tokens [windows, tokens], [..., width]."""
    seen: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for ids in track(windows, "reading the original", len(windows)):
        model.module(torch.from_numpy(ids)[None], use_cache=False)
    handle.remove()
    return torch.cat(seen)
