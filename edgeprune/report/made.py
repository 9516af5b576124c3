"""The title and the sentence of what was made of which model: of the stages that ran, and what they
did. A recipe's own description is of its settings as they ship, and of no model."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.base.words import listed, many
from edgeprune.compress.facts import UNITS, Removed
from edgeprune.compress.prune.row import pruned_noun
from edgeprune.report.records import BuildRecord

_TRAINING = ("prune", "shape", "sparsify", "recover")
_MARGINAL = 0.01
"""Share of the weights below which a format is not worth a word: norms, and tables of two rows."""


@dataclass(frozen=True)
class Made:
    """A model and what became of it."""

    model: str
    removed: Sequence[Removed] = ()
    steps: int = 0
    """Of training, pruning's and recovery's."""
    formats: Sequence[str] = ()
    """The formats that weights are stored in, the most common first; empty where all are
    float32."""

    @property
    def title(self) -> str:
        """The model, and what became of it in a few words."""
        stored = [f"in {listed(self.formats)}"] if self.formats else []
        words = [*dict.fromkeys(part.word for part in self.removed), *stored]
        return f"{self.model}, {listed(words) or 'unchanged'}"

    @property
    def name(self) -> str:
        """The same as a name without blanks, for a folder or a repository."""
        words = dict.fromkeys(part.word for part in self.removed)
        parts = [self.model, *words, *(each.lower() for each in self.formats)]
        return "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)

    @property
    def sentence(self) -> str:
        """Shares, steps and formats."""
        removed = f"{listed(list(map(str, self.removed))) or 'nothing'} removed"
        trained = f"{many(self.steps, 'step')} of distillation" if self.steps else "nothing trained"
        stored = f"weights in {listed(self.formats or ['float32'])}"
        text = f"{removed}, {trained}, {stored}."
        return text[0].upper() + text[1:]


def made(record: BuildRecord) -> Made:
    """The changes that a build's stages made to its model."""
    trained = (record.stage(name).get("checks") for name in _TRAINING)
    return Made(
        model_name(record.model),
        [*_tokens(record.stage("vocabulary")), *_cut(record), *_pruned(record)],
        sum(checks[-1]["step"] for checks in trained if checks),
        format_names(_weights(record.stage("quantize").get("plan", {}).get("entries", []))),
    )


def model_name(source: str) -> str:
    """The name of a model given as a folder, a file, a hub id or package:NAME."""
    name = source.removeprefix("package:").rstrip("/").rpartition("/")[2]
    return name.removesuffix(".gguf") or source


def format_names(weights: Mapping[int, int]) -> list[str]:
    """The formats of stored weights, the most common first; nothing where all are float32.

    Args:
        weights: bits of a weight -> how many weights have them.
    """
    counts: Counter[str] = Counter()
    for bits, count in weights.items():
        counts["INT4" if bits <= 4 else "INT8" if bits <= 8 else "float32"] += count
    total = counts.total()
    found = [name for name, count in counts.most_common() if count >= _MARGINAL * total]
    return [] if found == ["float32"] else found


def _weights(entries: Iterable[Mapping[str, Any]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for entry in entries:
        if entry["tied_to"] is None:
            plain = 32 if entry["format"] == "float32" else 8  # earlier plans name no bits
            counts[entry.get("bits", plain)] += entry["shape"][0] * entry["shape"][1]
    return counts


def _tokens(did: Mapping[str, Any]) -> list[Removed]:
    if not did:
        return []
    return [Removed("tokens", did["tokens_before"] - did["tokens"], did["tokens_before"])]


def _cut(record: BuildRecord) -> list[Removed]:
    """Layers that are gone, and heads and channels of those that are left."""
    cut, load = record.stage("cut") or record.stage("shape"), record.stage("load")
    if not cut:
        return []
    if "heads" not in load:
        return [Removed("channels and heads", 0, 0)]
    total = len(load["heads"])
    left = cut.get("layers", list(range(total)))
    found = [Removed("layers", total - len(left), total)]
    for what, noun in UNITS.items():
        before = load[what]
        if len(before) == total:  # else experts have feed-forwards of their own
            before = [before[layer] for layer in left]
        found.append(Removed(noun, sum(before) - sum(cut[what]), sum(before)))
    return [part for part in found if part.gone]


def _pruned(record: BuildRecord) -> list[Removed]:
    """Weights that are zero, by one shot or by training."""
    found = []
    for stage in ("prune", "sparsify"):
        did, left = record.stage(stage), stage == "sparsify"
        parts = [(pool, pool["units"]) for pool in did.get("pools", [])]
        parts += [(did, did["weights"])] if "layers" in did else []
        found += [
            Removed(pruned_noun(part["pattern"], left), part["removed"], total, "pruned")
            for part, total in parts
            if part["pattern"] not in UNITS
        ]
    return found
