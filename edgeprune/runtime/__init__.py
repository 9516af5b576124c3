"""Run a bundle: embed, classify, rank, tag, answer, fill in, generate. Needs only numpy, tokenizers
and onnxruntime.

from edgeprune import runtime
embeddings = runtime.load("my-bundle").embed(["a text", "another"])
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from edgeprune.runtime.bundle import Bundle

__all__ = ["load"]


def load(
    folder: Union[str, Path, "Bundle"], threads: int | None = None, variant: str | None = None
) -> Any:
    """Load a bundle for its task.

    Args:
        folder: a bundle's folder, or an opened `Bundle`.
        threads: for the matrix products; None takes all cores that may be used.
        variant: the name of one of its graphs, of a folder that holds several; None: the one that
            this processor runs fastest.

    Returns:
        An instance of the class named by its task's row: an `Embedder`, a `Classifier`, a
        `MultiLabelClassifier`, a `Ranker`, a `Tagger`, an `Answerer`, a `Filler` or a `Generator`.

    Raises:
        UserError: the bundle is damaged, has no such variant, or needs a newer ONNX Runtime.
    """
    from edgeprune.base.registry import load_function
    from edgeprune.model.tasks import TASKS
    from edgeprune.runtime.bundle import Bundle

    bundle = folder if isinstance(folder, Bundle) else Bundle.open(folder, variant)
    return load_function(TASKS[bundle.task].runtime)(bundle, threads)
