"""Pooling of a text's tokens into one vector, as sentence-transformers writes it down.

What the house does not do as that library does is refused here, so that no vector is another than
the library's.
"""

from pathlib import Path
from typing import Any, Literal

from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder, load_json, read_object
from edgeprune.model.tasks import TASKS

Pooling = Literal["mean", "cls"]

_CHAINS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_DENSE = "Dense"
_LIBRARY = "sentence_transformers."


def read_pooling(folder: Path) -> Pooling | None:
    """Read the pooling of the encoder in `folder`; None where the folder does not say.

    Raises:
        UserError: it pools in a way, or has a module, that edgeprune does not run; or a prompt
            stands before its texts, or its vectors are cut off.
    """
    for module in _modules(folder):
        if _kind(module) == "Pooling":
            _refuse_task(folder)
            config = _pooling_config(folder, f"{module.get('path', '1_Pooling')}/config.json")
            _refuse_prompts(folder, bool(config.get("include_prompt", True)))
            return _mode(folder, config)
    return None


def normalizes(folder: Path) -> bool:
    """Whether the encoder in `folder` scales its embeddings to length 1."""
    return "Normalize" in [_kind(module) for module in _modules(folder)]


def dense_paths(folder: Path) -> list[str]:
    """The folders of the linears between pooling and length, relative to `folder`; see
    projection.py."""
    modules = _modules(folder)
    return [str(module.get("path", "")) for module in modules if _kind(module) == _DENSE]


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    modules = load_json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path} is not a list of modules, as sentence-transformers writes it.")
    for module in modules:
        kind = str(module.get("type", ""))
        if _kind(module) not in (*_CHAINS[-1], _DENSE) or not kind.startswith(_LIBRARY):
            raise UserError(
                f"{path} has a {kind or 'nameless'} module, which edgeprune does not run: only "
                "Transformer, Pooling, Dense and Normalize of sentence-transformers."
            )
    kinds = [_kind(module) for module in modules]
    dense = [place for place, kind in enumerate(kinds) if kind == _DENSE]
    rest = [kind for kind in kinds if kind != _DENSE]
    in_between = dense == list(range(2, 2 + len(dense)))
    if modules and (rest not in _CHAINS or not in_between):
        raise UserError(
            f"{path} chains {', '.join(kinds)}, and edgeprune runs Transformer, Pooling, "
            "perhaps some Dense and perhaps Normalize, in this order."
        )
    return modules


def _refuse_task(folder: Path) -> None:
    path = folder / "sentence_bert_config.json"
    task = read_object(path).get("transformer_task")
    if task is not None and task not in [each.name for each in TASKS.values() if each.pools]:
        raise UserError(f"{path} pools a model of the task {task}, which edgeprune does not run.")


def _refuse_prompts(folder: Path, pooled: bool) -> None:
    """Refuse what sentence-transformers would do to a text or vector that is not done here.

    Args:
        pooled: whether a prompt's tokens take part in the pooling.
    """
    path = folder / "config_sentence_transformers.json"
    config = read_object(path)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise UserError(f"{path}: prompts must be an object of names and texts.")
    default = config.get("default_prompt_name")
    if default is not None and (prompt := prompts.get(str(default))):
        raise UserError(
            f"{path} puts the prompt {prompt!r:.80} before every text (default_prompt_name), which "
            "edgeprune does not: set default_prompt_name to null there, and write the prompt "
            "before your texts."
        )
    if not pooled and (named := [name for name, prompt in prompts.items() if prompt]):
        raise UserError(
            f"The pooling of {folder} leaves out the tokens of prompts (include_prompt), which "
            f"edgeprune does not, and {path} has a prompt for {', '.join(map(str, named))}: remove "
            "its prompts, if you embed texts without one."
        )
    if config.get("truncate_dim") is not None:
        raise UserError(
            f"{path} cuts vectors off after {config['truncate_dim']} values (truncate_dim), which "
            "edgeprune does not: remove it, and cut them where you use them."
        )


def _pooling_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    config = load_json(path) if not leaves_folder(name) and path.is_file() else None
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'modules.json'} names {name}, which is missing or no object.")
    return config


def _mode(folder: Path, config: dict[str, Any]) -> Pooling:
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
        f"{folder} pools by {modes}, which edgeprune does not run: only mean or cls alone."
    )
