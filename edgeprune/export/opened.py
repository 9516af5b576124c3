"""Any folder with a model, as a bundle."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.base.progress import say
from edgeprune.runtime.bundle import Bundle


@contextmanager
def open_model(target: str | Path | Bundle) -> Iterator[Bundle]:
    """A bundle from a folder of any kind, for the time of a `with`.

    A Hugging Face folder without ONNX is exported plainly to float32 ONNX in a temporary folder,
    so that the original runs in the same runtime as what was made of it.

    Raises:
        UserError: the folder holds no model, or exporting needs the build install.
    """
    if isinstance(target, Bundle):
        yield target
        return
    folder = Path(target)
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


def name_of(target: str | Path | Bundle) -> str:
    """The name of a model that was given by its folder, or as a bundle."""
    return str(target.folder if isinstance(target, Bundle) else target)


def _is_torch_folder(folder: Path) -> bool:
    has_onnx = any((folder / file).exists() for file in ("model.onnx", "onnx/model.onnx"))
    weights = (file for kind in ("*.safetensors", "*.gguf") for file in folder.glob(kind))
    return not has_onnx and any(weights)
