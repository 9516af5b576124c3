"""A chat at the terminal: a line is a message, and its answer is written as it comes."""

import sys
from contextlib import closing, suppress
from pathlib import Path

from edgeprune import runtime
from edgeprune.base import interrupt
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.conversation import Conversation
from edgeprune.runtime.sampling import Sampling

_HELP = "/reset forgets the chat, Ctrl-C stops an answer, Ctrl-D or /exit ends."


def chat(
    folder: str | Path | Bundle,
    sampling: Sampling,
    system: str | None = None,
    threads: int | None = None,
    context_budget: int | None = None,
) -> None:
    """Chat with a bundle on standard input and output until either ends.

    Args:
        context_budget: tokens that a turn may have with its answer; the oldest rounds are
            forgotten.

    Raises:
        UserError: the bundle cannot be run, or has no chat template.
    """
    model = runtime.load(folder, threads)
    task = TASKS[model.bundle.task]
    if not task.generates:
        raise UserError(f"{model.bundle.folder} does {task.name}: use `edgeprune run`.")
    if not model.has_chat_template:
        raise UserError(
            f"{model.bundle.folder} has no chat template: `edgeprune run --raw` continues text."
        )
    model.chat_sampling(sampling)  # refuse a setting before the first message
    conversation = Conversation(model, system, context_budget)
    people = sys.stdin.isatty()
    if people:
        with suppress(ImportError):  # not there everywhere; where it is, lines are edited by it
            import readline  # noqa: F401
        say(_HELP)
    while (text := _line("> " if people else "")) is not None:
        if text == "/exit":
            return
        if text == "/reset":
            conversation.reset()
        elif text:
            _answer(conversation, text, sampling)


def _line(prompt: str) -> str | None:
    """The next line without the space around it; None at the end."""
    try:
        return input(prompt).strip()
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise UserError("A line of standard input is not UTF-8 text.") from None


def _answer(conversation: Conversation, text: str, sampling: Sampling) -> None:
    before = conversation.forgotten
    try:
        with closing(conversation.say(text, sampling)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        interrupt.stay()
    except UserError as error:
        say(str(error))
    print(flush=True)
    if count := conversation.forgotten - before:
        say(f"To stay within the budget, the {count} oldest messages were forgotten.")
