"""Codes, scales or zero points of tensors in files, one for each tensor, read when asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_SUFFIX = ".safetensors"


class ValueFiles(Mapping[str, Tensor]):
    """One part of every tensor's values, by the tensor's name. A file holds all parts of its
    tensor."""

    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self._part = folder, part
        self._shared: dict[str, str] = {}

    def file(self, name: str) -> Path:
        """The file of a tensor."""
        return self._folder / f"{self._shared.get(name, name)}{_SUFFIX}"

    def write(self, name: str, parts: Mapping[str, Tensor]) -> None:
        """Write all parts of a tensor's values."""
        self._folder.mkdir(parents=True, exist_ok=True)
        save_file({part: values.contiguous() for part, values in parts.items()}, self.file(name))

    def share(self, name: str, source: str) -> None:
        """Let `name` have the values of `source`."""
        self._shared[name] = source

    def __getitem__(self, name: str) -> Tensor:
        file = self.file(name)
        if not file.is_file():
            raise KeyError(name)
        with safe_open(file, framework="pt") as stored:
            if self._part not in list(stored.keys()):
                raise KeyError(name)
            tensor: Tensor = stored.get_tensor(self._part)
            return tensor.clone()  # a mapped one would keep its file's pages in memory

    def __iter__(self) -> Iterator[str]:
        names = (file.name.removesuffix(_SUFFIX) for file in self._folder.glob(f"*{_SUFFIX}"))
        return (name for name in [*sorted(names), *self._shared] if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
