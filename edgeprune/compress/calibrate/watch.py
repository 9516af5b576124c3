"""Inputs of linears while text runs through a model: one loop for everybody who reads them.

`watching` shows modules' inputs as they come; `watch_inputs` runs text through the whole model and
shows those of real tokens. The walk (walk.py) watches in the same way, block by block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.base.progress import track
from edgeprune.model.forward import Inputs, tensors, unpadded
from edgeprune.model.model import Model

See = Callable[[str, Tensor], None]
"""(name, what the module of that name reads)."""


@contextmanager
def watching(modules: Mapping[str, nn.Module], see: See) -> Iterator[None]:
    """Show `see` the first argument of every call of the modules, before they run."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, args: see(name, args[0])

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def watch_inputs(
    model: Model, names: Sequence[str], batches: Sequence[Inputs], see: See, task: str
) -> None:
    """Run text through the model and show what linears read of real tokens [rows, in].

    Args:
        names: the linears.
        task: named in the progress bar.
    """
    mask = torch.ones(0)

    def see_rows(name: str, read: Tensor) -> None:
        # A pooler reads one token of each text, an expert the tokens that are routed to it.
        whole = read.shape[:-1].numel() == mask.numel()
        see(name, unpadded(read, mask) if whole else read.flatten(0, -2))

    with watching({name: model.linear(name) for name in names}, see_rows):
        for batch in track(batches, task, len(batches)):
            mask = tensors(batch)["attention_mask"]
            model.run(batch)
