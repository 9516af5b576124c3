"""The modules of a sentence encoder, in sentence-transformers' modules.json.

Only chains whose every step is known are read: an unknown one is refused by its name, so that no
vector is another than the library's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder, load_json, read_object
from edgeprune.model.tasks import TASKS

MODULES = "modules.json"
TRANSFORMER, POOLING = "Transformer", "Pooling"
AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")
"""Modules that may follow the pooling, in any number and order; Dropout changes nothing."""
WITH_WEIGHTS = ("Dense", "LayerNorm")
"""Those of them that keep weights, in a folder of their own."""
_LIBRARY = "sentence_transformers."
_STATES = "token_embeddings"
_READS_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# Settings of the first module that are read elsewhere, or say nothing about a text's vector.
_KNOWN = {
    *("max_seq_length", "do_lower_case", "transformer_task", "modality_config"),
    *("module_output_name", "unpad_inputs", "track_media_counts"),
}


@dataclass(frozen=True)
class Module:
    """One module: its kind, and its folder inside the encoder's."""

    kind: str
    path: str


def read_modules(folder: Path) -> list[Module]:
    """The modules of the encoder in `folder`, in order; none where it has no modules.json.

    Raises:
        UserError: a module, a chain of them or a setting of the first that edgeprune does not run.
    """
    path = folder / MODULES
    listed = load_json(path) if path.is_file() else []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"{path} is not a list of modules, as sentence-transformers writes it.")
    modules = [_known(path, each) for each in listed]
    kinds = [module.kind for module in modules]
    if modules and (
        kinds[:2] != [TRANSFORMER, POOLING] or not set(kinds[2:]) <= set(AFTER_POOLING)
    ):
        raise UserError(
            f"{path} chains {', '.join(kinds)}, and edgeprune runs Transformer, Pooling and then "
            f"any of {', '.join(AFTER_POOLING)}."
        )
    if modules:
        _refuse_transformer(folder)
    return modules


def pools(folder: Path) -> bool:
    """Whether a model's folder says that it is a sentence encoder, whatever its class is called."""
    return POOLING in kinds_of(folder)


def kinds_of(folder: Path) -> list[str]:
    """The kinds of the modules that a model's folder lists, whether they are run here or not."""
    return [_kind(each) for each in listed_modules(folder)]


def listed_modules(folder: Path) -> list[dict[str, Any]]:
    """The modules that a model's folder lists, as modules.json has them."""
    path = folder / MODULES
    listed = load_json(path) if path.is_file() else []
    return [each for each in listed if isinstance(each, dict)] if listed else []


def settings_of(folder: Path, module: Module) -> dict[str, Any]:
    """The config.json of a module.

    Raises:
        UserError: it is missing, no object, or outside the encoder's folder.
    """
    name = f"{module.path}/config.json"
    file = folder / name
    config = load_json(file) if not leaves_folder(name) and file.is_file() else None
    if not isinstance(config, dict):
        raise UserError(f"{folder / MODULES} names {name}, which is missing or no object.")
    return config


def _known(path: Path, listed: dict[str, Any]) -> Module:
    kind, called = _kind(listed), str(listed.get("type", ""))
    known = (TRANSFORMER, POOLING, *AFTER_POOLING)
    if kind not in known or not called.startswith(_LIBRARY):
        raise UserError(
            f"{path} has a {called or 'nameless'} module, which edgeprune does not run: only "
            f"{', '.join(known)} of sentence-transformers."
        )
    return Module(kind, str(listed.get("path", "1_Pooling" if kind == POOLING else "")))


def _kind(listed: dict[str, Any]) -> str:
    return str(listed.get("type", "")).rsplit(".", 1)[-1]


def _refuse_transformer(folder: Path) -> None:
    """Refuse a first module that is called otherwise than with a text's tokens."""
    path = folder / "sentence_bert_config.json"
    config = read_object(path)
    task = config.get("transformer_task")
    if task is not None and task not in [each.name for each in TASKS.values() if each.pools]:
        raise UserError(f"{path} pools a model of the task {task}, which edgeprune does not run.")
    reads = (config.get("modality_config") or {}).get("text", _READS_TEXT)
    writes = config.get("module_output_name") or _STATES
    if reads != _READS_TEXT or writes != _STATES:
        raise UserError(
            f"{path} takes {reads} as {writes} of its Transformer module, and edgeprune only the "
            "last hidden states of a text."
        )
    others = [name for name, value in config.items() if name not in _KNOWN and value]
    if others:
        raise UserError(
            f"{path} sets {', '.join(others)} of its Transformer module, which edgeprune does not "
            "know: remove it, if texts are read without."
        )
