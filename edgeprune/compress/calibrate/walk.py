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
in GPTQ's words; the published SparseGPT, Wanda and Thanos see all of a block before changing it).

Collecting stops at the linear, and starts from what earlier collections in the block cached
(replay.py), so that four of them and the advance take little more than one pass. So nothing before
a linear whose inputs were collected may change until the walk advances; a fork has no cache. In
memory are the hidden states, as much again of what attention answers, what the down projections of
one block read, and one linear's statistics.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.replay import Replay
from edgeprune.model.anatomy import Block
from edgeprune.model.forward import Inputs, handed_on, tensors, unpadded
from edgeprune.model.model import Model
from edgeprune.model.restored import forwards_restored

Weigh = Callable[[Tensor, Tensor], Tensor]
"""(what a linear reads [tokens, in], what enters its block [tokens, width]) -> weights [tokens]."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def input_groups(block: Block) -> list[list[str]]:
    """A block's linears in the order of the data; linears that read the same input together."""
    attention, part = block.attention, block.feed_forward
    return [
        [attention.query, attention.key, attention.value],
        [attention.output],
        [*([part.gate] if part.gate else []), part.up],
        [part.down],
    ]


_PART = 256
"""Columns of a Gram matrix that are summed at a time: the half above the diagonal is enough."""


@dataclass
class InputStatistics:
    """Inputs of a linear over the text: X X^T [in, in], the sum of X [in], and the tokens.

    Tokens may have weights: each then counts as often as its weight says. In float32: what rounding
    adds to the Gram matrix, some 1e-6 of its trace, is below the damping with which it is used, and
    so leaves it positive definite.
    """

    gram: Tensor
    total: Tensor
    tokens: float = 0

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Accumulate rows [tokens, in] with weights [tokens]; the Gram matrix is whole once
        `complete` was called."""
        rows = rows.float()
        if weights is None:
            self.total += rows.sum(0)
            self.tokens += len(rows)
        else:
            self.total += weights @ rows
            self.tokens += float(weights.sum())
            rows = rows * weights.sqrt()[:, None]
        for start in range(0, len(self.gram), _PART):
            stop = start + _PART
            self.gram[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])

    def complete(self) -> None:
        """Fill the lower half of the Gram matrix from the upper one."""
        for start in range(0, len(self.gram), _PART):
            stop = start + _PART
            self.gram[stop:, start:stop] = self.gram[start:stop, stop:].T


class Walk:
    """The hidden states of calibration batches before one block; see the module's example."""

    @torch.no_grad()
    def __init__(self, model: Model, batches: Sequence[Inputs]) -> None:
        """Embed the text, and stand before the first block.

        Raises:
            UserError: the layers run again and again with the same weights, so that none of them
                reads what is final.
        """
        if (times := model.anatomy.repeats) > 1:
            raise UserError(
                f"The model's layers run {times} times with the same weights, and no text can be "
                "walked through them layer by layer: take a method that does not."
            )
        self.model = model
        self.masks = [tensors(batch)["attention_mask"].bool() for batch in batches]
        self.hidden: list[Tensor] = []  # what enters the block, a batch each [rows, tokens, width]
        self._arguments: list[list[Arguments]] = []  # what each block is given beside them
        self._replay: Replay | None = None  # what earlier collections in the block cached
        modules = model.block_modules()
        for batch in batches:
            hidden, arguments = _embed(model, modules, batch)
            self.hidden.append(hidden)
            self._arguments.append(arguments)

    def fork(self, sequences: int | None = None) -> "Walk":
        """A walk of its own from here on, over all the text or batches of that many sequences.

        It shares nothing that this one cached of the block.
        """
        other = copy.copy(self)
        count, taken = 0, 0
        while taken < len(self.masks) and (sequences is None or count < sequences):
            count, taken = count + len(self.masks[taken]), taken + 1
        other.hidden = self.hidden[:taken]
        other.masks, other._arguments = self.masks[:taken], self._arguments[:taken]
        other._replay = None
        return other

    @torch.no_grad()
    def inputs(self, block: Block, linear: str, weigh: Weigh | None = None) -> InputStatistics:
        """Statistics of what `linear` reads in `block`, padding left out.

        Args:
            weigh: gives the tokens' weights; None counts all alike.

        Raises:
            UserError: they are not finite.
        """
        width = self.model.linear(linear).in_features
        seen = InputStatistics(torch.zeros(width, width), torch.zeros(width))

        def add(rows: Tensor, index: int) -> None:
            weights = weigh(rows, self._unpadded(index)) if weigh else None
            seen.add(rows, weights)

        self._collect(block, linear, add)
        seen.complete()
        _check_finite(seen.gram, linear)
        return seen

    @torch.no_grad()
    def energy(self, block: Block, linear: str) -> Tensor:
        """Squared norm of each input that `linear` reads in `block` [in]: the Gram's diagonal.

        Raises:
            UserError: it is not finite.
        """
        total = torch.zeros(self.model.linear(linear).in_features, dtype=torch.float64)

        def add(rows: Tensor, _index: int) -> None:
            total.add_(rows.square().sum(0, dtype=torch.float64))

        self._collect(block, linear, add)
        _check_finite(total, linear)
        return total

    def states(self) -> list[Tensor]:
        """The hidden states where the walk stands [tokens, width], batch by batch, padding left
        out."""
        return [self._unpadded(index) for index in range(len(self.hidden))]

    def _unpadded(self, index: int) -> Tensor:
        """The hidden states of a batch [real tokens, width]."""
        return unpadded(self.hidden[index], self.masks[index])

    @torch.no_grad()
    def advance(self, block: Block) -> None:
        """Replace the hidden states by what `block`, as it is now, makes of them."""
        replay, self._replay = self._replay, None
        with self.model.opened(block.name):
            if replay:
                replay.finalize_attention()
            for index in range(len(self.hidden)):
                with replay.reuse_cached(index) if replay else nullcontext():
                    self.hidden[index] = self._run(block, index)

    def _collect(self, block: Block, linear: str, add: Callable[[Tensor, int], None]) -> None:
        """Give `add` what a linear reads of every batch, [real tokens, in], and its number."""
        self._replay = replay = self._replay or Replay(self.model, block)
        with self.model.opened(block.name):
            replay.collect(linear)
            for index, mask in enumerate(self.masks):

                def take(x: Tensor, mask: Tensor = mask, index: int = index) -> None:
                    add(unpadded(x, mask), index)

                with replay.stop_at(linear, index, take):
                    self._run(block, index)

    def _run(self, block: Block, index: int) -> Tensor:
        others, named = self._arguments[index][block.index]
        output = self.model.module.get_submodule(block.name)(self.hidden[index], *others, **named)
        return _hidden_of(output)


