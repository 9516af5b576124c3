"""Calibration text on its way through a model, block after block.

    walk = Walk(model, batches)
    for block in model.anatomy.blocks:
        for linears in input_groups(block):
            inputs = walk.inputs(block, linears[0])   # what these linears read, as statistics
            ...                                       # change their weights
        walk.advance(block)

`walk.fork()` goes on from the same place by itself.

The text is embedded once, and its hidden states are kept at the block where the walk stands. What a
linear reads is seen after everything before it was changed, inside its block too ("true sequential"
in GPTQ's words; the published SparseGPT, Wanda and Thanos look once a block, before changing it).
A look ends where the linear is reached, so that four looks and the advance take some 2.2 times the
work of a block. One linear's statistics are in memory at a time.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.anatomy import Block
from edgeprune.errors import UserError
from edgeprune.models import Model, attended
from edgeprune.recover.objective import tensors
from edgeprune.text.batches import Batch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def input_groups(block: Block) -> list[list[str]]:
    """A block's linears in the order of the data; those that read the same input together."""
    attention, part = block.attention, block.feed_forward
    return [
        [attention.query, attention.key, attention.value],
        [attention.output],
        [*([part.gate] if part.gate else []), part.up],
        [part.down],
    ]


@dataclass
class InputStatistics:
    """What a linear reads over the text: X X^T [in, in], the sum of X [in], and how many tokens.

    In float32: what rounding adds to the Gram matrix, some 1e-6 of its trace, is below the damping
    with which it is used, and so leaves it positive definite.
    """

    gram: Tensor
    total: Tensor
    tokens: int = 0

    def add(self, rows: Tensor) -> None:
        """Take rows [tokens, in] in."""
        rows = rows.float()
        self.gram.addmm_(rows.T, rows)
        self.total += rows.sum(0)
        self.tokens += len(rows)


class _Reached(Exception):
    """Ends a pass at the place that was looked for."""


class Walk:
    """The hidden states of calibration batches before one block; see the module's example."""

    @torch.no_grad()
    def __init__(self, model: Model, batches: Sequence[Batch]) -> None:
        self.model = model
        self.masks = [torch.from_numpy(batch.attention_mask).bool() for batch in batches]
        self.hidden: list[Tensor] = []  # what enters the block, a batch each [rows, tokens, width]
        self._arguments: list[list[Arguments]] = []  # what each block is given beside them
        cache = {"use_cache": False} if model.anatomy.kind == "decoder" else {}
        modules = [model.module.get_submodule(block.name) for block in model.anatomy.blocks]
        for batch in batches:
            hidden, arguments = _embed(model.module, modules, {**tensors(batch), **cache})
            self.hidden.append(hidden)
            self._arguments.append(arguments)

    def fork(self, sequences: int | None = None) -> "Walk":
        """A walk of its own from here on, over all the text or batches of that many sequences."""
        other = copy.copy(self)
        count, taken = 0, 0
        while taken < len(self.masks) and (sequences is None or count < sequences):
            count, taken = count + len(self.masks[taken]), taken + 1
        other.hidden = self.hidden[:taken]
        other.masks, other._arguments = self.masks[:taken], self._arguments[:taken]
        return other

    @torch.no_grad()
    def inputs(self, block: Block, linear: str) -> InputStatistics:
        """Statistics of what `linear` reads in `block`, padding left out.

        Raises:
            UserError: they are not finite.
        """
        width = self.model.linear(linear).in_features
        seen = InputStatistics(torch.zeros(width, width), torch.zeros(width))
        self._look(block, linear, seen.add)
        _check_finite(seen.gram, linear)
        return seen

    @torch.no_grad()
    def energy(self, block: Block, linear: str) -> Tensor:
        """Squared norm of each input that `linear` reads in `block` [in]: the Gram's diagonal.

        Raises:
            UserError: it is not finite.
        """
        total = torch.zeros(self.model.linear(linear).in_features, dtype=torch.float64)

        def add(rows: Tensor) -> None:
            total.add_(rows.double().square().sum(0))

        self._look(block, linear, add)
        _check_finite(total, linear)
        return total

    def _look(self, block: Block, linear: str, add: Callable[[Tensor], None]) -> None:
        """Give `add` what a linear reads of every batch, [real tokens, in]."""
        module = self.model.linear(linear)

        def look(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                add(attended(args[0], mask))
                raise _Reached

            return hook

        for index, mask in enumerate(self.masks):
            handle = module.register_forward_pre_hook(look(mask))
            try:
                with suppress(_Reached):
                    self._run(block, index)
            finally:
                handle.remove()

    def states(self) -> list[Tensor]:
        """The hidden states where the walk stands [tokens, width], batch by batch, padding left
        out."""
        return [attended(h, mask) for h, mask in zip(self.hidden, self.masks, strict=True)]

    @torch.no_grad()
    def advance(self, block: Block) -> None:
        """Replace the hidden states by what `block`, as it is now, makes of them."""
        for index in range(len(self.hidden)):
            self.hidden[index] = self._run(block, index)

    def _run(self, block: Block, index: int) -> Tensor:
        others, named = self._arguments[index][block.index]
        output = self.model.module.get_submodule(block.name)(self.hidden[index], *others, **named)
        return _hidden_of(output)


def _embed(
    module: nn.Module, blocks: list[nn.Module], batch: dict[str, Any]
) -> tuple[Tensor, list[Arguments]]:
    """What enters the first block, and what every block is given beside hidden states.

    Masks and positions may differ from block to block, so each is asked, while the hidden states
    pass through untouched. The first runs once, to see whether a block answers with a tuple.
    """
    entered: list[Tensor] = []
    arguments: list[Arguments] = []
    tupled = False

    def note(forward: Callable[..., Any], hidden: Tensor, *others: Any, **named: Any) -> Any:
        nonlocal tupled
        if not entered:
            entered.append(hidden)
            tupled = isinstance(forward(hidden, *others, **named), tuple)
        arguments.append((others, named))
        if len(arguments) == len(blocks):
            raise _Reached  # what follows, a decoder's logits, may be the largest tensor of all
        return (hidden,) if tupled else hidden

    for block in blocks:
        block.forward = functools.partial(note, block.forward)
    try:
        with suppress(_Reached):
            module(**batch)
    finally:
        for block in blocks:
            del block.forward
    return entered[0], arguments


def _check_finite(seen: Tensor, linear: str) -> None:
    if not bool(torch.isfinite(seen).all()):
        raise UserError(f"{linear} reads values on the calibration text that are not finite.")


def _hidden_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
