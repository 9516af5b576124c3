"""One training loop for pruning and recovery: distil, watch held-out text, keep the best."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgeprune.base import processor
from edgeprune.base.errors import UserError
from edgeprune.compress.distil.answers import Answers
from edgeprune.compress.distil.course import Course, course
from edgeprune.compress.distil.settings import DistilSettings, TrainSettings
from edgeprune.compress.distil.together import add_up, check_alike, share, whole
from edgeprune.compress.objectives.objective import Objective, objective_of
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch

Gradients = Mapping[Tensor, Tensor]
"""A tensor -> the gradient of something with respect to it."""

Probe = Callable[[Any, Batch], Gradients]
"""(student's output, batch) -> gradients that tell a pruner what units do. They move no weight."""


class Watcher(Protocol):
    """An observer of every step: a pruner, or masks that are held."""

    def observe(self, probed: Gradients) -> bool:
        """Called with whole gradients, before clipping, and beside them what the probe says; False
        leaves the optimizer's step out."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after the optimizer's step."""


class HeldMasks:
    """Keeps pruned weights exactly zero while the rest is trained."""

    def __init__(self, model: Model, masks: Mapping[str, Tensor]) -> None:
        self._held = [(model.linear(name).weight, mask.bool()) for name, mask in masks.items()]

    def observe(self, probed: Gradients) -> bool:
        """Take the gradient of pruned weights away."""
        for weight, mask in self._held:
            if weight.grad is not None:
                weight.grad.mul_(mask)
        return True

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo what momentum and weight decay did to pruned weights."""
        for weight, mask in self._held:
            weight.mul_(mask)


def distil(
    student: Model,
    original: Model,
    batches: Iterator[Batch],
    held_out: Sequence[Batch],
    settings: TrainSettings,
    what: str,
    watchers: Sequence[Watcher] = (),
    probe: Probe | None = None,
    best_from: int = 0,
    minutes: float | None = None,
    answers: Answers | None = None,
    watched: Sequence[Tensor] = (),
) -> dict[str, Any]:
    """Train `student` towards `original`; it is left with its best weights on held-out text.

    Args:
        what: named in the progress bar.
        probe: what a pruner learns from beside the training loss.
        best_from: the first step whose weights may be chosen (a pruner needs its last ones).
        minutes: how long to train, in place of the settings' steps.
        answers: the original's, where they are kept.
        watched: leaves whose gradients watchers read, beside the weights that are trained.

    Returns:
        The trajectory: a row of step, loss and learning rate for every held-out check.

    Raises:
        UserError: the loss is not a finite number, or processes that train together cannot go on.
    """
    objective = objective_of(student)
    weights = list(trained_weights(student, settings))
    table = looked_up(student, settings)
    dense = [weight for weight in weights if table is None or weight is not table.weight]
    optimizer = torch.optim.AdamW(
        dense, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    optimizers: list[torch.optim.Optimizer] = [optimizer]
    if table is not None:
        optimizers.append(torch.optim.SparseAdam([table.weight], lr=settings.learning_rate))
    steps = course(settings, what, minutes)
    history: list[dict[str, float]] = []
    best, best_loss = None, math.inf
    for step in steps:
        for each, times in zip(optimizers, (1.0, settings.embedding_rate), strict=False):
            each.param_groups[0]["lr"] = times * steps.rate
            each.zero_grad(set_to_none=True)
        batch = next(batches)
        loss, output = _loss(student, original, batch, objective, settings, answers)
        _check_finite(loss.item(), f"The loss of {what}", step, steps)
        loss.backward(retain_graph=probe is not None)
        probed = probe(output, batch) if probe is not None else {}
        add_up([*weights, *watched], probed)
        seen = [watcher.observe(probed) for watcher in watchers]
        if all(seen):
            nn.utils.clip_grad_norm_(dense, settings.clip_norm)
            for each in optimizers:
                each.step()
        for watcher in watchers:
            watcher.after_step(optimizer)
        if steps.due():
            check_alike(weights)
            held = held_out_loss(student, original, held_out, objective, settings, answers)
            _check_finite(held, f"The held-out loss of {what}", step, steps)
            history.append(
                {"step": step, "learning_rate": steps.rate, "loss": loss.item(), "held_out": held}
            )
            if step >= best_from and held < best_loss:
                best, best_loss = _snapshot(student), held
    if table is not None:
        table.sparse = False
    if best is not None:
        student.module.load_state_dict(best, strict=False)
    chosen = min((row for row in history if row["step"] >= best_from), key=lambda r: r["held_out"])
    return {"checks": history, "best_step": int(chosen["step"]), "held_out": chosen["held_out"]}


def kept_answers(original: Model, settings: DistilSettings, output: Path) -> Answers | None:
    """The original's answers on disk; None where they are not kept.

    Args:
        output: the build's, in which they lie unless the settings name a folder.
    """
    objective = objective_of(original)
    if not settings.answers_megabytes or not objective.by_text:
        return None
    if objective.reads_hidden_states(settings):
        return None
    folder = settings.answers or output / "answers"
    return Answers(folder, original, objective, settings.answers_megabytes)


def _check_finite(loss: float, which: str, step: int, steps: Course) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"{which} is {loss} at step {step} {steps.end}; "
            "lower its learning_rate. Nothing of this stage was kept."
        )


def trained_weights(model: Model, settings: TrainSettings) -> Iterator[nn.Parameter]:
    """The parameters that are trained; the others are frozen."""
    tables = tuple(f"{name}." for name in model.anatomy.embeddings.values())
    for name, parameter in model.module.named_parameters():
        trained = settings.train_embeddings or not name.startswith(tables)
        parameter.requires_grad_(trained)
        if trained:
            yield parameter


def looked_up(model: Model, settings: TrainSettings) -> nn.Embedding | None:
    """The table of words where it is trained and only looked up, made to give gradients of the rows
    that a batch has; None where it is not, or is a head's weight as well."""
    if not settings.train_embeddings or model.anatomy.tied_embeddings:
        return None
    table = model.module.get_submodule(model.anatomy.embeddings["word"])
    if not isinstance(table, nn.Embedding):
        return None
    table.sparse = True
    return table


@torch.no_grad()
def held_out_loss(
    student: Model,
    original: Model,
    held_out: Sequence[Batch],
    objective: Objective,
    settings: TrainSettings,
    answers: Answers | None = None,
) -> float:
    """Mean objective over the held-out batches, each weighted by its sequences."""
    total = sum(
        float(_loss(student, original, batch, objective, settings, answers)[0])
        * len(batch.input_ids)
        for batch in held_out
    )
    return total / sum(len(batch.input_ids) for batch in held_out)


def _loss(
    student: Model,
    original: Model,
    batch: Batch,
    objective: Objective,
    settings: TrainSettings,
    answers: Answers | None,
) -> tuple[Tensor, Any]:
    own = share(batch)
    if answers is not None:
        with precision(settings):
            wanted, output = whole((answers.of(own), student.run(own)), batch)
        return objective.loss_from(output, wanted, batch, settings), output
    hidden = {"output_hidden_states": objective.reads_hidden_states(settings)}
    with precision(settings):
        with torch.no_grad():
            teacher = original.run(own, **hidden)
        teacher, output = whole((teacher, student.run(own, **hidden)), batch)
    return objective.loss(output, teacher, batch, settings), output


def precision(settings: TrainSettings) -> contextlib.AbstractContextManager[Any]:
    """The context in which matrix products run in the precision that was asked for."""
    wanted = settings.precision
    if wanted == "auto":
        wanted = "bfloat16" if _has_bfloat16() else "float32"
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted == "bfloat16")


def _has_bfloat16() -> bool:
    """The processor multiplies bfloat16 in hardware: emulated, it is slower."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & processor.flags())


def _snapshot(model: Model) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in model.module.named_parameters()
        if parameter.requires_grad
    }
