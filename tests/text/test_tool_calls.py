"""Calls of tools in the forms that models write, and what is shown before they are known."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.text.tool_calls import Call, certain, find_calls

NAMES = {"weather", "time"}
PARIS = Call("weather", '{"city": "Paris"}')
NOW = Call("time", "{}")
FORMS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    "smollm": '<tool_call>[{"name": "weather", "arguments": {"city": "Paris"}}]</tool_call>',
    "unfinished": '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}',
    "llama": '{"name": "weather", "parameters": {"city": "Paris"}}',
    "tagged": '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}',
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}]',
    "phi": 'functools[{"name": "weather", "arguments": {"city": "Paris"}}]',
    "openai": '{"type": "function", "function": {"name": "weather", '
    '"arguments": "{\\"city\\": \\"Paris\\"}"}}',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str) -> None:
    assert find_calls(FORMS[form], NAMES) == ("", [PARIS])
    assert certain(FORMS[form]) == 0


def test_several_calls_after_words() -> None:
    text = f'I look. {FORMS["hermes"]}\n<tool_call>{{"name": "time"}}</tool_call>'
    assert find_calls(text, NAMES) == ("I look.", [PARIS, NOW])
    both = '[{"name": "time"}, {"name": "weather", "parameters": {"city": "Paris"}}]'
    assert find_calls(both, NAMES) == ("", [NOW, PARIS])


@pytest.mark.parametrize(
    "text",
    ['{"name": "other", "arguments": {}}', '{"city": "Paris"}', "[1, 2]", "{", "It rains.",
     "<tool_call>weather</tool_call>", '[{"name": "time"}, 3]'],
)  # fmt: skip
def test_what_is_no_call_of_these_tools_is_text(text: str) -> None:
    assert find_calls(text, NAMES) == (text, [])


@given(
    st.text("<tool_cal>{[ x", max_size=20),
    st.sampled_from([*FORMS.values(), "no call"]),
    st.integers(0, 200),
)
def test_what_is_shown_early_is_never_of_a_call(words: str, call: str, cut: int) -> None:
    text = words + call
    content, calls = find_calls(text, NAMES)
    shown = text[: certain(text[:cut])]
    assert text.startswith(shown)
    if calls:
        assert content.startswith(shown.strip())
        assert json.loads(calls[0].arguments) == {"city": "Paris"}
