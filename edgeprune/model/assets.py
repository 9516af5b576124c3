"""The small files beside a model's weights: its tokenizer and its settings."""

import json
import shutil
from pathlib import Path

from edgeprune.base.files import read_json
from edgeprune.model.checkpoint import INDEX
from edgeprune.model.modules import WITH_WEIGHTS
from edgeprune.model.tensor_files import TENSORS
from edgeprune.text.tokenizer_file import TOKENIZER_SETTINGS, settings_for_clients

SIZES = "sizes.json"
_ASSETS = ("*.json", "*.txt", "*.model", "*.jinja", "*_Pooling/config.json")
_AFTER_POOLING = tuple(
    f"*_{kind}/{name}" for kind in WITH_WEIGHTS for name in ("config.json", "model.safetensors")
)
"""The modules after a pooling, which no stage changes."""
_NOT_ASSETS = (INDEX, SIZES, TENSORS)


def copy_assets(source: Path, target: Path) -> None:
    """Copy a model's tokenizer, configuration and pooling: all but its own weights. What clients
    of transformers 4 would not understand of the tokenizer's settings is said in their words."""
    for pattern in (*_ASSETS, *_AFTER_POOLING):
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
