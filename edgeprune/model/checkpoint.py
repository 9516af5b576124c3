"""Find a model's files and read what they say of themselves, without torch.

A model is given as a folder, as a GGUF file, as `package:NAME` (a Python package that carries one),
or as an id on the Hugging Face hub. Weights come as safetensors or GGUF; pickled weights are
refused.
"""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError, reason
from edgeprune.base.files import leaves_folder, read_json
from edgeprune.base.install import install
from edgeprune.model.anatomy import Anatomy, describe
from edgeprune.model.config import read_config
from edgeprune.model.family import Shape
from edgeprune.model.gguf import read_gguf
from edgeprune.model.modules import pools
from edgeprune.model.safetensors_header import read_header
from edgeprune.model.tasks import base_class, task_of
from edgeprune.model.tensor_files import TENSORS, TensorFiles
from edgeprune.model.verdict import HEAD, as_scorer, read_verdict

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_ORIGINAL = "original"
_RESAVE = (
    "where you trust them, load the model once with its class of transformers, and save_pretrained "
    "writes a folder with safetensors"
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: where it is, its configuration, and the shapes of its tensors."""

    name: str
    folder: Path
    config: dict[str, Any]
    shapes: dict[str, Shape]
    files: tuple[Path, ...]
    """The files that hold the weights."""
    gguf: Path | None = None
    streamed: bool = False
    """A folder of a streamed model, which lists where its tensors lie."""

    @property
    def anatomy(self) -> Anatomy:
        """The model's parts and sizes, read off its configuration and its tensors' shapes."""
        return describe(self.config, self.shapes)

    @property
    def task(self) -> str:
        """The name of what the model is for, read off its architecture's class."""
        return task_of(self.config).name

    def tensors(self, kind: type[TensorFiles] = TensorFiles) -> Any:
        """The tensors by the names that they have in the files, or in the list of them."""
        return kind.listed(self.folder) if self.streamed else kind.of(self.files)

    @property
    def assets(self) -> Path:
        """The place of tokenizer and settings: the folder, or a GGUF file alone where the folder's
        config.json is another model's."""
        if self.gguf and (self.folder / "config.json").exists():
            return self.gguf
        return self.folder

    @property
    def strays(self) -> list[str]:
        """Names of other files of weights beside those that are read, and in the folder in which
        publishers put the model as they trained it."""
        if self.gguf:
            return []
        beside = [file for file in _safetensors(self.folder) if file not in self.files]
        kinds = (".safetensors", *_PICKLED)
        below = [
            file for file in sorted((self.folder / _ORIGINAL).glob("*")) if file.suffix in kinds
        ]
        return [file.relative_to(self.folder).as_posix() for file in (*beside, *below)]


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
    found = _open_folder(name, folder)
    if (verdict := read_verdict(folder)) is None:
        return found
    scorer = _open_folder(name, as_scorer(folder, found.config, found.files, found.shapes, verdict))
    shapes = {tensor: shape for tensor, shape in scorer.shapes.items() if tensor != HEAD}
    return replace(scorer, shapes=shapes)


def _open_folder(name: str, folder: Path) -> Checkpoint:
    """A folder with a config.json."""
    _refuse_adapter(folder)
    config = read_config(folder)
    if pools(folder):
        config["architectures"] = [base_class(name) for name in config.get("architectures") or []]
    if (folder / TENSORS).exists():
        tensors = TensorFiles.listed(folder)
        listed = tuple(tensors.files)
        return Checkpoint(name, folder, config, tensors.shapes, listed, streamed=True)
    index = _weight_map(folder)
    files = _weights(folder, set(index.values()))
    shapes: dict[str, Shape] = {}
    for file in files:
        shapes |= {name: tuple(entry["shape"]) for name, entry in read_header(file).items()}
    if lacking := [tensor for tensor in index if tensor not in shapes]:
        raise UserError(
            f"{folder} is not whole: {INDEX} names {lacking[0]}, and no file of it has that."
        )
    return Checkpoint(name, folder, config, shapes, files)


def _safetensors(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _refuse_adapter(folder: Path) -> None:
    for name in _ADAPTER:
        if (folder / name).exists():
            raise UserError(
                f"{folder} holds an adapter ({name}), which is not a model and is not applied: "
                "merge it into its model with peft's merge_and_unload(), and save that."
            )


def _weights(folder: Path, shards: set[str]) -> tuple[Path, ...]:
    """The files that transformers reads: one, or the shards that an index names."""
    if shards and (folder / WEIGHTS).exists() and shards != {WEIGHTS}:
        raise UserError(
            f"{folder} holds both {WEIGHTS} and {INDEX}, which names other files: remove the one "
            "that is not the model."
        )
    names = sorted(shards) if shards else [WEIGHTS]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and not shards:
        raise UserError(_why_no_weights(folder))
    if missing:
        raise UserError(f"{folder} is not whole: {missing[0]} is missing, which {INDEX} names.")
    return tuple(folder / name for name in names)


def _weight_map(folder: Path) -> dict[str, str]:
    """The file of each tensor, as an index names it; empty where there is no index."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path} has no weight_map that names the files of the weights.")
    for name in names.values():
        if not isinstance(name, str) or leaves_folder(name) or "/" in name:
            raise UserError(f"{path} names {name!r:.80} for a file of weights: refused.")
    return names


def _open_gguf(name: str, place: Path) -> Checkpoint:
    """A GGUF file, or the only one of a folder."""
    ggufs = [place] if place.is_file() else sorted(place.glob("*.gguf"))
    if len(ggufs) > 1:
        raise UserError(f"{place} holds {len(ggufs)} GGUF files: name one, like {ggufs[0]}.")
    if not ggufs:
        _refuse_adapter(place)
        raise UserError(
            f"{place} holds no model: it has no config.json and no GGUF file. "
            "Name a folder saved by transformers' save_pretrained."
        )
    config, shapes = read_gguf(ggufs[0])
    return Checkpoint(name, ggufs[0].parent, config, shapes, (ggufs[0],), gguf=ggufs[0])


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
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    patterns += ["*_Pooling/*", "*_Dense/*", "*_LogitScore/*"]
    others = [f"{_ORIGINAL}/*", "consolidated*"]  # the model once more, in another layout
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=others))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"{name!r} is not a folder here and could not be fetched from the hub: {reason(error)}"
        ) from None
    if not _safetensors(folder):
        raise UserError(
            f"{name!r} has no weights in safetensors on the hub, and pickled ones, which can run "
            f"code when they are read, are not fetched: {_RESAVE}."
        )
    return folder


def _why_no_weights(folder: Path) -> str:
    pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
    if pickled:
        return (
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when they are "
            f"read and are refused: {_RESAVE}."
        )
    others = _safetensors(folder)
    beside = f" ({others[0].name} is of another layout)" if others else ""
    return f"{folder} has a config.json but no weights in {WEIGHTS}, and no {INDEX}{beside}."
