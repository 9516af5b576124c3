"""A quality measure class by class and language by language, in sentences and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.base.words import listed, many, number
from edgeprune.measure.evaluate.data import LANGUAGE
from edgeprune.measure.evaluate.result import LOWER_IS_BETTER, Changes, Evaluation, Summary
from edgeprune.measure.evaluate.summary import worst_first
from edgeprune.report.figures import Cell, cell, changed
from edgeprune.report.records import Known, data_name

_NAMED = 3
"""Classes or languages that are named of many."""


@dataclass(frozen=True)
class Breakdown:
    """One measure's values of every class, or of every language."""

    noun: str
    plural: str
    key: str
    """The value by which they are put in order, the measure's main one."""
    parts: Mapping[str, Summary]
    data: str
    changes: Changes | None = None
    """Of classes: the texts that only one of the two models has right."""

    @property
    def words(self) -> str:
        """That value's name, in words."""
        return "F1" if self.key == "f1" else self.key.replace("_", " ")

    def told(self) -> list[str]:
        """Those that lost most, the worst ones, and what changed from right to wrong, a sentence
        each."""
        lines = [self._lost()] if any(each.original for each in self.parts.values()) else []
        lines.append(self._worst())
        return lines + ([_turned(self.changes)] if self.changes else [])

    def _lost(self) -> str:
        sign = -1 if self.key in LOWER_IS_BETTER else 1
        lost = [
            f"{name} ({_number((each.original or {}).get(self.key))} to "
            f"{_number(each.values[self.key])}, {many(each.rows or 0, 'row')})"
            for name, each in worst_first(self.parts, self.key)
            if sign * ((each.difference or {}).get(self.key) or 0.0) < 0
        ]
        of = f"{self.words} of {many(len(self.parts), self.noun, self.plural)} on {self.data}"
        most = f"{len(lost):,} became worse, most {listed(lost[:_NAMED])}" if lost else "none worse"
        return f"{of[0].upper()}{of[1:]}: {most}."

    def _worst(self) -> str:
        alone = {
            name: Summary(values=each.values, interval={}) for name, each in self.parts.items()
        }
        named = [
            f"{name} ({_number(each.values[self.key])})"
            for name, each in worst_first(alone, self.key)[:_NAMED]
        ]
        kind = self.plural if len(named) > 1 else self.noun
        return f"The {kind} of the worst {self.words} on {self.data}: {listed(named)}."

    def rows(self) -> tuple[Sequence[str], list[list[str | Cell]]]:
        """The head of a table, and a row of each, those that lost most first."""
        paired = any(each.original for each in self.parts.values())
        first = next(iter(self.parts.values()))
        others = [name for name in first.values if name != self.key]
        head = [f"{self.noun}, {self.data}", "rows"]
        head += [f"{self.words}, original", self.words, "change"] if paired else [self.words]
        head += [name.replace("_", " ") for name in others]
        head += ["right to wrong", "wrong to right"] if self.changes else []
        found: list[list[str | Cell]] = []
        for name, each in worst_first(self.parts, self.key):
            row: list[str | Cell] = [name, f"{each.rows or 0:,}", *self._figures(each)]
            row += [_number(each.values[other]) for other in others]
            if self.changes:
                turned = self.changes
                by_class = (turned.right_to_wrong_by_class, turned.wrong_to_right_by_class)
                row += [f"{counts.get(name, 0):,}" for counts in by_class]
            found.append(row)
        return head, found

    def _figures(self, found: Summary) -> list[str | Cell]:
        """The main value; beside an original's, their difference."""
        value, key = found.values[self.key], self.key
        if found.original is None:
            known = value is not None and cell(Known.of(value, found.interval.get(key)))
            return [known or "–"]
        difference = (found.difference or {}).get(key)
        ends = (found.difference_interval or {}).get(key)
        change = Cell("–") if difference is None else changed(key, Known.of(difference, ends))
        return [_number(found.original[key]), _number(value), change]


def breakdowns(quality: Evaluation) -> list[Breakdown]:
    """Of classes and of languages, where the measure has them."""
    data, main = data_name(quality.data), next(iter(quality.values))
    found = []
    if quality.classes:
        found.append(Breakdown("class", "classes", "f1", quality.classes, data, quality.changes))
    if quality.groups and quality.group == LANGUAGE:
        found.append(Breakdown("language", "languages", main, quality.groups, data))
    return found


def _turned(changes: Changes) -> str:
    lost = sorted(changes.right_to_wrong_by_class.items(), key=lambda entry: -entry[1])
    most = [f"{name} ({count:,})" for name, count in lost[:_NAMED] if count]
    which = f", most of {listed(most)}" if most else ""
    lost_in_all = many(changes.right_to_wrong, changes.of)
    return (
        f"{lost_in_all} that the original has right became wrong{which}; "
        f"{changes.wrong_to_right:,} became right. `edgeprune evaluate --against` shows some."
    )


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)
