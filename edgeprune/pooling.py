"""How a sentence encoder turns tokens into one vector, as sentence-transformers writes it down."""

import json
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UserError
from edgeprune.runtime.onnx_file import leaves_folder

Pooling = Literal["mean", "cls"]


def read_pooling(folder: Path) -> Pooling | None:
    """How the encoder in `folder` pools its tokens; None where the folder does not say.

    Raises:
        UserError: it pools in a way, or has a module, that edgeprune does not run.
    """
    for module in _modules(folder):
        if _kind(module) == "Pooling":
            return _mode(folder, f"{module.get('path', '1_Pooling')}/config.json")
    return None


def normalizes(folder: Path) -> bool:
    """Whether the encoder in `folder` scales its embeddings to length 1."""
    return "Normalize" in [_kind(module) for module in _modules(folder)]


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON that can be read: {error}.") from None


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    modules = load_json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path} is not a list of modules, as sentence-transformers writes it.")
    for module in modules:
        if _kind(module) not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(
                f"{path} has a {_kind(module)} module, which edgeprune does not run: only "
                "Transformer, Pooling and Normalize."
            )
    return modules


def _mode(folder: Path, name: str) -> Pooling:
    path = folder / name
    config = load_json(path) if not leaves_folder(name) and path.is_file() else None
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'modules.json'} names {name}, which is missing or no object.")
    # sentence-transformers 5 writes one name (or a list), older ones a flag for each mode.
    modes = config.get("pooling_mode")
    if modes is None:
        flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
        modes = [flag.removeprefix("pooling_mode_").removesuffix("_tokens") for flag in flags]
        modes = [mode.removesuffix("_token") for mode in modes]
    modes = [modes] if isinstance(modes, str) else modes
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    raise UserError(
        f"{path} pools by {modes}, which edgeprune does not run: only mean or cls alone."
    )
