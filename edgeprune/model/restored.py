"""A model that is changed for a while: afterwards it is as before, whatever happened meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeprune.model.model import Model


@contextmanager
def values_restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors whose values may be written over."""
    before = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)


@contextmanager
def forwards_restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules that may be given another `forward`."""
    before = [(module, vars(module).get("forward")) for module in modules]
    try:
        yield
    finally:
        for module, forward in before:
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


@contextmanager
def module_restored(model: Model, path: str) -> Iterator[None]:
    """A place in the model where another module may be put."""
    before = model.module.get_submodule(path)
    try:
        yield
    finally:
        model.module.set_submodule(path, before)


@contextmanager
def gradients_restored(model: Model) -> Iterator[None]:
    """Parameters that may be told to ask for gradients, or not to, and given some."""
    before = [(each, each.requires_grad, each.grad) for each in model.module.parameters()]
    try:
        yield
    finally:
        for parameter, asked, gradient in before:
            parameter.requires_grad_(asked)
            parameter.grad = gradient


@contextmanager
def gradients_of_activations(model: Model) -> Iterator[None]:
    """No weight asks for a gradient, and what the embedding hands on does."""
    word = model.module.get_submodule(model.anatomy.embeddings["word"])
    with gradients_restored(model):
        model.module.requires_grad_(False)
        handle = word.register_forward_hook(lambda _m, _a, out: out.requires_grad_())
        try:
            yield
        finally:
            handle.remove()
