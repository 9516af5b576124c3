"""A process that renders chat templates: `python -m edgeprune.text.template_worker`.

A chat template is a program that comes with a model. It runs in jinja2's immutable sandbox with the
helpers that transformers gives to templates. No sandbox bounds time and memory, so the process has
limits and ends when a template exceeds them. It first writes an empty line to say that it is ready,
then reads one JSON object per line from standard input and answers each with one on standard
output:

    {"template": "...", "variables": {...}}    -> {"text": "..."} or {"failure": "what it did"}

It imports only jinja2 and the standard library, and ends when its standard input closes.
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
# Wall-clock limit, for systems without a limit of CPU time and for waits that use none.
_WAIT_SECONDS = 10.0
_SHOWN_CHARACTERS = 300


class Refusal(jinja2.TemplateError):
    """The template itself rejects this chat."""


class Generation(Extension):
    """{% generation %}...{% endgeneration %}: marks a model's own words, for training."""

    tags = {"generation"}  # noqa: RUF012  (as the class above declares it)

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with everything that transformers offers chat templates."""

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
    except MemoryError:  # too little may be left for the next chat: end the process
        raise
    except Refusal as error:
        return {"failure": f"refuses this chat: {_shown(error)}"}
    except Exception as error:  # whatever it is, report it to the client
        return {"failure": f"fails: {_shown(error)}"}


def limit_memory(most: int) -> None:
    """Limit this process's writable memory to `most` bytes, where the system can (Linux)."""
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
    """End this process if the block uses more CPU time than `seconds`, or hangs.

    Both limits hold even while Python cannot run, inside a long library call.
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
    """An error's message, on one line of limited length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:_SHOWN_CHARACTERS]


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
