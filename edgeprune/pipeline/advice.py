"""When to take which method: what each is for, and what the comparison of them found. No torch.

`benchmarks/pruning.py` writes its figures into advice.json beside this file. Of methods that do
the same work, one that another beats in both loss and time has no reason here; the others are best
up to some time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.base.files import read_object
from edgeprune.compress.prune.methods import METHODS as PRUNING

MEASURED = Path(__file__).with_name("advice.json")


@dataclass(frozen=True)
class Method:
    """purpose: what it is for. cell: the row of the comparison that measures it, if one does."""

    purpose: str
    cell: str | None = None


@dataclass(frozen=True)
class Subject:
    """A model of the comparison. measure: the key of its quality in a row. shown: a template for
    `result` and the `original`'s. sign: -1 where more is better."""

    name: str
    measure: str
    shown: str
    sign: int


SUBJECTS = {
    "SmolLM2": Subject(
        "SmolLM2-135M", "perplexity", "perplexity {result:.1f} (original {original:.1f})", 1
    ),
    "MiniLM": Subject("MiniLM-L6", "cosine", "cosine {result:.3f} to the original", -1),
}
"""A model's name in the comparison -> what is read of its rows; STS-B hardly tells them apart."""

Measured = Mapping[str, Mapping[str, Mapping[str, float]]]
"""A model -> cell -> quality, seconds and threads."""


_CELLS = {"momentum-variance": None, "search": "wanda, 50 %, evopress"}
"""Of methods of pruning, where a row of the comparison is not called after them."""

METHODS: dict[str, dict[str, Method]] = {
    "prune.method": {
        name: Method(method.purpose, _CELLS.get(name, f"{name}, 50 % weights"))
        for name, method in PRUNING.items()
    },
    "prune.allocate": {
        "uniform": Method("The same share of every linear.", "wanda, 50 % weights"),
        "owl": Method("More for layers with outliers among their scores.", "wanda, 50 %, owl"),
        "projection": Method("The same, linear by linear.", "wanda, 50 %, projection"),
        "marchenko-pastur": Method(
            "Less for linears whose spectrum looks like noise: an experiment.",
            "wanda, 50 %, marchenko-pastur",
        ),
        "coverage": Method("The same share of every linear's scores.", "wanda, 50 %, coverage"),
        "depth": Method("A share that changes linearly with depth.", "wanda, 50 %, depth"),
        "absorption": Method(
            "Another allocator, corrected by what later layers make of errors.",
            "wanda, 50 %, absorption",
        ),
    },
    "cut.compensate": {
        "false": Method("The channels that stay are as they were.", "20 % channels"),
        "true": Method(
            "They are refitted to the text by least squares.", "20 % channels, compensated"
        ),
    },
    "cut.layer_score": {
        "loss": Method("Each layer left out once; the rest taken together.", "20 % layers, loss"),
        "taylor": Method("One backward pass; the ends stay (Taylor+).", "20 % layers, taylor"),
        "linearity": Method("One pass; simple layers go.", "20 % layers, linearity"),
        "search": Method("Whole sets of layers are tried.", "20 % layers, search"),
    },
}
"""Setting -> its value -> what that is for."""


def cells() -> set[str]:
    """The rows of the comparison that are read here, of each model."""
    every = {each.cell for group in METHODS.values() for each in group.values() if each.cell}
    return every | {"original"}


def advice(measured: Measured | None = None) -> list[dict[str, str]]:
    """Of every method: the setting, its value, what it is for, and what was found.

    Args:
        measured: None reads what the comparison wrote.
    """
    rows = read() if measured is None else measured
    return [
        {
            "setting": setting,
            "value": value,
            "purpose": method.purpose,
            "found": _found(value, group, rows) if method.cell and rows else "",
        }
        for setting, group in METHODS.items()
        for value, method in group.items()
    ]


def read(file: Path = MEASURED) -> dict[str, Any]:
    """Read what `write` left; nothing where the comparison never ran."""
    return read_object(file)


def write(rows: Mapping[str, Mapping[str, Any]], file: Path = MEASURED) -> None:
    """Keep what advice needs of the comparison's rows, "model, cell" -> its line of the results."""
    kept = {
        model: {
            cell: {key: row[key] for key in (subject.measure, "seconds", "threads")}
            for cell in sorted(cells())
            if (row := rows.get(f"{model}, {cell}"))
        }
        for model, subject in SUBJECTS.items()
    }
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _found(value: str, group: Mapping[str, Method], measured: Measured) -> str:
    """A sentence a model on one method beside the others of its group."""
    said = [
        _judged(value, group, subject, measured.get(model, {}))
        for model, subject in SUBJECTS.items()
    ]
    return " ".join(filter(None, said)) or "Not measured yet."


def _judged(
    value: str,
    group: Mapping[str, Method],
    subject: Subject,
    rows: Mapping[str, Mapping[str, float]],
) -> str:
    cell = group[value].cell
    if cell is None or cell not in rows or "original" not in rows:
        return ""

    def loss(row: Mapping[str, float]) -> float:
        return subject.sign * row[subject.measure]

    result, original = rows[cell], rows["original"]
    shown = subject.shown.format(result=result[subject.measure], original=original[subject.measure])
    figures = f"{subject.name}, {cell}: {shown} in {_time(result)}"
    others = {
        name: rows[other.cell]
        for name, other in group.items()
        if name != value and other.cell and other.cell in rows
    }
    better = [name for name, row in others.items() if loss(row) < loss(result)]
    quicker = [name for name in better if _work(others[name]) <= _work(result)]
    if quicker:
        best = min(quicker, key=lambda name: loss(others[name]))
        return f"{figures}: {best} loses less in no more time."
    if better:
        soonest = min(better, key=lambda name: _work(others[name]))
        return f"{figures}: the least loss short of {soonest}'s {_time(others[soonest])}."
    for name, row in others.items():
        if loss(row) == loss(result) and _work(row) < _work(result):
            return f"{figures}: {name} loses as little in less time."
    return f"{figures}: the least loss of all." if others else f"{figures}."


def _work(row: Mapping[str, float]) -> float:
    """Seconds of one core: rows are not all of as many threads."""
    return row["seconds"] * row["threads"]


def _time(row: Mapping[str, float]) -> str:
    seconds, threads = row["seconds"], row["threads"]
    time = f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"
    return f"{time} on {threads} thread{'' if threads == 1 else 's'}"
