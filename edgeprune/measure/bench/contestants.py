"""What can be benchmarked, and evaluated.

| named by | what runs |
|---|---|
| a bundle, or a plain folder with an ONNX model | ONNX Runtime, in worker.py |
| a Hugging Face folder | its plain float32 export, likewise, so that the runtime is the same |
| `model.onnx`, a file | likewise; what it needs is read off its graph |
| `stock:` before any of these | likewise, without the operator library of edgeprune.kernels |
| `torch:FOLDER` | PyTorch itself, in torch_worker.py |
| `command:PROGRAM ARGUMENTS` | a program that speaks the protocol of protocol.py |

Evaluation knows the first two.
"""

import importlib.util
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.base.progress import say
from edgeprune.kernels.library import system_facts
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.onnx_file import Outline
from edgeprune.runtime.session import PAST, uses_kernels

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
ENCODER: tuple[str, ...] = ("encoder",)
DECODER: tuple[str, ...] = ("prompt",)
CACHED_DECODER: tuple[str, ...] = ("prompt", "decode")


@dataclass(frozen=True)
class Contestant:
    """One model to be timed, and the process that runs it."""

    name: str
    command: tuple[str, ...]
    kinds: tuple[str, ...]
    """The kinds of work that it is timed at."""
    load: dict[str, Any] = field(default_factory=dict)
    """What its process must know to load it."""
    files: tuple[Path, ...] = ()
    task: str | None = None
    max_length: int | None = None
    fusable: bool = False
    """Whether it is float in ONNX Runtime, so that the runtime's fusions matter."""
    notes: tuple[str, ...] = ()
    """Sentences on how it is run, for the reader of the result."""

    @classmethod
    def of(cls, bundle: Bundle, name: str | None = None) -> "Contestant":
        """The contestant that a bundle is."""
        vocabulary = bundle.config.get("vocab_size")
        if not isinstance(vocabulary, int) or vocabulary < 1:
            raise UserError(f"{bundle.folder / 'config.json'} states no vocab_size.")
        outline = bundle.outline
        kinds = TASKS[bundle.task].works
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
            notes=kernels_note(bundle.model_path),
        )

    @property
    def disabled_optimizers(self) -> tuple[str, ...]:
        return tuple(self.load.get("disabled_optimizers", ()))

    def stock(self) -> "Contestant":
        """The same in ONNX Runtime alone, though the operator library is installed."""
        if "disabled_optimizers" not in self.load:
            raise UserError(f"stock:{self.name} does not run in ONNX Runtime.")
        return replace(self, name=f"stock:{self.name}", load=self.load | {"stock": True}, notes=())

    def without_slow_fusions(self) -> "Contestant":
        return replace(self, load=self.load | {"disabled_optimizers": list(SLOW_FUSIONS)})


@contextmanager
def entered(place: str | Path | Bundle) -> Iterator[Contestant]:
    """The contestant that a place of any kind above names, for the time of a `with`.

    Raises:
        UserError: there is no such model, it is damaged, or running it needs another install.
    """
    kind, _, rest = str(place).partition(":")
    if kind in _BY_PREFIX and not isinstance(place, Bundle):
        yield _BY_PREFIX[kind](str(place), rest)
    elif kind == "stock" and not isinstance(place, Bundle):
        with entered(rest) as contestant:
            yield contestant.stock()
    elif not isinstance(place, Bundle) and Path(place).suffix == ".onnx":
        from edgeprune.measure.bench.graph_file import of_graph_file

        yield of_graph_file(Path(place))
    else:
        with opened(place) as bundle:
            yield Contestant.of(bundle, place_name(place))


@contextmanager
def opened(place: str | Path | Bundle) -> Iterator[Bundle]:
    """A bundle from a folder of any kind, for the time of a `with`.

    A Hugging Face folder without ONNX is exported plainly to float32 ONNX in a temporary folder,
    so that the original runs in the same runtime as what was made of it.

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
        from edgeprune.export.trace import export_plain
    except ImportError as error:
        raise UserError(
            f"{folder} holds no ONNX model, and to export it needs the build install "
            f"({install('build')}); or name an ONNX bundle of it."
        ) from error
    with TemporaryDirectory(prefix="edgeprune-") as scratch:
        say(f"Exporting {folder} plainly to float32 ONNX ...")
        export_plain(folder, Path(scratch) / "original")
        yield Bundle.open(Path(scratch) / "original")


def place_name(place: str | Path | Bundle) -> str:
    """What to call a model that was named by its folder, or given as a bundle."""
    return str(place.folder if isinstance(place, Bundle) else place)


def onnx_load(path: Path, vocabulary: int, config: dict[str, Any]) -> dict[str, Any]:
    """What worker.py must know to load an ONNX file."""
    return {
        "model": str(path.absolute()),
        "vocabulary": vocabulary,
        "config": {key: config[key] for key in _CACHE_SIZES if key in config},
        "disabled_optimizers": [],
    }


def kernels_note(path: Path) -> tuple[str, ...]:
    """What to say of a file whose sparse linears the operator library runs; nothing of others."""
    if not uses_kernels(path):
        return ()
    return (f"{path}: sparse linears by edgeprune.kernels, {system_facts()['chosen']}.",)


def has_cache(inputs: dict[str, Any]) -> bool:
    return any(name.startswith(PAST) for name in inputs)


def is_float(outline: Outline) -> bool:
    return not any(name in outline.operators or name in outline.functions for name in _QUANTIZED)


def own_command(module: str) -> tuple[str, ...]:
    # -P: a file in the user's folder must not stand in for a module.
    return (sys.executable, "-P", "-m", module)


def _of_torch(name: str, model: str) -> Contestant:
    """A folder, package:NAME or hub id that PyTorch runs."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{name} needs PyTorch: {install('build')}.")
    from edgeprune.model.checkpoint import open_checkpoint
    from edgeprune.model.families import max_positions

    checkpoint = open_checkpoint(model)
    return Contestant(
        name=name,
        command=own_command("edgeprune.measure.bench.torch_worker"),
        kinds=TASKS[checkpoint.task].works,
        load={"model": model},
        files=tuple(checkpoint.files),
        task=checkpoint.task,
        max_length=max_positions(checkpoint.config),
    )


def _of_command(name: str, line: str) -> Contestant:
    """A program that speaks the protocol; it is started once to ask what it can do."""
    from edgeprune.measure.bench.process import Conversation

    try:
        command = tuple(shlex.split(line))
    except ValueError as error:
        raise UserError(f"{name} is no command line: {error}.") from None
    if not command:
        raise UserError("command: names no program; write command:PROGRAM ARGUMENTS.")
    with Conversation(name, command) as process:
        hello = process.hello
    kinds = tuple(kind for kind in (*ENCODER, *CACHED_DECODER) if kind in hello.get("does", ()))
    if kinds not in (ENCODER, DECODER, CACHED_DECODER):
        raise UserError(
            f"{name} says it does {', '.join(hello.get('does', ())) or 'nothing'}; it must do "
            f"either encoder, or prompt and perhaps decode."
        )
    return Contestant(
        name=name,
        command=command,
        kinds=kinds,
        files=tuple(Path(file) for file in hello.get("files", ())),
        max_length=hello.get("max_length"),
    )


_BY_PREFIX = {"torch": _of_torch, "command": _of_command}


def _is_torch_folder(folder: Path) -> bool:
    has_onnx = any((folder / place).exists() for place in ("model.onnx", "onnx/model.onnx"))
    weights = (file for kind in ("*.safetensors", "*.gguf") for file in folder.glob(kind))
    return not has_onnx and any(weights)
