"""A model that is larger than memory: a linear's weights are there while it runs or is opened.

    with model.opened(block.name):      # the weights of a block, in float32
        ...                             # run it often, change its weights

Outside of a `with`, each linear and embedding reads its weights from disk whenever it is called,
so that whatever runs the model works as on any other. Changes in a `with` are kept: what was
changed is written in the type in which the model's files have it. Other weights must not be
changed, and a change is noticed. Norms and biases of other modules are small, and always there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.base.memory import return_large_blocks
from edgeprune.model.tensor_files import Place, TensorFiles

_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""In which changed weights are written, where it is not float32."""


class StreamedWeights:
    """The weights of a module's linears and embeddings, read from their files when they are needed.

    `tensors` says where each lies now.
    """

    def __init__(
        self,
        module: nn.Module,
        tensors: TensorFiles,
        shared: dict[str, str],
        changes: Path | None = None,
    ) -> None:
        """Take the module's large weights out of memory, and fill in the small ones.

        Args:
            shared: modules whose weight is another module's, and that module.
            changes: the folder to which changed weights are written; None: they are dropped when
                they are closed, for whoever puts their new place into `tensors`.
        """
        return_large_blocks()
        self.tensors = tensors
        self._changes = changes
        self._shared = shared
        self._leaves: dict[str, nn.Module] = {}
        self._open: dict[str, int] = {}
        self._read: dict[str, dict[str, tuple[Tensor, int]]] = {}
        for path, part in module.named_modules():
            if any(each.ndim > 1 for each in part._parameters.values() if each is not None):
                self._leaves[path] = part
                _empty(part)
                part.register_forward_pre_hook(lambda _m, _a, path=path: self._begin(path))
                part.register_forward_hook(
                    lambda _m, _a, _o, path=path: self._end(path), always_call=True
                )
        small = {
            name: _owned(tensors, name)
            for name in module.state_dict()
            if name.rpartition(".")[0] not in self._leaves
        }
        module.load_state_dict(small, strict=False, assign=True)

    @contextmanager
    def opened(self, path: str) -> Iterator[None]:
        """The weights of the modules at and below a path in memory."""
        paths = [each for each in self._leaves if each == path or each.startswith(f"{path}.")]
        begun = []
        try:
            for each in paths:
                self._begin(each)
                begun.append(each)
            yield
            if self._changes is not None:
                self._write(path, paths)
        finally:
            for each in begun:
                self._end(each)

    def check_kept(self) -> None:
        """Whether no weight was changed that was not open.

        Raises:
            RuntimeError: one was, and the change is lost.
        """
        for path, leaf in self._leaves.items():
            for each in leaf._parameters.values():
                if each is not None and each.is_meta and each._version:
                    raise RuntimeError(f"{path} was changed while its weights were not in memory")

    def _begin(self, path: str) -> None:
        self._open[path] = self._open.get(path, 0) + 1
        if self._open[path] > 1:
            return
        leaf = self._leaves[path]
        read: dict[str, tuple[Tensor, int]] = {}
        for name, placeholder in list(leaf._parameters.items()):
            if placeholder is not None:
                values = _owned(self.tensors, self._stored(path, name))
                there = nn.Parameter(values, requires_grad=False)
                leaf._parameters[name] = there
                read[name] = (there, there._version)
        self._read[path] = read

    def _end(self, path: str) -> None:
        self._open[path] -= 1
        if not self._open[path]:
            del self._open[path], self._read[path]
            _empty(self._leaves[path])

    def _write(self, path: str, paths: list[str]) -> None:
        """Write what was changed below a path, beside what its file has already."""
        assert self._changes is not None
        file = self._changes / f"{path}.safetensors"
        kept: dict[str, Tensor] = {}
        changed = False
        for each in paths:
            for name, (before, version) in self._read[each].items():
                now, stored = self._leaves[each]._parameters[name], self._stored(each, name)
                assert now is not None
                differs = now is not before or now._version != version
                if differs or self.tensors.place(stored).file == file:
                    kind = _TYPES.get(self.tensors.dtype(stored), torch.float32)
                    kept[stored] = now.detach().to(kind).contiguous()
                    changed = changed or differs
        if changed:
            aside = file.with_name(f".{file.name}")
            save_file(kept, aside, metadata={"format": "pt"})
            aside.replace(file)
            for stored in kept:
                self.tensors.put(stored, Place(file, stored))

    def _stored(self, path: str, name: str) -> str:
        """The name by which a tensor lies in the files."""
        return f"{self._shared.get(path, path)}.{name}"


def without_values(module: nn.Module) -> None:
    """Let a module's parameters have shapes alone."""
    for part in module.modules():
        _empty(part)


def _empty(part: nn.Module) -> None:
    """The same of a part's own parameters."""
    for name, each in list(part._parameters.items()):
        if each is not None:
            empty = torch.empty(each.shape, device="meta")
            part._parameters[name] = nn.Parameter(empty, requires_grad=False)


def _owned(tensors: TensorFiles, name: str) -> Tensor:
    """A tensor in memory of its own."""
    values = tensors.read(name)
    return torch.from_numpy(values if values.flags.writeable else values.copy())
