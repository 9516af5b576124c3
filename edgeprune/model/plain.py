"""Plain linears for what some families store fused, stacked or transposed.

The rest of the house knows one kind of linear, (outputs, inputs), one of each for query, key
and value, and three for an expert; so a model's layers are brought into that form once, when it is
loaded. The function stays the same.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.model.anatomy import Anatomy
from edgeprune.model.disentangled import DisentangledAttention
from edgeprune.model.distances import read_distances
from edgeprune.model.family import Family, Fused
from edgeprune.model.settings import num_heads, query_rows


class Joined(nn.Module):
    """Linears of one input that answer as the fused one that they were."""

    def __init__(self, parts: Mapping[str, nn.Linear], heads: int | None) -> None:
        """`heads`: how many their answers are interleaved by; None where they follow whole."""
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.heads = heads

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] to [..., outputs of all]; interleaved, to [..., heads, 3 * head size]."""
        parts = [part(hidden) for part in self.children()]
        if self.heads is not None:
            parts = [part.unflatten(-1, (self.heads, -1)) for part in parts]
        return torch.cat(parts, -1)


class Expert(nn.Module):
    """A feed-forward whose gate and up projections are linears of their own."""

    def __init__(self, gate_up: Tensor, down: Tensor, activation: nn.Module) -> None:
        """gate_up: [2 * channels, width]; down: [width, channels]."""
        super().__init__()
        gate, up = gate_up.chunk(2)
        self.gate_proj, self.up_proj = _linear(gate, None), _linear(up, None)
        self.down_proj = _linear(down, None)
        self.activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, width] to the same."""
        answer: Tensor = self.down_proj(
            self.activation(self.gate_proj(hidden)) * self.up_proj(hidden)
        )
        return answer


class Mixture(nn.Module):
    """A mixture of experts, with its router and its experts as linears.

    Every token is given to those that its router likes best, and where there is a shared expert to
    that one too. An expert reads its tokens in the order of the text.
    """

    def __init__(self, stacked: Any) -> None:
        """stacked: transformers' own module, whose experts are rows of two tensors."""
        super().__init__()
        router, experts = stacked.gate, stacked.experts
        self.gate = _linear(router.weight, None)
        self.experts = nn.ModuleList(
            Expert(gate_up, down, experts.act_fn)
            for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True)
        )
        self.active = int(router.top_k)
        self.normalized = bool(getattr(router, "norm_topk_prob", True))
        self.shared_expert = getattr(stacked, "shared_expert", None)
        self.shared_expert_gate = getattr(stacked, "shared_expert_gate", None)

    def forward(self, hidden: Tensor) -> Tensor:
        """[texts, tokens, width] to the same."""
        flat = hidden.flatten(0, -2)
        weights, chosen = self.gate(flat).float().softmax(-1).topk(self.active, -1)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        answer = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            choice = chosen == number
            tokens, _ = torch.where(choice)
            # A traced graph has every expert, whatever the traced tokens chose.
            if torch.jit.is_tracing() or len(tokens):
                scaled = (expert(flat[tokens]) * weights[choice][:, None]).to(answer.dtype)
                answer = answer.index_put((tokens,), scaled, accumulate=True)
        if self.shared_expert is not None and self.shared_expert_gate is not None:
            answer = answer + self.shared_expert_gate(flat).sigmoid() * self.shared_expert(flat)
        return answer.view_as(hidden)


@torch.no_grad()
def make_plain(module: nn.Module, family: Family, config: Mapping[str, Any]) -> None:
    """Give a model of `family` plain linears in place of fused, stacked and transposed weights, and
    one set of angles for positions where longrope has two: those of texts that are taken (see
    `settings.short_length`).

    Args:
        config: the contents of its config.json.
    """
    rotary: Any
    for rotary in module.modules():
        if getattr(rotary, "rope_type", None) == "longrope":  # by which it looks for longer texts
            rotary.rope_type = "default"
    if family.experts is not None:
        for name, part in list(module.named_modules()):
            if name.endswith(f".{family.experts.module}") and hasattr(part, "experts"):
                module.set_submodule(name, Mixture(part))
    fused = {each.path: each for each in family.fused}
    turned = (family.output, family.up, family.down) if family.transposed else ()
    for name, part in list(module.named_modules()):
        path = next((path for path in (*fused, *turned) if name.endswith(f".{path}")), None)
        if path is None:
            continue
        weight = part.weight.T if family.transposed else part.weight
        if path in fused:
            module.set_submodule(name, _apart(fused[path], weight, part.bias, config))
        else:
            module.set_submodule(name, _linear(weight, part.bias))
    _let_head_own_bias(module, family.head)
    if distances := read_distances(config, family):
        for name, part in list(module.named_modules()):
            if name.endswith(f".{family.attention}"):
                module.set_submodule(name, DisentangledAttention(part, family, distances))


def _let_head_own_bias(module: Any, head: str) -> None:
    """Leave the bias of what yields logits of words in the linear alone; some families keep it
    under a second name, in the module around."""
    parts = dict(module.named_modules())
    around = head.rpartition(".")[0]
    if around and head in parts and getattr(parts[around], "bias", None) is not None:
        delattr(parts[around], "bias")
        tied = dict(module._tied_weights_keys or {})
        tied.pop(f"{head}.bias", None)
        module._tied_weights_keys = tied


def _apart(fused: Fused, weight: Tensor, bias: Tensor | None, config: Mapping[str, Any]) -> Joined:
    sizes = fused.sizes(len(weight), query_rows(config))
    heads = num_heads(config) if fused.interleaved else 1

    def split(rows: Tensor) -> list[Tensor]:
        parts = rows.unflatten(0, (heads, -1)).split([n // heads for n in sizes.values()], dim=1)
        return [part.flatten(0, 1) for part in parts]

    biases = [None] * len(sizes) if bias is None else split(bias)
    linears = [_linear(*each) for each in zip(split(weight), biases, strict=True)]
    parts = dict(zip(sizes, linears, strict=True))
    return Joined(parts, heads if fused.interleaved else None)


@torch.no_grad()
def fold_depth_scales(module: nn.Module, anatomy: Anatomy, config: dict[str, Any]) -> None:
    """Let queries carry what layers divide their attention scores by, where they do.

    A layer's place then says nothing about its function, so that others may leave before it; and
    transformers' fused attention, which does not know of the division, answers like the written-out
    one.

    Args:
        config: the configuration's content, which says so no longer.
    """
    setting = anatomy.family.depth_scaled
    if not setting or not config.get(setting):
        return
    for block in anatomy.blocks:
        for parameter in module.get_submodule(block.attention.query).parameters():
            parameter.div_(block.index + 1)
        attention: Any = module.get_submodule(block.attention.module)
        attention.scaling *= block.index + 1
    config[setting] = False
    for part in (module.config, *module.modules()):
        if hasattr(part, setting):
            setattr(part, setting, False)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        linear.bias = nn.Parameter(bias.flatten().clone())
    return linear
