"""A bundle's answers as lines for a terminal or a pipe."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.base.registry import load_function
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.answering import Answering
from edgeprune.runtime.generate import Generator, Sampling

_LINES = 32  # of a pipe, read ahead to be batched
_LONGEST_LINE = 16_000_000  # bytes


@dataclass(frozen=True)
class Asked:
    """How answers are asked for and written."""

    sampling: Sampling
    raw: bool = False
    """Continue the text itself, without the model's chat template."""
    as_json: bool = False
    """Each answer as one JSON object a line."""


def run(folder: str | Path, text: str | None, asked: Asked, threads: int | None = None) -> None:
    """Run a bundle on one text, or on each line of standard input where text is "-" or is missing
    in a pipe, and write an answer for each, as its task's row says.

    Raises:
        UserError: the bundle cannot be run, there is no text, it is not UTF-8, or a line of it has
            no end.
    """
    if text is None and sys.stdin.isatty():
        raise UserError("There is no text: give it after the bundle, or - to read lines.")
    model = runtime.load(folder, threads)
    texts = _lines(sys.stdin.buffer) if text in (None, "-") else iter([_checked(str(text))])
    pieces = load_function(TASKS[model.bundle.task].terminal)
    for piece in pieces(model, texts, asked):
        print(piece, end="", flush=True)


def answer_lines(model: Answering, texts: Iterator[str], asked: Asked) -> Iterator[str]:
    """A line for each text: a text given alone is answered alone; lines go in batches."""
    while batch := list(islice(texts, _LINES)):
        answers = model.answers(model.tokenizer.encode(batch))
        for text, answer in zip(batch, answers, strict=True):
            if asked.as_json:
                yield _json(text=text, **model.named(answer)) + "\n"
            else:
                yield model.line(answer) + "\n"


def stream_texts(model: Generator, texts: Iterator[str], asked: Asked) -> Iterator[str]:
    """What is generated for each text, as it comes; whole where it is JSON."""
    for text in texts:
        if asked.raw:
            pieces = model.complete(text, asked.sampling)
        else:
            pieces = model.chat([{"role": "user", "content": text}], asked.sampling)
        if asked.as_json:
            yield _json(text=text, generated="".join(pieces)) + "\n"
            continue
        yield from pieces
        yield "\n"


def _json(**values: object) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _lines(stream: BinaryIO) -> Iterator[str]:
    lines = iter(lambda: stream.readline(_LONGEST_LINE), b"")
    for number, line in enumerate(lines, start=1):
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            raise UserError(
                f"Line {number} of standard input is longer than {_LONGEST_LINE / 1e6:.0f} MB: "
                "give a text a line."
            )
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(f"Line {number} of standard input is not UTF-8 text.") from None


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # how Python holds an argument that is not UTF-8
        raise UserError("The text is not UTF-8.") from None
    return text