class _Reached(Exception):
    """Ends a pass when every block was asked."""


def _embed(model: Model, blocks: list[nn.Module], batch: Inputs) -> tuple[Tensor, list[Arguments]]:
    """The input of the first block, and the arguments of every block beside hidden states.

    Masks and positions may differ from block to block, so each is asked, while the hidden states
    pass through untouched. The first runs once, to see whether a block answers with a tuple.
    """
    entered: list[Tensor] = []
    arguments: list[Arguments] = []
    first: Any = None

    def note(forward: Callable[..., Any], hidden: Tensor, *others: Any, **named: Any) -> Any:
        nonlocal first
        if not entered:
            entered.append(hidden)
            first = forward(hidden, *others, **named)
        arguments.append((others, named))
        if len(arguments) == len(blocks):
            raise _Reached  # what follows, a decoder's logits, may be the largest tensor of all
        return handed_on(hidden, first)

    with forwards_restored(blocks):
        for block in blocks:
            block.forward = functools.partial(note, block.forward)
        with suppress(_Reached):
            model.run(batch)
    return entered[0], arguments


def _check_finite(seen: Tensor, linear: str) -> None:
    if not bool(torch.isfinite(seen).all()):
        raise UserError(f"{linear} reads values on the calibration text that are not finite.")


def _hidden_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
