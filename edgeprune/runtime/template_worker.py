"""A process that renders chat templates: `python -m edgeprune.runtime.template_worker`.

A chat template is a program that comes with a model. It gets jinja2's immutable sandbox, with what
transformers gives to templates; and no sandbox bounds what a program takes, so this process has
limits, and one that goes beyond them ends. It reads one JSON object a line from standard input and
answers each with one on standard output, after an empty line that says that it is ready:

    {"template": "...", "variables": {...}}    -> {"text": "..."} or {"failure": "what it did"}

It imports nothing but jinja2 and Python's own library, and ends with its standard input.
"""

import contextlib
import faulthandler
import json
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT_CHARACTERS = 4 * 1024 * 1024
# Beside the processor's seconds, for systems that cannot limit those and for waits that take none.
_WAIT_SECONDS = 10.0
_SHOWN_CHARACTERS = 300


class Refusal(jinja2.TemplateError):
    """A template's own word that it does not take this chat."""


class Generation(Extension):
    """{% generation %}...{% endgeneration %}: what a model wrote, which training looks for."""

    tags = {"generation"}  # noqa: RUF012  (as the class above declares it)

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with all that transformers' chat templates may use."""

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        self.filters["tojson"] = to_json
        self.globals["raise_exception"] = refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.compiled = lru_cache(maxsize=4)(self.from_string)


def refuse(message: str) -> NoReturn:
    raise Refusal(message)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as json.dumps writes it; jinja2's own filter escapes it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def render(environment: Environment, template: str, variables: dict[str, Any]) -> dict[str, str]:
    """The answer to a request."""
    try:
        pieces: list[str] = []
        length = 0
        for piece in environment.compiled(template).generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_OUTPUT_CHARACTERS:
                return {"failure": f"writes more than {MAX_OUTPUT_CHARACTERS:,} characters"}
        return {"text": "".join(pieces)}
    except MemoryError:  # with what is left the next chat may fail
        raise
    except Refusal as error:
        return {"failure": f"refuses this chat: {_shown(error)}"}
    except Exception as error:  # of any kind: the asking process must hear of it
        return {"failure": f"fails: {_shown(error)}"}


def limit_memory(most: int) -> None:
    """Let this process write so many bytes of memory, where the system holds it to that (Linux)."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this process where what follows takes more of the processor's time, or hangs.

    Both limits hold while Python itself is kept from running, in a long call of its library's.
    """
    faulthandler.dump_traceback_later(_WAIT_SECONDS, exit=True)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def main(seconds: float, memory: int) -> None:
    limit_memory(memory)
    environment = Environment()
    answers = sys.stdout.buffer
    answers.write(b"\n")
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        with time_limit(seconds):
            answer = render(environment, request["template"], request["variables"])
        text = json.dumps(answer, ensure_ascii=False)
        answers.write(text.encode("utf-8", "surrogatepass") + b"\n")
        answers.flush()


def _shown(error: Exception) -> str:
    """An error's words, on one line that is not too long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:_SHOWN_CHARACTERS]


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
