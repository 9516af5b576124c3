"""Run text through a model once and score its channels and heads for a one-shot cut."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.base.progress import track
from edgeprune.compress.calibrate.gates import HEADS, Gate, make_gates
from edgeprune.compress.calibrate.watch import watch_inputs, watching
from edgeprune.compress.cut.scores import Fisher, Flap, Moments, ProbePruning, Taylor, magnitude
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.model.model import Model
from edgeprune.model.restored import gradients_of_activations
from edgeprune.text.batches import Batch, text_by_text


def unit_scores(
    model: Model, batches: Sequence[Batch], kinds: Sequence[str], score: str, seed: int
) -> dict[str, list[Tensor]]:
    """Scores [units] per layer of the channels and heads of `kinds`, higher meaning keep.

    The units of a decoder's heads are whole slots: one query head of every key-value group.

    Args:
        score: fisher, taylor, flap, probe_pruning or magnitude, as scores.py defines them.
    """
    gates = [gate for kind in kinds for gate in make_gates(model, kind)]
    found = _SCORES[score](model, gates, _apart(model, batches), seed)
    return {
        kind: [_by_unit(found[gate.name], gate) for gate in gates if gate.kind == kind]
        for kind in kinds
    }


def means(model: Model, gates: list[Gate], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Means over tokens of what each gate multiplies [columns], float64, by the gate's name."""
    moments = {gate.name: Moments(len(gate.value) * gate.unit_size) for gate in gates}
    _feed(moments, model, gates, _apart(model, batches))
    return {name: found.mean for name, found in moments.items()}


def _apart(model: Model, batches: Sequence[Batch]) -> Sequence[Batch]:
    """Text by text where there are experts: they do not know whose tokens they see."""
    mixed = any(block.experts for block in model.anatomy.blocks)
    return text_by_text(batches) if mixed else batches


def _by_unit(scores: Tensor, gate: Gate) -> Tensor:
    if gate.groups is None:
        return scores
    units = torch.zeros(int(gate.groups.max()) + 1, dtype=scores.dtype)
    return units.index_add(0, gate.groups, scores)


def _by_gradients(make: Callable[[int, int], Any]) -> Callable[..., dict[str, Tensor]]:
    def score(
        model: Model, gates: list[Gate], batches: Sequence[Batch], seed: int
    ) -> dict[str, Tensor]:
        scorers = {gate.name: make(len(gate.value), gate.unit_size) for gate in gates}
        for captured in _with_gradients(model, gates, batches, seed):
            for name, (h, gradient) in captured.items():
                scorers[name].add(h, gradient)
        return {name: scorer.finish() for name, scorer in scorers.items()}

    return score


def _activations(make: Callable[[Gate, nn.Linear], Any]) -> Callable[..., dict[str, Tensor]]:
    def score(
        model: Model, gates: list[Gate], batches: Sequence[Batch], seed: int
    ) -> dict[str, Tensor]:
        scorers = {gate.name: make(gate, model.linear(gate.name)) for gate in gates}
        _feed(scorers, model, gates, batches)
        found = {}
        for name, scorer in scorers.items():
            with model.opened(name):
                found[name] = scorer.finish(model.linear(name).weight)
        return found

    return score


def _feed(
    scorers: Mapping[str, Any], model: Model, gates: list[Gate], batches: Sequence[Batch]
) -> None:
    """Give every gate's scorer what the gate multiplies [tokens, columns], padding left out."""
    names = [gate.name for gate in gates]
    watch_inputs(model, names, batches, lambda name, h: scorers[name].add(h), "scoring")


def _magnitude(
    model: Model, gates: list[Gate], batches: Sequence[Batch], seed: int
) -> dict[str, Tensor]:
    found, blocks = {}, model.anatomy.blocks
    for gate in gates:
        inside = next(block.name for block in blocks if gate.name in block.linears())
        with model.opened(inside):
            found[gate.name] = _weight_norms(model, gate)
    return found


def _weight_norms(model: Model, gate: Gate) -> Tensor:
    if gate.kind == HEADS:
        block = model.anatomy.blocks[gate.layer]
        incoming = [model.linear(block.attention.query).weight]
        if gate.groups is None:
            incoming += [
                model.linear(n).weight for n in (block.attention.key, block.attention.value)
            ]
    else:
        part = model.anatomy.feed_forwards[gate.layer]
        incoming = [model.linear(name).weight for name in (part.gate, part.up) if name]
    return magnitude(incoming, [model.linear(gate.name).weight], gate.unit_size)


_SCORES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "fisher": _by_gradients(Fisher),
    "taylor": _by_gradients(Taylor),
    "flap": _activations(
        lambda gate, linear: Flap(len(gate.value), gate.unit_size, linear.bias is not None)
    ),
    "probe_pruning": _activations(
        lambda gate, linear: ProbePruning(len(gate.value), gate.unit_size)
    ),
    "magnitude": _magnitude,
}


def _with_gradients(
    model: Model, gates: list[Gate], batches: Sequence[Batch], seed: int
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """The tensor that every gate multiplies, with its gradient, both [texts, tokens, columns]; of a
    layer that runs again, those of every time behind each other."""
    generator = torch.Generator().manual_seed(seed)
    objective = objective_of(model)
    captured: dict[str, list[Tensor]] = defaultdict(list)

    def capture(name: str, h: Tensor) -> None:
        h.retain_grad()
        captured[name].append(h)

    modules = {gate.name: model.linear(gate.name) for gate in gates}
    with gradients_of_activations(model), watching(modules, capture):
        for batch in track(batches, "scoring", len(batches)):
            captured.clear()  # an expert that no token reaches has nothing
            objective.probe(model.run(batch), batch, generator).backward()
            texts = len(batch.input_ids)
            found = {}
            for name, times in captured.items():
                reached = [(h, h.grad) for h in times if h.grad is not None]
                if reached:
                    h, gradient = (
                        torch.cat([each.reshape(texts, -1, each.shape[-1]) for each in part], 1)
                        for part in zip(*reached, strict=True)
                    )
                    found[name] = (h, gradient)
            yield found
