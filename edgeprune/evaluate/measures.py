"""The quality measures by name, and how one is run on a bundle."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError
from edgeprune.evaluate.result import Quality


@dataclass(frozen=True)
class Measure:
    """Where a measure's function is, and what it needs."""

    function: str  # "module:function", imported on use
    task: str  # of the bundles that it fits
    against_original: bool = False  # whether it compares two models token by token or text by text
    windowed: bool = False  # whether it takes windows of tokens


MEASURES = {
    "sts": Measure("edgeprune.evaluate.sts:sts", "feature-extraction"),
    "cosine": Measure(
        "edgeprune.evaluate.cosine:cosine", "feature-extraction", against_original=True
    ),
    "classification": Measure(
        "edgeprune.evaluate.classification:classification", "text-classification"
    ),
    "perplexity": Measure(
        "edgeprune.evaluate.perplexity:perplexity", "text-generation", windowed=True
    ),
    "kl": Measure(
        "edgeprune.evaluate.kl:kl", "text-generation", against_original=True, windowed=True
    ),
}


def evaluate(
    bundle: str | Path | Bundle,
    task: str,
    data: str | Path,
    limit: int | None = None,
    against: str | Path | Bundle | None = None,
    window: int | None = None,
) -> dict[str, Any]:
    """Measure a bundle's quality, beside the original's where `against` names it.

    Args:
        task: a name in MEASURES.
        data: the file (or folder of text) that the measure reads.
        limit: rows, texts or windows at most.
        against: the original: a bundle, an ONNX folder, or a Hugging Face folder.
        window: tokens of a window, for perplexity and kl; 512 where not given.

    Returns:
        A dict of plain JSON values: "task", "data", "bundle", "against", "conditions" (counts),
        "values", and with `against` "original" (values) and "difference" (values - original) where
        the measure is one model's own.

    Raises:
        UserError: an unknown task, one that does not fit the bundle, or bad data.
    """
    from edgeprune.bench.contestants import opened, place_name

    measure = _find(task)
    if limit is not None and limit < 1:
        raise UserError(f"The limit must be at least 1, not {limit}.")
    if window is not None and (window < 2 or not measure.windowed):
        raise UserError(f"A window needs two tokens or more, and {task} must take windows.")
    if measure.against_original and against is None:
        raise UserError(f"{task} compares with the original: name it with --against.")
    options: dict[str, Any] = {"data": Path(data), "limit": limit}
    if window is not None:
        options["window"] = window
    module, name = measure.function.split(":")
    function: Callable[..., Quality] = getattr(import_module(module), name)

    def run(*bundles: Bundle) -> Quality:
        quality = function(*bundles, **options)
        if not all(isfinite(value) for value in quality.values.values()):
            raise UserError(f"{bundles[0].folder} gives outputs that are no numbers: {task} fails.")
        return quality

    with ExitStack() as stack:
        ours = _fitting(stack.enter_context(opened(bundle)), task, measure)
        result: dict[str, Any] = {"task": task, "data": str(data), "bundle": place_name(bundle)}
        if against is None:
            found = run(ours)
            return result | {"conditions": found.conditions, "values": found.values}
        theirs = _fitting(stack.enter_context(opened(against)), task, measure)
        result["against"] = place_name(against)
        if measure.against_original:
            found = run(ours, theirs)
            return result | {"conditions": found.conditions, "values": found.values}
        found, original = run(ours), run(theirs)
    difference = {key: value - original.values[key] for key, value in found.values.items()}
    return result | {
        "conditions": found.conditions,
        "values": found.values,
        "original": original.values,
        "difference": difference,
    }


def _find(task: str) -> Measure:
    if task not in MEASURES:
        near = get_close_matches(task, MEASURES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"There is no measure {task!r}: take one of {', '.join(MEASURES)}.{hint}")
    return MEASURES[task]


def _fitting(bundle: Bundle, task: str, measure: Measure) -> Bundle:
    bundle.verify()
    if bundle.task != measure.task:
        fitting = [name for name, each in MEASURES.items() if each.task == bundle.task]
        raise UserError(
            f"{task} measures {measure.task}, and {bundle.folder} does {bundle.task}: "
            f"take {' or '.join(fitting)}."
        )
    return bundle
