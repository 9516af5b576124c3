"""Run a bundle: embed, classify, generate. numpy, tokenizers and onnxruntime alone.

from edgeprune import runtime
embeddings = runtime.load("my-bundle").embed(["a text", "another"])
"""

from pathlib import Path
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from edgeprune.runtime.bundle import Bundle
    from edgeprune.runtime.classify import Classifier
    from edgeprune.runtime.embed import Embedder
    from edgeprune.runtime.generate import Generator

__all__ = ["load"]


def load(
    folder: Union[str, Path, "Bundle"], threads: int | None = None
) -> Union["Embedder", "Classifier", "Generator"]:
    """Load a bundle for what its task is.

    Args:
        folder: a bundle's folder, or an opened `Bundle`.
        threads: for the matrix products; None leaves it to ONNX Runtime, which takes all cores.

    Returns:
        An `Embedder`, a `Classifier` or a `Generator`.

    Raises:
        UserError: the bundle is damaged, or this ONNX Runtime is too old for it.
    """
    from edgeprune.runtime.bundle import Bundle

    bundle = folder if isinstance(folder, Bundle) else Bundle.open(folder)
    if bundle.task == "text-generation":
        from edgeprune.runtime.generate import Generator

        return Generator(bundle, threads)
    if bundle.task == "text-classification":
        from edgeprune.runtime.classify import Classifier

        return Classifier(bundle, threads)
    from edgeprune.runtime.embed import Embedder

    return Embedder(bundle, threads)
