"""The one place that creates an ONNX Runtime session.

Options stay at the runtime's defaults except for the number of threads, so that measurements hold
for any other client. For a file with sparse linears the operator library is registered if it is
installed, as a client does with `edgeprune.kernels.register`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from edgeprune import kernels
from edgeprune.base.cores import all_cores, usable_cores
from edgeprune.base.errors import ModelFault, UserError, reason
from edgeprune.base.releases import release
from edgeprune.kernels.formats import DOMAIN
from edgeprune.runtime.names import is_past
from edgeprune.runtime.onnx_file import read_outline

if TYPE_CHECKING:
    from edgeprune.runtime.bundle import Bundle

_FATAL_ONLY = 4  # errors are raised anyway
_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def open_session(
    model_path: str | Path,
    threads: int | None = None,
    disabled_optimizers: Sequence[str] = (),
    minimum_onnxruntime: str | None = None,
    optimized_path: str | Path | None = None,
    profile_prefix: str | Path | None = None,
    stock: bool = False,
) -> onnxruntime.InferenceSession:
    """Open a session on the CPU for one ONNX file.

    Args:
        threads: intra-op threads; None takes as many as there are cores that may be used: the
            runtime's own default where those are all.
        disabled_optimizers: names of the runtime's graph fusions to leave out.
        minimum_onnxruntime: the oldest release that opens the model, if known.
        optimized_path: where to write the graph after the runtime's own optimizer.
        profile_prefix: where the runtime writes its profile, completing the name; profiling slows
            every run.
        stock: leave the operator library out even if it is installed and the file can use it.

    Raises:
        UserError: the runtime is too old or refuses the file, or the stated release is not one.
    """
    if not isinstance(minimum_onnxruntime, str | None):  # a manifest may say anything
        raise UserError(
            f"{model_path} states the ONNX Runtime that it needs as {minimum_onnxruntime!r} "
            "(edgeprune.json, minimum_onnxruntime), which is not a release: build the bundle again."
        )
    if minimum_onnxruntime and release(onnxruntime.__version__) < release(minimum_onnxruntime):
        raise UserError(
            f"{model_path} needs ONNX Runtime {minimum_onnxruntime} or newer and "
            f"{onnxruntime.__version__} is installed: run `pip install -U onnxruntime`."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if threads is None and (usable := usable_cores()) < all_cores():
        threads = usable
    if threads is not None:
        options.intra_op_num_threads = threads
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if not stock and uses_kernels(model_path):
        kernels.register(options)
    try:
        return onnxruntime.InferenceSession(
            str(model_path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(disabled_optimizers),
        )
    except Exception as error:  # the runtime's own errors share no base class
        raise UserError(f"ONNX Runtime cannot open {model_path}: {reason(error)}") from error


def bundle_session(
    bundle: "Bundle", threads: int | None = None, **options: Any
) -> onnxruntime.InferenceSession:
    """`open_session` for a bundle's graph, which refuses a runtime older than its manifest allows.

    Args:
        options: further arguments of `open_session`.
    """
    return open_session(
        bundle.model_path, threads, minimum_onnxruntime=bundle.minimum_onnxruntime, **options
    )


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Turn the runtime's error into a ModelFault if a graph opens but cannot run.

    Raises:
        ModelFault: with the runtime's reason.
    """
    try:
        yield
    except Exception as error:  # the runtime's own errors share no base class
        if type(error).__module__.partition(".")[0] != onnxruntime.__name__:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip()
        raise ModelFault(f"The model's graph fails when it is run: {reason}") from error


def uses_kernels(model_path: str | Path) -> bool:
    """Whether the operator library is installed and the file uses it."""
    if not kernels.installed():
        return False
    try:
        return DOMAIN in read_outline(Path(model_path)).domains
    except UserError:  # a damaged file, which the runtime will refuse
        return False


def input_types(session: onnxruntime.InferenceSession) -> dict[str, type[np.generic]]:
    """The numpy type of each input of the graph, by name, in the graph's order."""
    types = {}
    for node in session.get_inputs():
        if node.type not in _NUMPY_TYPES:
            raise UserError(f"The model's input {node.name} has type {node.type}, unknown here.")
        types[node.name] = _NUMPY_TYPES[node.type]
    return types


def token_inputs(
    types: Mapping[str, type[np.generic]],
    ids: np.ndarray,
    mask: np.ndarray,
    type_ids: np.ndarray | None = None,
    past: int = 0,
) -> dict[str, np.ndarray]:
    """Inputs of a transformer's graph other than its cache, by name.

    Args:
        types: the types of the graph's inputs, from `input_types`.
        ids: token ids, [batch, tokens].
        mask: 1 for each real token, including the cache, [batch, past + tokens].
        type_ids: segment of each token, [batch, tokens]; zeros if not given.
        past: tokens already in the cache.

    Raises:
        UserError: the graph has an unknown input.
    """
    inputs: dict[str, np.ndarray] = {}
    for name, dtype in types.items():
        if name == "input_ids":
            inputs[name] = ids.astype(dtype)
        elif name == "attention_mask":
            inputs[name] = mask.astype(dtype)
        elif name == "token_type_ids":
            inputs[name] = (np.zeros_like(ids) if type_ids is None else type_ids).astype(dtype)
        elif name == "position_ids":
            positions = np.arange(past, past + ids.shape[1])
            inputs[name] = np.broadcast_to(positions, ids.shape).astype(dtype)
        elif not is_past(name):
            raise UserError(
                f"The model's graph has an input {name!r} that edgeprune cannot fill: it runs "
                f"text encoders, classifiers and decoders with a key-value cache."
            )
    return inputs
