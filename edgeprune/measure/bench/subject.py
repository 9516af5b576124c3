"""The subject of a benchmark: one model, and the process that runs it."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.kernels.library import system_facts
from edgeprune.measure.works import WORKS, Work
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.names import PAST
from edgeprune.runtime.onnx_file import Outline
from edgeprune.runtime.session import uses_kernels

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
_CACHE_SIZES = ("num_key_value_heads", "num_attention_heads", "hidden_size", "head_dim")
ENCODER: tuple[Work, ...] = ("encoder",)
DECODER: tuple[Work, ...] = ("prompt",)
CACHED_DECODER: tuple[Work, ...] = ("prompt", "decode")


@dataclass(frozen=True)
class Subject:
    """One model to be timed, and the process that runs it."""

    name: str
    command: tuple[str, ...]
    kinds: tuple[Work, ...]
    """The kinds of work that it is timed at."""
    load: dict[str, Any] = field(default_factory=dict)
    """The arguments by which its process loads it."""
    files: tuple[Path, ...] = ()
    task: str | None = None
    max_length: int | None = None
    fusable: bool = False
    """Whether it is float in ONNX Runtime, so that the runtime's fusions matter."""
    notes: tuple[str, ...] = ()
    """Sentences on how it is run, for the reader of the result."""
    graph: str | None = None
    """A bundle's: the SHA-256 of its graph."""

    @classmethod
    def of(cls, bundle: Bundle, name: str | None = None) -> "Subject":
        """The subject that a bundle is."""
        vocabulary = bundle.config.get("vocab_size")
        if not isinstance(vocabulary, int) or vocabulary < 1:
            raise UserError(f"{bundle.folder / 'config.json'} states no vocab_size.")
        outline = bundle.outline
        kinds = works_of(bundle.task)
        if kinds == CACHED_DECODER and not has_cache(outline.inputs):
            kinds = DECODER
        return cls(
            name=name or str(bundle.folder),
            command=own_command("edgeprune.measure.bench.worker"),
            kinds=kinds,
            load=onnx_load(bundle.model_path, vocabulary, bundle.config),
            files=(bundle.model_path, *bundle.data_paths),
            task=bundle.task,
            max_length=bundle.max_length,
            fusable=is_float(outline),
            notes=(*_variant_note(bundle), *kernels_note(bundle.model_path)),
            graph=bundle.graph_sha256,
        )

    @property
    def disabled_optimizers(self) -> tuple[str, ...]:
        return tuple(self.load.get("disabled_optimizers", ()))

    def stock(self) -> "Subject":
        """The same in ONNX Runtime alone, though the operator library is installed."""
        if "disabled_optimizers" not in self.load:
            raise UserError(f"stock:{self.name} does not run in ONNX Runtime.")
        return replace(self, name=f"stock:{self.name}", load=self.load | {"stock": True}, notes=())

    def without_slow_fusions(self) -> "Subject":
        return replace(self, load=self.load | {"disabled_optimizers": list(SLOW_FUSIONS)})


def onnx_load(path: Path, vocabulary: int, config: dict[str, Any]) -> dict[str, Any]:
    """The arguments by which worker.py loads an ONNX file."""
    return {
        "model": str(path.absolute()),
        "vocabulary": vocabulary,
        "config": {key: config[key] for key in _CACHE_SIZES if key in config},
        "disabled_optimizers": [],
    }


def kernels_note(path: Path) -> tuple[str, ...]:
    """The note on a file whose sparse linears the operator library runs; nothing of others."""
    if not uses_kernels(path):
        return ()
    return (f"{path}: sparse linears by edgeprune.kernels, {system_facts()['chosen']}.",)


def _variant_note(bundle: Bundle) -> tuple[str, ...]:
    """The note on which of several graphs is run."""
    if len(bundle.variants) < 2:
        return ()
    return (f"{bundle.folder}: its variant {bundle.variant}, of {', '.join(bundle.variants)}.",)


def works_of(task: str) -> tuple[Work, ...]:
    """The kinds of work that a model of a task is timed at, with a key-value cache where it has
    one."""
    return tuple(work for work in WORKS if work in TASKS[task].works)


def has_cache(inputs: dict[str, Any]) -> bool:
    return any(name.startswith(PAST) for name in inputs)


def is_float(outline: Outline) -> bool:
    return not any(name in outline.operators or name in outline.functions for name in _QUANTIZED)


def own_command(module: str) -> tuple[str, ...]:
    # -P: a file in the user's folder must not stand in for a module.
    return (sys.executable, "-P", "-m", module)
