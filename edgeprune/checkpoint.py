"""Find a model's files and read what they say of themselves, without torch.

A model is given as a folder, as a GGUF file, as `package:NAME` (a Python package that carries one),
or as an id on the Hugging Face hub. Weights come as safetensors or GGUF; pickled weights are
refused.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.anatomy import Anatomy, Shape, describe, task_of
from edgeprune.errors import UserError
from edgeprune.install import install
from edgeprune.pooling import load_json
from edgeprune.safetensors_header import read_header

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: where it is, its configuration, and the shapes of its tensors."""

    name: str
    folder: Path
    config: dict[str, Any]
    shapes: dict[str, Shape]
    gguf: Path | None = None

    @property
    def anatomy(self) -> Anatomy:
        """What the model is made of."""
        return describe(self.config, self.shapes)

    @property
    def task(self) -> str:
        """What the model is for, read off its architecture's class."""
        return task_of(self.config)

    @property
    def num_labels(self) -> int:
        """How many labels a classifier knows; transformers' own default is two."""
        names = self.config.get("id2label")
        return len(names) if names else int(self.config.get("num_labels", 2))

    @property
    def assets(self) -> Path:
        """Where tokenizer and settings lie: the folder, or a GGUF file alone where the folder's
        config.json is another model's."""
        if self.gguf and (self.folder / "config.json").exists():
            return self.gguf
        return self.folder

    @property
    def files(self) -> list[Path]:
        """The files that hold the weights."""
        return [self.gguf] if self.gguf else sorted(self.folder.glob("*.safetensors"))


def open_checkpoint(name: str) -> Checkpoint:
    """Find a model by folder, GGUF file, `package:NAME` or hub id; read its configuration and
    shapes.

    Raises:
        UserError: there is no such model, its weights are pickled, or its files are damaged.
    """
    folder = _locate(name)
    config_file = folder / "config.json"
    if folder.is_file() or not config_file.exists():
        return _open_gguf(name, folder)
    shapes: dict[str, Shape] = {}
    for file in sorted(folder.glob("*.safetensors")):
        shapes |= {name: tuple(entry["shape"]) for name, entry in read_header(file).items()}
    if not shapes:
        raise UserError(_why_no_weights(folder))
    return Checkpoint(name, folder, read_json(config_file), shapes)


def _open_gguf(name: str, place: Path) -> Checkpoint:
    """A GGUF file, or the only one of a folder."""
    ggufs = [place] if place.is_file() else sorted(place.glob("*.gguf"))
    if len(ggufs) > 1:
        raise UserError(f"{place} holds {len(ggufs)} GGUF files: name one, like {ggufs[0]}.")
    if not ggufs:
        raise UserError(
            f"{place} holds no model: it has no config.json and no GGUF file. "
            "Name a folder saved by transformers' save_pretrained."
        )
    config, shapes = _read_gguf(ggufs[0])
    return Checkpoint(name, ggufs[0].parent, config, shapes, gguf=ggufs[0])


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is not JSON, or not an object.
    """
    value = load_json(file)
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold a JSON object, not a {type(value).__name__}.")
    return value


def _locate(name: str) -> Path:
    """A model's folder, or the GGUF file that was named."""
    if name.startswith("package:"):
        return _in_package(name.removeprefix("package:"))
    folder = Path(name).expanduser()
    if folder.is_file() and folder.suffix == ".gguf":
        return folder
    if name and folder.is_dir():
        return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    raise UserError(
        f"There is no model {name!r}: give a folder, a GGUF file, package:NAME, or a hub id like "
        "owner/model."
    )


def _in_package(package: str) -> Path:
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The package {package!r} is not installed; try: pip install {package}")
    root = Path(next(iter(spec.submodule_search_locations)))
    for pattern in ("config.json", "*.gguf"):
        found = sorted(root.rglob(pattern), key=lambda file: len(file.parts))
        if found:
            return found[0].parent
    raise UserError(f"The package {package!r} carries no config.json and no GGUF file.")


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise UserError(
            f"{name!r} is not a folder here, and fetching it from the hub needs {install('build')}."
        ) from None
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "1_Pooling/*"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name!r} is no folder here and could not be fetched from the hub: {reason}"
        ) from None


def _why_no_weights(folder: Path) -> str:
    pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
    if pickled:
        return (
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when they are "
            "read and are refused; save the model again with safe_serialization=True."
        )
    return f"{folder} has a config.json but no *.safetensors weights."


_GGUF_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, Shape]]:
    """Configuration and shapes of a GGUF file, under the names that transformers will give them."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"Reading {file.name} needs {install('build')}.") from None
    try:
        reader = GGUFReader(str(file))
        architecture = str(reader.fields["general.architecture"].contents())
    except (ValueError, OSError, LookupError) as error:
        raise UserError(f"{file} is not a whole GGUF file: {error}") from None

    def number(key: str) -> int:
        return int(reader.fields[f"{architecture}.{key}"].contents())

    shapes: dict[str, Shape] = {}
    for tensor in reader.tensors:
        shape = tuple(int(length) for length in reversed(tensor.shape))
        parts = tensor.name.split(".")
        if tensor.name == "token_embd.weight":
            shapes["model.embed_tokens.weight"] = shape
        elif tensor.name == "output.weight":
            shapes["lm_head.weight"] = shape
        elif parts[0] == "blk" and parts[2] in _GGUF_LAYER:
            shapes[f"model.layers.{parts[1]}.{_GGUF_LAYER[parts[2]]}.{parts[3]}"] = shape
    head_dim = reader.fields.get(f"{architecture}.attention.key_length")
    config = {
        "model_type": architecture,
        "architectures": ["GGUFForCausalLM"],
        "hidden_size": number("embedding_length"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": int(head_dim.contents()) if head_dim else None,
        "max_position_embeddings": number("context_length"),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
    }
    return config, shapes
