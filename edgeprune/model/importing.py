"""A user's model, in any format that we read, as a module in float32."""

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from edgeprune.base.errors import UserError, reason
from edgeprune.base.files import link_or_copy
from edgeprune.base.progress import track
from edgeprune.base.quiet import quiet
from edgeprune.model.assets import copy_assets
from edgeprune.model.checkpoint import INDEX, Checkpoint
from edgeprune.model.families import find_family
from edgeprune.model.fits import check_fits
from edgeprune.model.model import Model, wrap
from edgeprune.model.plain import fold_depth_scales, make_plain
from edgeprune.model.rope import without_rope_parameters
from edgeprune.model.shapes import without_unread_pooler
from edgeprune.model.streamed import StreamedWeights, without_values
from edgeprune.model.taken_apart import taken_apart
from edgeprune.model.tasks import TASKS, task_of
from edgeprune.model.tensor_files import TensorFiles


def import_checkpoint(checkpoint: Checkpoint) -> Model:
    """Read a model as transformers knows it into float32.

    Raises:
        UserError: transformers cannot read it, or a weight is not a finite number.
    """
    import transformers

    auto = getattr(transformers, TASKS[checkpoint.task].loader)
    check_fits(checkpoint)
    weights: dict[str, Any] = {"use_safetensors": True}
    if checkpoint.gguf:  # whose weights it may keep packed
        weights = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    try:
        loaded, found = _from_pretrained(
            auto, checkpoint, dtype=torch.float32, output_loading_info=True, **weights
        )
        ones = torch.ones(1, 2, dtype=torch.long)
        with quiet(), torch.no_grad():  # some settings are read only now
            loaded.eval()(input_ids=ones, attention_mask=ones)
    except Exception as error:  # what is raised for odd settings depends on the architecture
        raise _unreadable(checkpoint, error) from error
    if getattr(loaded, "is_quantized", False) and not checkpoint.gguf:
        raise UserError(
            f"{checkpoint.name} has quantized weights (quantization_config in its config.json), "
            "which are not read: give the model as it was before, or as a GGUF file."
        )
    config = _settings(loaded, checkpoint)
    family = find_family(config["model_type"])
    _check_whole(checkpoint, config, [*found["missing_keys"], *found["mismatched_keys"]])
    make_plain(loaded, family, config)
    model = wrap(without_unread_pooler(loaded, config), config, checkpoint.assets)
    fold_depth_scales(model.module, model.anatomy, model.config)
    for name, tensor in model.module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _not_finite(checkpoint, name)
    return model


def stream_checkpoint(checkpoint: Checkpoint) -> Model:
    """A model whose weights stay in the user's files and are read when they are needed.

    Raises:
        UserError: transformers does not know its settings, a weight is missing, has another shape
            or is not a finite number.
    """
    import transformers
    from transformers.initialization import no_init_weights

    check_fits(checkpoint)
    auto = getattr(transformers, TASKS[checkpoint.task].loader)
    try:
        stated = _from_pretrained(transformers.AutoConfig, checkpoint)
        with quiet(), no_init_weights():  # memory that nobody writes to is not taken
            module = auto._model_mapping[type(stated)](stated)
        config = _settings(module, checkpoint)
        family = find_family(config["model_type"])
        without_values(module)
        make_plain(module, family, config)
        model = wrap(module, config, checkpoint.assets)
        wanted = {name: tuple(each.shape) for name, each in module.state_dict().items()}
        shared = model.anatomy.shared_weights
        own = wanted.keys() - {f"{name}.weight" for name in shared}
        tensors = taken_apart(family, config, checkpoint.tensors())
        tensors = _named_by(module, tensors, own)
        shapes = tensors.shapes
        wrong = [name for name in own if shapes.get(name) != wanted[name]]
        _check_whole(checkpoint, config, wrong)
        model.streamed = StreamedWeights(module, tensors, shared)
        ones = torch.ones(1, 2, dtype=torch.long)
        with quiet(), torch.no_grad():
            model.run({"input_ids": ones, "attention_mask": ones})
    except UserError:
        raise
    except Exception as error:  # as above
        raise _unreadable(checkpoint, error) from error
    for name in track(list(tensors), "reading weights", len(tensors)):
        if not np.isfinite(tensors.read(name)).all():
            raise _not_finite(checkpoint, name)
    return model


def _named_by(module: Any, tensors: TensorFiles, names: Iterable[str]) -> TensorFiles:
    """The tensors of these names, which a file of the base model alone has without its prefix."""
    base = f"{module.base_model_prefix}."
    called = {
        name: own
        for name in names
        for own in (name, name.removeprefix(base), f"{base}{name}")
        if own in tensors
    }
    return TensorFiles({name: tensors.place(own) for name, own in called.items()})


def _settings(module: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """A module's configuration in the words of transformers 4."""
    config = json.loads(module.config.to_json_string(use_diff=False))
    family = find_family(config["model_type"])
    config = without_rope_parameters(config, family, checkpoint.folder / "config.json")
    config["architectures"] = [type(module).__name__]
    # A checkpoint that was 4-bit on disk is float32 from here on, wherever this machine has it.
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    return config


def _unreadable(checkpoint: Checkpoint, error: Exception) -> UserError:
    return UserError(
        f"{checkpoint.name} could not be read: {reason(error)} "
        "(see whether its config.json is right)"
    )


def _not_finite(checkpoint: Checkpoint, name: str) -> UserError:
    return UserError(f"{checkpoint.name} has NaN or infinity in {name}; nothing was built.")


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
                link_or_copy(file.resolve(), folder / file.name)
        return auto.from_pretrained(folder, trust_remote_code=False, **options)


def _check_whole(checkpoint: Checkpoint, config: dict[str, Any], lacking: list[Any]) -> None:
    """Refuse a model for which transformers would make up weights at random."""
    pooler = find_family(config["model_type"]).unread_pooler
    names = [name if isinstance(name, str) else name[0] for name in lacking]
    if pooler and task_of(config).pools:
        names = [name for name in names if not name.startswith(f"{pooler}.")]
    if names:
        raise UserError(
            f"{checkpoint.name} is not whole: {names[0]} is missing or has another shape than "
            f"its config.json says ({len(names)} such in all)."
        )


_SENTENCE_PIECE = {"spm.model", "spiece.model", "sentencepiece.bpe.model"}
"""Files of SentencePiece's, by the names that families give them."""


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
        pieces = sorted(name for name in _SENTENCE_PIECE if (checkpoint.assets / name).is_file())
        if pieces and find_spec("sentencepiece") is None:
            raise UserError(
                f"{checkpoint.name} has its tokenizer as pieces of sentences alone ({pieces[0]}), "
                "which the package sentencepiece reads: pip install sentencepiece, or save the "
                "model with a tokenizer.json beside it."
            ) from error
        raise UserError(
            f"{checkpoint.name} has no tokenizer that could be read ({error}); "
            "save the model with a tokenizer.json beside it."
        ) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # Where a tokenizer's files are missing, transformers makes one that knows no word.
        raise UserError(
            f"{checkpoint.name} has no tokenizer that could be read (its files are missing); "
            "save the model with a tokenizer.json beside it."
        )
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
