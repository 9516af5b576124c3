"""Load and save torch models, whose layers may differ in size."""

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgeprune.anatomy import Anatomy, describe, find_family, num_heads, task_of
from edgeprune.checkpoint import INDEX, WEIGHTS, Checkpoint, open_checkpoint, read_json
from edgeprune.errors import UserError
from edgeprune.fits import check_fits
from edgeprune.model_config import read_config
from edgeprune.plain import fold_depth_scales, make_plain
from edgeprune.pooling import Pooling, read_pooling
from edgeprune.quiet import quiet
from edgeprune.tokenizer_file import TOKENIZER_SETTINGS, settings_for_clients

SIZES = "sizes.json"
MASKS = "masks.safetensors"
_ASSETS = ("*.json", "*.txt", "*.model", "*.jinja", "*_Pooling/config.json")
_NOT_ASSETS = (INDEX, SIZES)


@dataclass
class Model:
    """A torch model in float32, in evaluation mode, with what it is made of.

    `layers` names which of the original layers are left, in order; `heads`, per layer that is left,
    which of its heads; `channels`, per feed-forward (one a layer, or its experts), which of its
    channels.
    """

    module: nn.Module
    config: dict[str, Any]
    folder: Path
    heads: list[list[int]]
    channels: list[list[int]]
    layers: list[int]

    @property
    def anatomy(self) -> Anatomy:
        """What the model is made of now, read off its tensors."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        return describe(self.config, shapes)

    @property
    def task(self) -> str:
        """What the model is for: feature-extraction, text-classification or text-generation."""
        return task_of(self.config)

    @functools.cached_property
    def pooling(self) -> Pooling:
        """How a sentence encoder pools its tokens; the mean where its folder does not say."""
        return read_pooling(self.folder) or "mean"

    def linear(self, name: str) -> nn.Linear:
        """A linear by its full module name."""
        return self.module.get_submodule(name)  # type: ignore[return-value]

    def block_modules(self) -> list[nn.Module]:
        """The modules of the blocks, in the order of the data."""
        return [self.module.get_submodule(block.name) for block in self.anatomy.blocks]


def import_checkpoint(checkpoint: Checkpoint) -> Model:
    """Read a model as transformers knows it into float32.

    Raises:
        UserError: transformers cannot read it, or a weight is not a finite number.
    """
    import transformers

    auto = {
        "feature-extraction": transformers.AutoModel,
        "text-classification": transformers.AutoModelForSequenceClassification,
        "text-generation": transformers.AutoModelForCausalLM,
    }[checkpoint.task]
    check_fits(checkpoint)
    weights = {} if checkpoint.gguf else {"use_safetensors": True}
    try:
        loaded, found = _from_pretrained(
            auto, checkpoint, dtype=torch.float32, output_loading_info=True, **weights
        )
        ones = torch.ones(1, 2, dtype=torch.long)
        with quiet(), torch.no_grad():  # some settings are read only now
            loaded.eval()(input_ids=ones, attention_mask=ones)
    except Exception as error:  # what is raised for odd settings depends on the architecture
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"{checkpoint.name} could not be read: {reason} (see whether its config.json is right)"
        ) from error
    config = json.loads(loaded.config.to_json_string(use_diff=False))
    config["architectures"] = [type(loaded).__name__]
    config.pop("_name_or_path", None)  # where this machine has it
    _check_whole(checkpoint, config, [*found["missing_keys"], *found["mismatched_keys"]])
    # A checkpoint that was 4-bit on disk is float32 from here on, wherever it lay.
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    make_plain(loaded, find_family(config["model_type"]), num_heads(config))
    model = _wrap(_without_unread_pooler(loaded, config), config, checkpoint.assets)
    fold_depth_scales(model.module, model.anatomy, model.config)
    for name, tensor in model.module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{checkpoint.name} has NaN or infinity in {name}; nothing was built.")
    return model


def _from_pretrained(auto: Any, checkpoint: Checkpoint, **options: Any) -> Any:
    """The one call by which transformers reads what a user names.

    It is given a folder of nothing but weights and settings, these as they were checked: of what
    lies beside them it would mix in another model's settings, and run code, some of it
    (custom_generate/generate.py) whatever `trust_remote_code` says.
    """
    if checkpoint.gguf:
        options["gguf_file"] = checkpoint.gguf.name
    with TemporaryDirectory() as name, quiet():
        folder = Path(name)
        copy_assets(checkpoint.assets, folder)
        if not checkpoint.gguf:
            (folder / "config.json").write_text(json.dumps(checkpoint.config))
        for file in (*checkpoint.files, checkpoint.folder / INDEX):
            if file.exists():
                _link(file.resolve(), folder / file.name)
        return auto.from_pretrained(folder, trust_remote_code=False, **options)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # a system that does not let every user make them
        shutil.copyfile(source, target)


def import_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint's tokenizer as tokenizer.json and its settings into `folder`.

    Raises:
        UserError: the model has no tokenizer that can be written so.
    """
    if (checkpoint.assets / "tokenizer.json").exists():
        copy_assets(checkpoint.assets, folder)
        return
    from transformers import AutoTokenizer

    stated = _first_token(checkpoint.gguf) if checkpoint.gguf else {}
    try:
        tokenizer = _from_pretrained(AutoTokenizer, checkpoint, use_fast=True, **stated)
    except Exception as error:  # what is raised where files are missing depends on the tokenizer
        raise UserError(
            f"{checkpoint.name} has no tokenizer that could be read ({error}); "
            "save the model with a tokenizer.json beside it."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"{checkpoint.name} has only a tokenizer written in Python; "
            "save it with a tokenizer.json beside it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)


def _first_token(file: Path) -> dict[str, bool]:
    """Whether the tokenizer of a GGUF file puts a token before a text, where the file says it."""
    from gguf import GGUFReader

    field = GGUFReader(str(file)).get_field("tokenizer.ggml.add_bos_token")
    return {} if field is None else {"add_bos_token": bool(field.contents())}


def save_model(model: Model, folder: Path, masks: dict[str, torch.Tensor] | None = None) -> None:
    """Save a model, its tokenizer and what its layers kept, so that `load_model` reads it again.

    Args:
        masks: kept entries by module name, written beside the weights where given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_assets(model.folder, folder)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True))
    sizes = {"layers": model.layers, "heads": model.heads, "channels": model.channels}
    (folder / SIZES).write_text(json.dumps(sizes))
    tied = {model.anatomy.head} if model.anatomy.tied_embeddings else set()
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.module.state_dict().items()
        if name.removesuffix(".weight") not in tied
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if masks is not None:
        save_file({name: mask.contiguous() for name, mask in masks.items()}, folder / MASKS)


TRAINING_ATTENTION = "eager"
"""Written-out attention: for short sentences torch's fused kernel takes nearly twice as long to go
backward (0.46 s against 0.25 s a step of MiniLM in bfloat16 on two cores)."""


def load_model(folder: Path, attention: str | None = None) -> Model:
    """Load what `save_model` wrote: each layer is built in the size that its tensors have.

    Args:
        attention: transformers' name of the attention implementation; None leaves it the choice.

    Raises:
        UserError: the folder is not whole.
    """
    import transformers
    from transformers.modeling_utils import no_init_weights

    if not (folder / SIZES).exists():
        return import_checkpoint(open_checkpoint(str(folder)))
    config = read_config(folder)
    architecture = getattr(transformers, config["architectures"][0])
    settings = architecture.config_class.from_dict(config)
    if attention is not None:
        settings._attn_implementation = attention
    with no_init_weights():
        module = architecture(settings)
    module = _without_unread_pooler(module, config)
    make_plain(module, find_family(config["model_type"]), num_heads(config))
    tensors = load_file(folder / WEIGHTS)
    anatomy = describe(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    sizes = read_json(folder / SIZES)
    model = Model(module.float().eval(), config, folder, **sizes)
    for name in anatomy.block_linears():
        resize(model.linear(name), tensors[f"{name}.weight"].shape)
    missing, unexpected = module.load_state_dict(tensors, strict=False, assign=True)
    lacking = [name for name in missing if not name.startswith(str(anatomy.head))]
    if lacking or unexpected:
        raise UserError(f"{folder} is not whole: {(lacking or unexpected)[0]} does not fit.")
    module.tie_weights()  # type: ignore[operator]
    set_head_attributes(model)
    return model


def load_masks(folder: Path) -> dict[str, torch.Tensor]:
    """The kept entries that `save_model` wrote, by module name; none where nothing is masked."""
    return load_file(folder / MASKS) if (folder / MASKS).exists() else {}


def resize(linear: nn.Linear, shape: tuple[int, ...]) -> None:
    """Give a linear another (outputs, inputs) shape; its values are left to be filled."""
    outputs, inputs = shape
    linear.out_features, linear.in_features = outputs, inputs
    linear.weight = nn.Parameter(torch.empty(outputs, inputs))
    if linear.bias is not None:
        linear.bias = nn.Parameter(torch.empty(outputs))


def attended(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rows [tokens, width] of what the tokens in `mask` [texts, tokens] hand on; some families lay
    texts and tokens into one axis."""
    if bool(mask.all()):  # an expert sees some of the tokens, and not in the mask's order
        return hidden.flatten(0, -2)
    return hidden.reshape(*mask.shape, -1)[mask.bool()]


def set_head_attributes(model: Model) -> None:
    """Make every layer's attention agree with the heads that it has left."""
    anatomy = model.anatomy
    for block, heads in zip(anatomy.blocks, model.heads, strict=True):
        attention = block.attention
        counts = {
            "heads": attention.num_heads,
            "width": attention.num_heads * attention.head_dim,
            "groups": attention.heads_per_group,
        }
        module = model.module.get_submodule(attention.module)
        for attribute, meaning in anatomy.family.head_attributes.items():
            setattr(module, attribute, counts[meaning])
        if anatomy.family.head_bias:
            path, keyword = anatomy.family.head_bias
            _select_head_bias(model.module.get_submodule(f"{block.name}.{path}"), keyword, heads)


def copy_assets(source: Path, target: Path) -> None:
    """Copy a model's tokenizer, configuration and pooling: all that is not weights. What clients
    of transformers 4 would not understand of the tokenizer's settings is said in their words."""
    for pattern in _ASSETS:
        for file in source.glob(pattern):
            if file.name in _NOT_ASSETS or file.suffix == ".gguf":
                continue
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.resolve() != copy.resolve():
                shutil.copyfile(file, copy)
            if file.name == TOKENIZER_SETTINGS:
                settings = read_json(copy)
                if (told := settings_for_clients(settings)) != settings:
                    copy.write_text(json.dumps(told, indent=2, ensure_ascii=False), "utf-8")


def _wrap(module: nn.Module, config: dict[str, Any], folder: Path) -> Model:
    model = Model(module.float().eval(), config, folder, [], [], [])
    for block in model.anatomy.blocks:
        model.layers.append(block.index)
        model.heads.append(list(range(block.attention.num_heads)))
        model.channels += [list(range(part.channels)) for part in block.feed_forwards]
    return model


def _check_whole(checkpoint: Checkpoint, config: dict[str, Any], lacking: list[Any]) -> None:
    """Refuse a model for which transformers would make up weights at random."""
    pooler = find_family(config["model_type"]).unread_pooler
    names = [name if isinstance(name, str) else name[0] for name in lacking]
    if pooler and task_of(config) == "feature-extraction":
        names = [name for name in names if not name.startswith(f"{pooler}.")]
    if names:
        raise UserError(
            f"{checkpoint.name} is not whole: {names[0]} is missing or has another shape than "
            f"its config.json says ({len(names)} such in all)."
        )


def _without_unread_pooler(module: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Drop the pooler of a sentence encoder, which its embeddings never read."""
    pooler = find_family(config["model_type"]).unread_pooler
    if pooler and task_of(config) == "feature-extraction" and hasattr(module, pooler):
        setattr(module, pooler, None)
    return module


def _select_head_bias(module: Any, keyword: str, heads: list[int]) -> None:
    """Let a layer see only its kept heads' slices of a bias that all layers share."""
    selected = hasattr(module, "kept_heads")
    module.kept_heads = torch.tensor(heads)
    if selected:
        return

    def select(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bias = kwargs.get(keyword)
        if bias is not None and bias.shape[1] != len(layer.kept_heads):
            kwargs = {**kwargs, keyword: bias.index_select(1, layer.kept_heads)}
        return args, kwargs

    module.register_forward_pre_hook(select, with_kwargs=True)
