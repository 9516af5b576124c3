"""Remove whole experts from mixtures of experts: score them on text, choose, cut.

Every layer keeps equally many, so that the configuration's one count stays true.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.base.errors import UserError
from edgeprune.base.progress import track
from edgeprune.compress.cut.surgery import channels_by_layer
from edgeprune.compress.cut.tenp import ExpertScore
from edgeprune.compress.maths.ranking import highest
from edgeprune.model.anatomy import Experts
from edgeprune.model.model import Model
from edgeprune.model.settings import with_experts
from edgeprune.text.batches import Batch, text_by_text


def drop_experts(model: Model, scores: Sequence[Tensor], share: float) -> list[list[int]]:
    """Remove round(share * experts) of every mixture, the lowest scores [experts]; return which
    are left, mixture by mixture.

    Raises:
        UserError: fewer would be left than a token is given to.
    """
    kept = [highest(s, len(s) - round(share * len(s))).nonzero().flatten().tolist() for s in scores]
    keep_experts(model, kept)
    return kept


def keep_experts(model: Model, kept: Sequence[Sequence[int]]) -> None:
    """Keep only the experts `kept` (present positions) of every mixture; routers and the
    configuration follow. Tokens go where they would if the others could not be chosen.

    Raises:
        UserError: the mixtures would differ in size, or be smaller than what a token is given to.
    """
    blocks = model.anatomy.blocks
    mixtures = [block.experts for block in blocks if block.experts is not None]
    counts = {len(own) for own in kept}
    if len(counts) != 1 or len(kept) != len(mixtures):
        raise UserError(f"Every mixture must keep equally many experts, not {sorted(counts)}.")
    [count] = counts
    if count < mixtures[0].active:
        raise UserError(
            f"{count} of {mixtures[0].count} experts would be left, and every token is given to "
            f"{mixtures[0].active}: lower cut.experts."
        )
    left = iter(kept)
    channels = []
    for block, own in zip(blocks, channels_by_layer(model, blocks), strict=True):
        if block.experts is None:
            channels += own
            continue
        index = sorted(next(left))
        _keep(model, block.experts, index)
        channels += [own[place] for place in index] + own[block.experts.count :]
    model.channels = channels
    changed = with_experts(model.config, count)
    model.config |= changed
    for name, value in changed.items():
        setattr(model.module.config, name, value)


def _keep(model: Model, part: Experts, index: list[int]) -> None:
    experts: Any = model.module.get_submodule(part.path)
    model.module.set_submodule(part.path, nn.ModuleList([experts[place] for place in index]))
    router = model.linear(part.router)
    router.weight = nn.Parameter(router.weight.detach()[index].clone())
    router.out_features = len(index)


@torch.no_grad()
def expert_scores(model: Model, batches: Sequence[Batch]) -> list[Tensor]:
    """TENP's scores [experts] of every mixture, on text.

    Raises:
        UserError: the model has no mixture of experts.
    """
    mixtures = [block.experts for block in model.anatomy.blocks if block.experts is not None]
    if not mixtures:
        raise UserError("cut.experts is for mixtures of experts, and this model has none.")
    scores = [[ExpertScore() for _ in range(part.count)] for part in mixtures]
    routed: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        handle
        for part, own in zip(mixtures, scores, strict=True)
        for handle in _watch(model, part, own, routed)
    ]
    tokens = 0
    try:
        texts = text_by_text(batches)
        for batch in track(texts, "scoring experts", len(texts)):
            model.run(batch)
            tokens += batch.input_ids.size
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.tensor([score.finish(tokens) for score in own], dtype=torch.float64) for own in scores
    ]


def _watch(
    model: Model, part: Experts, scores: list[ExpertScore], routed: dict[str, tuple[Tensor, Tensor]]
) -> list[Any]:
    """Hooks that note where the router sends tokens, and score what every expert makes of them."""

    def route(_module: nn.Module, _args: Any, logits: Tensor) -> None:
        weights, chosen = logits.float().softmax(-1).topk(part.active, -1)
        if part.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        routed[part.router] = weights, chosen

    def score(number: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            weights, chosen = routed[part.router]
            scores[number].add(args[0], output, weights[chosen == number])

        return hook

    experts: Any = model.module.get_submodule(part.path)
    return [
        model.linear(part.router).register_forward_hook(route),
        *(expert.register_forward_hook(score(n)) for n, expert in enumerate(experts)),
    ]
