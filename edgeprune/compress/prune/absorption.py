"""The share of a pruned block's error that reaches the end of the model.

Inspired by "absorption-aware" sparsity (2606.15161), whose formula is not public. Here each block
alone is pruned by Wanda at the wished sparsity, so that the perturbation has the size and the
direction that pruning gives it, and is followed to the last block. The first token is left out: it
often holds massive activations that dwarf everything.
"""

import math
from collections.abc import Mapping

import torch

from edgeprune.base.progress import track
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.prune.wanda import wanda
from edgeprune.model.model import Model
from edgeprune.model.restored import values_restored


@torch.no_grad()
def amplification(model: Model, walk: Walk, counts: Mapping[str, int], pattern: str) -> list[float]:
    """log(relative error after the last block / after the block itself) of every block.

    Below zero, the blocks behind absorb what pruning the block does; above, they amplify it.

    Args:
        walk: text before the first block; it ends behind the last.
        counts: units that leave each linear while its block is the pruned one.
    """
    blocks = model.anatomy.blocks
    end = walk.fork()
    for block in blocks:
        end.advance(block)
    found = []
    for place, block in enumerate(track(blocks, "following errors", len(blocks))):
        spoiled = walk.fork()
        with values_restored(model.linear(name).weight for name in block.linears()):
            for names in input_groups(block):
                energy = spoiled.energy(block, names[0])
                for name in names:
                    weight = model.linear(name).weight
                    weight.copy_(wanda(weight, energy.diag(), pattern, counts[name]).weight)
            spoiled.advance(block)
        walk.advance(block)
        first = drift(spoiled, walk)
        for other in blocks[place + 1 :]:
            spoiled.advance(other)
        last = drift(spoiled, end)
        found.append(math.log(last / first) if first and last else 0.0)
    return found


def drift(walk: Walk, reference: Walk) -> float:
    """Mean over tokens of ||h' - h|| / ||h||, each sequence's first token left out."""
    total, count = 0.0, 0
    for spoiled, whole, mask in zip(walk.hidden, reference.hidden, walk.masks, strict=True):
        real = mask.clone()
        real[:, 0] = False
        change, size = (
            (spoiled - whole)[real].double().norm(dim=-1),
            whole[real].double().norm(dim=-1),
        )
        total += float((change / size.clamp(min=1e-12)).sum())
        count += int(real.sum())
    return total / max(1, count)


def corrected(ratios: list[float], logs: list[float], strength: float) -> list[float]:
    """ratios + strength * (standardized logs): blocks whose errors grow keep more.

    ratios, logs: one a block (or linear). Strength 0, or equal logs, change nothing.
    """
    if not strength or max(logs) == min(logs):
        return list(ratios)
    values = torch.tensor(logs, dtype=torch.float64)
    scores = (values - values.mean()) / values.std(correction=0)
    return [ratio + strength * float(z) for ratio, z in zip(ratios, scores, strict=True)]
