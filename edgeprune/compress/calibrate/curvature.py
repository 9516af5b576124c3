"""Curvature of the model's output over its weights: Fisher information of the blocks' linears.

The loss is the objective's probe (objectives/), a sum over sequences. With a [in] what a linear
reads at a token and g [out] the gradient of what it writes:

    fisher   F_ij = sum over sequences of (sum over tokens of g_i a_j)^2, each weight by itself
    kfac     A = mean over tokens of a a^T, G = sum over tokens of g g^T; the Hessian of W is taken
             for A (x) G (Martens & Grosse, 2015)

One backward pass a batch, no gradients of weights. Memory: for fisher as much as the weights; for
kfac squares of every linear's inputs and outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.calibrate.walk import input_groups
from edgeprune.compress.maths.obs import damped, inverse_factor
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.model.forward import tensors
from edgeprune.model.model import Model
from edgeprune.model.restored import gradients_of_activations
from edgeprune.text.batches import Batch

Take = Callable[[str, Tensor, Tensor], None]
"""(linear, what it reads [sequences, tokens, in], gradient of what it writes [..., out])."""


@dataclass
class Factors:
    """A [in, in] and G [out, out] of one linear."""

    inputs: Tensor
    outputs: Tensor


def fisher(model: Model, batches: Sequence[Batch], seed: int) -> dict[str, Tensor]:
    """F [out, in] of every linear of the blocks, float32."""
    found = {name: torch.zeros(model.anatomy.shape(name)) for name in model.anatomy.block_linears()}

    def take(name: str, read: Tensor, gradient: Tensor) -> None:
        for a, g in zip(read, gradient, strict=True):
            found[name].add_((g.T @ a).square_())

    _backward(model, batches, seed, take)
    return found


def kfac(model: Model, batches: Sequence[Batch], seed: int) -> dict[str, Factors]:
    """Factors of every linear of the blocks; linears that read the same input share A."""
    sharing = {
        name: group[0]
        for block in model.anatomy.blocks
        for group in input_groups(block)
        for name in group
    }
    shapes = {name: model.anatomy.shape(name) for name in sharing}
    read_by = {name: torch.zeros(shapes[name][1], shapes[name][1]) for name in sharing.values()}
    found = {
        name: Factors(read_by[first], torch.zeros(shapes[name][0], shapes[name][0]))
        for name, first in sharing.items()
    }
    tokens = sum(int(batch.attention_mask.sum()) for batch in batches)

    def take(name: str, read: Tensor, gradient: Tensor) -> None:
        if name in read_by:
            rows = read.flatten(0, 1)
            read_by[name].addmm_(rows.T, rows, alpha=1 / tokens)
        rows = gradient.flatten(0, 1)
        found[name].outputs.addmm_(rows.T, rows)

    _backward(model, batches, seed, take)
    return found


def fisher_costs(weight: Tensor, information: Tensor) -> Tensor:
    """Cost of losing each weight alone: w^2 F / 2 [out, in] (optimal brain damage)."""
    return weight.square() * information / 2


def kfac_costs(weight: Tensor, factors: Factors, damping: float) -> Tensor:
    """The same with all others making up for it: w_ij^2 / (2 inv(G)_ii inv(A)_jj) [out, in].

    Optimal brain surgeon under A (x) G, as NAP has it (Zeng & Urtasun's line; 2101.06608).
    """
    if not factors.outputs.any():
        return torch.zeros_like(weight)  # nothing that the linear writes changes the output
    outputs, inputs = (
        inverse_factor(damped(each, damping)).square().sum(0)
        for each in (factors.outputs, factors.inputs)
    )
    costs = weight.double().square() / (2 * torch.outer(outputs, inputs))
    return costs.to(weight.dtype)


def _backward(model: Model, batches: Sequence[Batch], seed: int, take: Take) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = list(model.anatomy.block_linears())
    objective = objective_of(model)
    with gradients_of_activations(model), torch.enable_grad():
        for batch in track(batches, "taking curvature", len(batches)):
            mask = tensors(batch)["attention_mask"].unsqueeze(-1)
            handles = [
                model.linear(name).register_forward_hook(_hook(name, mask, take)) for name in names
            ]
            try:
                objective.probe(model.run(batch), batch, generator).backward()
            finally:
                for handle in handles:
                    handle.remove()


def _hook(name: str, mask: Tensor, take: Take) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
    def forward(_module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        read = args[0].detach()

        def backward(gradient: Tensor) -> None:
            if not bool(torch.isfinite(gradient).all()):
                raise UserError(f"{name} has gradients on the text that are not finite.")
            # Some feed-forwards see all sequences' tokens in one row.
            rows = [each.reshape(*mask.shape[:2], -1) * mask for each in (read, gradient)]
            take(name, rows[0].float(), rows[1].float())

        output.register_hook(backward)

    return forward
