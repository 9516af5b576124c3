"""A model's chat template, applied in a sandbox.

A template is a program that comes with a model, so it gets jinja2's immutable sandbox, and limits
on its size, its steps, its numbers and its output besides: a template that loops for ever or
makes gigabytes ends in an error.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from edgeprune.bundle import Bundle
from edgeprune.errors import UserError

MAX_TEMPLATE_CHARACTERS = 256 * 1024
MAX_OUTPUT_CHARACTERS = 4 * 1024 * 1024
MAX_STEPS = 500_000
MAX_NUMBER = 100_000
MAX_BITS = 10_000
# A width in "%99999999d", "{:99999999}" or "{:{}}".
_LARGE_WIDTH = re.compile(r"[%{][^\s{}%]{0,20}?\d{6,}|%[-+ #0]*\*|\{[^{}]{0,40}\{")
_FRAME_NAME = "<template>"

Message = Mapping[str, Any]


def chat_template(bundle: Bundle) -> str | None:
    """The bundle's chat template: chat_template.jinja, else tokenizer_config.json's; or None."""
    path = bundle.folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > MAX_TEMPLATE_CHARACTERS:
            raise UserError(f"{path} is too long for a chat template.")
        return path.read_text(encoding="utf-8")
    template = bundle.tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name, of which "default" is for plain chat
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def apply_chat_template(bundle: Bundle, messages: Sequence[Message]) -> str:
    """The prompt that a chat of messages ({"role": ..., "content": ...}) makes, ready for the
    model's answer.

    Raises:
        UserError: the bundle has no template, or the template fails or goes beyond its limits.
    """
    template = chat_template(bundle)
    if template is None:
        raise UserError(f"{bundle.folder} has no chat template: use --raw to continue plain text.")
    tokens = {
        name: token.get("content") if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        if (token := bundle.tokenizer_config.get(name))
    }
    try:
        return render(template, messages=messages, add_generation_prompt=True, **tokens)
    except (jinja2.TemplateError, SecurityError) as error:
        raise UserError(f"{bundle.folder}: its chat template refuses this chat: {error}") from error
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as e:
        reason = str(e) or type(e).__name__
        raise UserError(f"{bundle.folder}: its chat template fails: {reason}") from e


def render(template: str, **variables: Any) -> str:
    """Render a chat template in the sandbox, within the limits above.

    Raises:
        jinja2.TemplateError, SecurityError: the template is wrong, refuses or exceeds a limit.
    """
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise SecurityError("it is too long for a chat template")
    compiled = _Environment().from_string(template)
    pieces: list[str] = []
    length = 0
    with _StepLimit():
        for piece in compiled.generate(**variables):
            length += len(piece)
            if length > MAX_OUTPUT_CHARACTERS:
                raise SecurityError("it writes without end")
            pieces.append(piece)
    return "".join(pieces)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with the functions that chat templates of the hub expect."""

    # These three make something huge out of two small things.
    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.filters = {name: _limited(filter) for name, filter in self.filters.items()}
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_arguments(left, right)
        return _check_value(super().call_binop(context, operator, left, right))

    # jinja2 names its first two parameters so that a template's keywords cannot meet them.
    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # The text of a `"...".format(...)` is the method's own.
        _check_arguments(getattr(__obj, "__self__", None), *args, *kwargs.values())
        return _check_value(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        _check_arguments(getattr(value, "__self__", None))
        return super().wrap_str_format(value)


class _StepLimit:
    """Counts the lines that a template runs, which no loop or macro escapes.

    A template is compiled to Python functions, so Python's own tracing counts them; one-line
    templates count too, for every turn of a loop is a line of the compiled code.
    """

    def __enter__(self) -> None:
        self.steps = 0
        self.before = sys.gettrace()
        sys.settrace(self._enter_frame)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _enter_frame(self, frame: FrameType, *_: Any) -> Callable[..., Any] | None:
        return self._count if frame.f_code.co_filename == _FRAME_NAME else None

    def _count(self, *_: Any) -> Callable[..., Any]:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise SecurityError("it runs without end")
        return self._count


def _limited(filter: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(filter)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(*args, *kwargs.values())
        return _check_value(filter(*args, **kwargs))

    return limited


def _check_arguments(*arguments: Any) -> None:
    """Refuse large numbers, and widths as large in a text that may be a format."""
    for value in arguments:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"it calculates with a number beyond {MAX_NUMBER:,}")
        if isinstance(value, str) and _LARGE_WIDTH.search(value):
            raise SecurityError("it asks for too wide a text")


def _check_value(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MAX_OUTPUT_CHARACTERS:
        raise SecurityError("it makes a value that is too long")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise SecurityError("it makes a number that is too large")
    return value


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Unlike jinja2's own, which escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
