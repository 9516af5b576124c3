"""A stage's model in a folder: weights in safetensors, shapes, masks."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_json
from edgeprune.model.anatomy import describe
from edgeprune.model.assets import SIZES, copy_assets
from edgeprune.model.checkpoint import WEIGHTS, open_checkpoint
from edgeprune.model.config import read_config
from edgeprune.model.families import find_family
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.plain import make_plain
from edgeprune.model.settings import with_layers
from edgeprune.model.shapes import resize, set_head_attributes, without_unread_pooler
from edgeprune.model.streamed import StreamedWeights, without_values
from edgeprune.model.tensor_files import TENSORS, Place, TensorFiles

MASKS = "masks.safetensors"


def save_model(model: Model, folder: Path, masks: Mapping[str, torch.Tensor] | None = None) -> None:
    """Save a model, its tokenizer and what its layers kept, so that `load_model` reads it again.

    Args:
        masks: kept entries by module name, written beside the weights where given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_assets(model.folder, folder)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True))
    sizes = {"layers": model.layers, "heads": model.heads, "channels": model.channels}
    (folder / SIZES).write_text(json.dumps(sizes))
    if model.streamed is not None:
        _save_streamed(model, model.streamed, folder)
        return
    tied = {model.anatomy.head} if model.anatomy.tied_embeddings else set()
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.module.state_dict().items()
        if name.removesuffix(".weight") not in tied
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if masks is not None:
        save_file({name: mask.contiguous() for name, mask in masks.items()}, folder / MASKS)


def _save_streamed(model: Model, streamed: StreamedWeights, folder: Path) -> None:
    """Write the small weights, and where all others lie."""
    streamed.check_kept()
    small = {
        name: tensor.detach().contiguous()
        for name, tensor in model.module.state_dict().items()
        if not tensor.is_meta
    }
    save_file(small, folder / WEIGHTS, metadata={"format": "pt"})
    for name in small:
        streamed.tensors.put(name, Place(folder / WEIGHTS, name))
    streamed.tensors.write_list(folder, folder.parent)


def load_model(folder: Path, attention: str | None = None, changes: Path | None = None) -> Model:
    """Load what `save_model` wrote: each layer is built in the size that its tensors have.

    Args:
        attention: transformers' name of the attention implementation; None leaves it the choice.
        changes: where the weights of a streamed model are written that are changed.

    Raises:
        UserError: the folder is not whole.
    """
    import transformers
    from transformers.initialization import no_init_weights

    if not (folder / SIZES).exists():
        return import_checkpoint(open_checkpoint(str(folder)))
    config = read_config(folder)
    architecture = getattr(transformers, config["architectures"][0])
    settings = architecture.config_class.from_dict(config)
    if attention is not None:
        settings._attn_implementation = attention
    with no_init_weights():
        module = architecture(settings)
    module = without_unread_pooler(module, config)
    if (folder / TENSORS).exists():
        without_values(module)
    make_plain(module, find_family(config["model_type"]), config)
    if (folder / TENSORS).exists():
        return _load_streamed(module, config, folder, changes)
    tensors = load_file(folder / WEIGHTS)
    anatomy = describe(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    sizes = read_json(folder / SIZES)
    model = Model(module.float().eval(), config, folder, **sizes)
    of_distances = [name for attention in anatomy.attentions for name in attention.of_distances]
    for name in (*anatomy.block_linears(), *of_distances):
        resize(model.linear(name), tensors[f"{name}.weight"].shape)
    missing, unexpected = module.load_state_dict(tensors, strict=False, assign=True)
    lacking = [name for name in missing if not name.startswith(str(anatomy.head))]
    if lacking or unexpected:
        raise UserError(f"{folder} is not whole: {(lacking or unexpected)[0]} does not fit.")
    module.tie_weights()  # type: ignore[operator]
    set_head_attributes(model)
    return model


def _load_streamed(
    module: Any, config: dict[str, Any], folder: Path, changes: Path | None
) -> Model:
    tensors = TensorFiles.listed(folder)
    anatomy = describe(config, tensors.shapes)
    model = Model(module.eval(), config, folder, **read_json(folder / SIZES))
    for name in anatomy.block_linears():
        resize(model.linear(name), anatomy.shape(name))
    model.streamed = StreamedWeights(module, tensors, anatomy.shared_weights, changes)
    set_head_attributes(model)
    return model


def write_layers(source: Path, folder: Path, count: int) -> None:
    """Write the first layers of a streamed model as one of its own, whose weights stay where they
    are."""
    copy_assets(source, folder)
    config, tensors = read_config(source), TensorFiles.listed(source)
    blocks = describe(config, tensors.shapes).blocks
    kept, left = list(range(min(count, len(blocks)))), blocks[count:]
    config = {**config, **with_layers(config, kept)}
    (folder / "config.json").write_text(json.dumps(config))
    sizes = {name: rows[: len(kept)] for name, rows in read_json(source / SIZES).items()}
    (folder / SIZES).write_text(json.dumps(sizes))
    gone = tuple(f"{block.name}." for block in left)
    places = {name: tensors.place(name) for name in tensors if not name.startswith(gone)}
    TensorFiles(places).write_list(folder, folder)


def load_masks(folder: Path) -> Mapping[str, torch.Tensor]:
    """The kept entries that `save_model` wrote, by module name; none where nothing is masked. Of a
    streamed model whatever is not zero is kept."""
    if (folder / TENSORS).exists():
        return _NotZero(TensorFiles.listed(folder))
    return load_file(folder / MASKS) if (folder / MASKS).exists() else {}


class _NotZero(Mapping[str, torch.Tensor]):
    """Masks of the weights that are not zero, by module name."""

    def __init__(self, tensors: TensorFiles) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = f"{name}.weight"
        if weight not in self._tensors:
            raise KeyError(name)
        return torch.from_numpy(self._tensors.read(weight) != 0)

    def __iter__(self) -> Iterator[str]:
        return (name.removesuffix(".weight") for name in self._tensors if name.endswith(".weight"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


TRAINING_ATTENTION = "eager"
"""Written-out attention: for short sentences torch's fused kernel takes nearly twice as long to go
backward (0.46 s against 0.25 s a step of MiniLM in bfloat16 on two cores)."""
