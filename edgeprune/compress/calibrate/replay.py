"""Passes through one block that end at a linear, and do not compute again what earlier ones did.

    attention ── output linear ── gate, up ── down projection
             └ known once reached         └ what it reads: known once reached

Collecting the output linear's inputs keeps them; from then on the attention module answers with
that linear's answer to them, uncomputed. Collecting the down projection's inputs keeps those; from
then on the linears before it answer with zeros, which nobody reads, and it answers for itself. So
collecting from every linear and a whole pass take hardly more than one pass.

Nothing before a linear whose inputs were collected may change, until they are collected again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from edgeprune.compress.calibrate.watch import watching
from edgeprune.model.anatomy import Block
from edgeprune.model.model import Model
from edgeprune.model.restored import forwards_restored


class _Reached(Exception):
    """Ends a pass at the linear whose inputs are collected."""


class Replay:
    """Cached parts of several batches' passes through one block."""

    def __init__(self, model: Model, block: Block) -> None:
        attention, part = block.attention, block.feed_forward
        self.linears = {name: model.linear(name) for name in block.linears()}
        self.output, self.down = attention.output, part.down
        self.before_down = [self.linears[name] for name in (part.gate, part.up) if name]
        self.attention = model.module.get_submodule(attention.module)
        self.holds_output = attention.output.startswith(f"{attention.module}.")
        self._contexts: list[Tensor] = []  # what the output linear reads, until it is final
        self._answers: list[tuple[Any, ...]] = []  # the attention module's
        self._read: list[Tensor] = []  # what the down projection reads

    def collect(self, linear: str) -> None:
        """Begin to collect from `linear`: all before it is final, all behind it is forgotten."""
        order = list(self.linears)
        if order.index(linear) <= order.index(self.output):
            self._contexts, self._answers = [], []
        self._read = []
        self.finalize_attention()

    def finalize_attention(self) -> None:
        """The output linear has its last weights: from here on attention answers by them."""
        if self._contexts:
            output = self.linears[self.output]
            self._answers = [
                (output(context), *rest)
                for context, (_, *rest) in zip(self._contexts, self._answers, strict=True)
            ]
            self._contexts = []

    @contextmanager
    def stop_at(self, linear: str, batch: int, take: Callable[[Tensor], None]) -> Iterator[None]:
        """Let a pass of a batch end at `linear`, and give `take` what that reads.

        Batches come in their order, each once a collection.
        """

        def reached(_name: str, read: Tensor) -> None:
            take(read)
            if linear == self.down:
                self._read.append(read)
            if linear == self.output and self.holds_output:
                self._contexts.append(read)
                return  # the module ends behind it: only then is the form of its answer known
            raise _Reached

        def answered(_module: nn.Module, _args: Any, answer: tuple[Any, ...]) -> None:
            if linear == self.output:  # beside it there may be attention weights, which are large
                known = None if self.holds_output else answer[0]
                self._answers.append((known, *[None] * (len(answer) - 1)))
                if self.holds_output:
                    raise _Reached

        handle = self.attention.register_forward_hook(answered)
        try:
            with (
                watching({linear: self.linears[linear]}, reached),
                suppress(_Reached),
                self.reuse_cached(batch),
            ):
                yield
        finally:
            handle.remove()

    @contextmanager
    def reuse_cached(self, batch: int) -> Iterator[None]:
        """Let a batch's pass answer from what is cached of it."""
        answers: dict[nn.Module, Callable[..., Any]] = {}
        if batch < len(self._answers):
            answers[self.attention] = lambda *_args, **_named: self._answers[batch]
        if batch < len(self._read):
            down = self.linears[self.down]
            answers |= {linear: _zeros(linear.out_features) for linear in self.before_down}
            answers[down] = lambda _given: nn.Linear.forward(down, self._read[batch])
        with forwards_restored(answers):
            for module, answer in answers.items():
                module.forward = answer
            yield


def _zeros(width: int) -> Callable[[Tensor], Tensor]:
    return lambda given: given.new_zeros(1).expand(*given.shape[:-1], width)
