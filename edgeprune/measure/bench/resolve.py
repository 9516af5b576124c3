"""The subjects that can be benchmarked.

| named by | what runs |
|---|---|
| a bundle, or a plain folder with an ONNX model | ONNX Runtime, in worker.py |
| a Hugging Face folder | its plain float32 export, likewise, so that the runtime is the same |
| `model.onnx`, a file | likewise; what it needs is read off its graph |
| `stock:` before any of these | likewise, without the operator library of edgeprune.kernels |
| `torch:FOLDER` | PyTorch itself, in torch_worker.py |
| `command:PROGRAM ARGUMENTS` | a program that speaks the protocol of protocol.py |
"""

import importlib.util
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.export.opened import name_of, open_model
from edgeprune.measure.bench.process import Conversation
from edgeprune.measure.bench.subject import (
    CACHED_DECODER,
    DECODER,
    ENCODER,
    Subject,
    own_command,
    works_of,
)
from edgeprune.runtime.bundle import Bundle

Target = str | Path | Bundle
"""Whatever the table above names."""


@contextmanager
def resolve(target: Target) -> Iterator[Subject]:
    """The subject that a target of any kind above names, for the time of a `with`.

    Raises:
        UserError: there is no such model, it is damaged, or running it needs another install.
    """
    kind, _, rest = str(target).partition(":")
    if kind in _BY_PREFIX and not isinstance(target, Bundle):
        yield _BY_PREFIX[kind](str(target), rest)
    elif kind == "stock" and not isinstance(target, Bundle):
        with resolve(rest) as subject:
            yield subject.stock()
    elif not isinstance(target, Bundle) and Path(target).suffix == ".onnx":
        from edgeprune.measure.bench.graph_file import of_graph_file

        yield of_graph_file(Path(target))
    else:
        with open_model(target) as bundle:
            yield Subject.of(bundle, name_of(target))


def _of_torch(name: str, model: str) -> Subject:
    """A folder, package:NAME or hub id that PyTorch runs."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{name} needs PyTorch: {install('build')}.")
    from edgeprune.model.checkpoint import open_checkpoint
    from edgeprune.model.settings import max_positions

    checkpoint = open_checkpoint(model)
    return Subject(
        name=name,
        command=own_command("edgeprune.measure.bench.torch_worker"),
        kinds=works_of(checkpoint.task),
        load={"model": model},
        files=tuple(checkpoint.files),
        task=checkpoint.task,
        max_length=max_positions(checkpoint.config),
    )


def _of_command(name: str, line: str) -> Subject:
    """A program that speaks the protocol; it is started once to ask what it can do."""
    try:
        command = tuple(shlex.split(line))
    except ValueError as error:
        raise UserError(
            f"{name} is not a command line ({error}): quote it as for a shell."
        ) from None
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
    return Subject(
        name=name,
        command=command,
        kinds=kinds,
        files=tuple(Path(file) for file in hello.get("files", ())),
        max_length=hello.get("max_length"),
    )


_BY_PREFIX = {"torch": _of_torch, "command": _of_command}
