"""Labels of classifiers: a number, or a name that the model's configuration has."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import isnan
from typing import Any

from edgeprune.base.errors import UserError

_SHOWN = 5


def label_names(config: Mapping[str, Any]) -> list[str]:
    """The names of a classifier's labels, in the order of their numbers.

    Where config.json names none they are LABEL_0, LABEL_1, ..., as transformers has them.
    """
    named = {str(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    count = len(named) or int(config.get("num_labels", 2))
    return [named.get(str(number), f"LABEL_{number}") for number in range(count)]


def label_numbers(values: Sequence[Any], names: Sequence[str], place: object) -> list[int]:
    """The numbers of labels that the data give as names or as numbers.

    Names may be numerals ("1" to "5"): they are read as names where every value is one, and as
    numbers otherwise.

    Raises:
        UserError: the model has no such label.
    """
    by_name = {name: number for number, name in enumerate(names)}
    texts = ["" if isinstance(value, bool) else str(value) for value in values]
    if all(text in by_name for text in texts):
        return [by_name[text] for text in texts]
    return [_number(value, names, place) for value in values]


def _number(value: Any, names: Sequence[str], place: object) -> int:
    try:
        number = float("nan" if isinstance(value, bool) else value)  # CSV has numbers as text
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number.is_integer() and 0 <= number < len(names):
        return int(number)
    if isnan(number) and value in names:
        return names.index(value)
    near = get_close_matches(str(value), names, n=1)
    shown = [*near, *(name for name in names if name not in near)][:_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    raise UserError(
        f"{place}: the label {_short(value)} is none of the model's {len(names)}: "
        f"{', '.join(shown)}{more}; or 0 to {len(names) - 1}."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
