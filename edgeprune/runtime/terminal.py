"""A bundle's answers as lines for a terminal or a pipe."""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.runtime.classify import Classifier
from edgeprune.runtime.embed import Embedder
from edgeprune.runtime.generate import Generator, Sampling

_SHOWN_NUMBERS = 6
_LINES = 32  # of a pipe, read ahead to be batched
_LONGEST_LINE = 16_000_000  # bytes


def run(
    folder: str | Path,
    text: str | None,
    sampling: Sampling,
    raw: bool = False,
    threads: int | None = None,
    as_json: bool = False,
) -> None:
    """Run a bundle on one text, or on each line of standard input where text is "-" or is missing
    in a pipe, and write an answer for each: a vector's first numbers, a label, or text as it comes.

    With `as_json` each answer is one JSON object a line.

    Raises:
        UserError: the bundle cannot be run, there is no text, it is not UTF-8, or a line of it has
            no end.
    """
    if text is None and sys.stdin.isatty():
        raise UserError("There is no text: give it after the bundle, or - to read lines.")
    model = runtime.load(folder, threads)
    texts = _lines(sys.stdin.buffer) if text in (None, "-") else iter([_checked(str(text))])
    if isinstance(model, Generator):
        _generate(model, texts, sampling, raw, as_json)
        return
    # A text given alone is answered alone; lines go in batches.
    while batch := list(islice(texts, _LINES)):
        for line in _answers(model, batch, as_json):
            print(line, flush=True)


def _answers(model: Embedder | Classifier, texts: list[str], as_json: bool) -> Iterator[str]:
    if isinstance(model, Embedder):
        for text, vector in zip(texts, model.embed(texts), strict=True):
            yield _json(text=text, embedding=vector.tolist()) if as_json else _brief(vector)
        return
    for text, prediction in zip(texts, model.classify(texts), strict=True):
        if as_json:
            yield _json(
                text=text, label=prediction.label, probabilities=dict(prediction.probabilities)
            )
        else:
            yield f"{prediction.label} {prediction.probability:.3f}"


def _generate(
    model: Generator,
    texts: Iterable[str],
    sampling: Sampling,
    raw: bool,
    as_json: bool,
) -> None:
    for text in texts:
        if raw:
            pieces = model.complete(text, sampling)
        else:
            pieces = model.chat([{"role": "user", "content": text}], sampling)
        if as_json:
            print(_json(text=text, generated="".join(pieces)), flush=True)
            continue
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)


def _brief(vector: np.ndarray) -> str:
    numbers = " ".join(f"{number:+.4f}" for number in vector[:_SHOWN_NUMBERS])
    more = " ..." if len(vector) > _SHOWN_NUMBERS else ""
    return f"{numbers}{more}  ({len(vector)} numbers, length {np.linalg.norm(vector):.4f})"


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
