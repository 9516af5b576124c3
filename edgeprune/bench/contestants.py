"""What can be benchmarked and evaluated: bundles, plain ONNX folders, and Hugging Face folders.

A Hugging Face folder without ONNX is exported plainly to float32 ONNX in a temporary folder, so
that the original runs in the same runtime as what was made of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.progress import say

# The runtime's scalar kernel behind these fusions can be slower than what it replaces.
SLOW_FUSIONS = ("SkipLayerNormFusion", "EmbedLayerNormFusion")
_QUANTIZED = (
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "QLinearMatMul",
    "DequantizeLinear",
    "MatMulIntegerToFloat",
    "QGemm",
)


@dataclass(frozen=True)
class Contestant:
    """One model to be timed."""

    name: str
    model_path: Path
    task: str
    vocabulary: int
    max_length: int | None
    files: tuple[Path, ...]
    is_float: bool
    has_cache: bool
    cache_config: dict[str, Any]
    disabled_optimizers: tuple[str, ...] = ()

    @classmethod
    def of(cls, bundle: Bundle, name: str | None = None) -> "Contestant":
        """The contestant that a bundle is."""
        vocabulary = bundle.config.get("vocab_size")
        if not isinstance(vocabulary, int) or vocabulary < 1:
            raise UserError(f"{bundle.folder / 'config.json'} states no vocab_size.")
        sizes = ("num_key_value_heads", "num_attention_heads", "hidden_size", "head_dim")
        return cls(
            name=name or str(bundle.folder),
            model_path=bundle.model_path,
            task=bundle.task,
            vocabulary=vocabulary,
            max_length=bundle.max_length,
            files=(bundle.model_path, *bundle.data_paths),
            is_float=not any(operator in bundle.outline.operators for operator in _QUANTIZED),
            has_cache=any(name.startswith("past_key_values.") for name in bundle.outline.inputs),
            cache_config={key: bundle.config[key] for key in sizes if key in bundle.config},
        )

    def without_slow_fusions(self) -> "Contestant":
        return replace(self, disabled_optimizers=SLOW_FUSIONS)


@contextmanager
def opened(place: str | Path | Bundle) -> Iterator[Bundle]:
    """A bundle from a folder of any kind above, for the time of a `with`.

    Raises:
        UserError: the folder holds no model, or exporting needs the build install.
    """
    if isinstance(place, Bundle):
        yield place
        return
    folder = Path(place)
    if not _is_torch_folder(folder):
        yield Bundle.open(folder)
        return
    try:
        from edgeprune.export import export_plain
    except ImportError as error:
        raise UserError(
            f"{folder} holds no ONNX model, and to export it needs the build install "
            f"(`pip install 'edgeprune[build]'`); or name an ONNX bundle of it."
        ) from error
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        say(f"Exporting {folder} plainly to float32 ONNX ...")
        export_plain(folder, Path(scratch) / "original")
        yield Bundle.open(Path(scratch) / "original")


def place_name(place: str | Path | Bundle) -> str:
    """What to call a model that was named by its folder, or given as a bundle."""
    return str(place.folder if isinstance(place, Bundle) else place)


def _is_torch_folder(folder: Path) -> bool:
    has_onnx = any((folder / place).exists() for place in ("model.onnx", "onnx/model.onnx"))
    weights = (file for kind in ("*.safetensors", "*.gguf") for file in folder.glob(kind))
    return not has_onnx and any(weights)
