"""Calls of tools in what a model writes, in the forms that models are trained on.

<tool_call>{"name": ..., "arguments": {...}}</tool_call>   Hermes, Qwen, SmolLM (also a list)
{"name": ..., "parameters": {...}}                         Llama 3
[{"name": ..., "arguments": {...}}]                        Mistral, after [TOOL_CALLS]
functools[{...}]                                           Phi
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edgeprune.text.stops import beginning

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_BLOCK = re.compile(rf"{_OPEN}(.*?)(?:{_CLOSE}|\Z)", re.DOTALL)
_PREFIXES = ("<|python_tag|>", "[TOOL_CALLS]", "functools")
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: str
    """As JSON."""


def find_calls(text: str, names: Collection[str]) -> tuple[str, list[Call]]:
    """The text without the calls of these tools, and the calls; all of it where there are none."""
    blocks = _BLOCK.findall(text)
    if blocks:
        found = [_calls(block, names) for block in blocks]
        if all(found):
            return _BLOCK.sub("", text).strip(), [call for calls in found for call in calls]
        return text, []
    whole = text.strip()
    for prefix in _PREFIXES:
        whole = whole.removeprefix(prefix)
    calls = _calls(whole, names)
    return ("", calls) if calls else (text, [])


def certain(text: str) -> int:
    """The number of a beginning text's characters that belong to no call, whatever follows."""
    start = text.lstrip()
    starts = ("{", *_PREFIXES, "[")
    if any(start.startswith(each) or each.startswith(start) for each in starts):
        return 0
    place = text.find(_OPEN)
    return place if place >= 0 else len(text) - beginning(text, _OPEN)


def _calls(text: str, names: Collection[str]) -> list[Call]:
    """The calls that a piece of JSON holds; none if any of it is something else."""
    try:
        held = json.loads(text.strip())
    except ValueError:
        return []
    calls = [_call(each, names) for each in (held if isinstance(held, list) else [held])]
    return [] if None in calls else [call for call in calls if call is not None]


def _call(held: Any, names: Collection[str]) -> Call | None:
    if isinstance(held, dict) and isinstance(held.get("function"), dict):
        held = held["function"]
    if not isinstance(held, dict) or held.get("name") not in names:
        return None
    given: Any = next((held[name] for name in _ARGUMENTS if name in held), {})
    if isinstance(given, str):
        return Call(held["name"], given)
    return Call(held["name"], json.dumps(given, ensure_ascii=False))
