"""A bundle's answers as lines for a terminal or a pipe."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.base.registry import load_function
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.answer import Answerer, Wanted
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.entailment import TEMPLATE
from edgeprune.runtime.fill import TOP_K, Filler
from edgeprune.runtime.generate import Generator
from edgeprune.runtime.rows import answered_rows, whole_file
from edgeprune.runtime.sampling import Sampling
from edgeprune.text.files import Row
from edgeprune.text.pairs import Document, document_of, row_of

_LINES = 32  # read ahead from a pipe to be batched
_LONGEST_LINE = 16_000_000  # bytes


@dataclass(frozen=True)
class Asked:
    """Settings by which answers are generated and written."""

    sampling: Sampling
    raw: bool = False
    """Continue the text itself, without the model's chat template."""
    as_json: bool = False
    """Write each answer as one JSON object per line."""
    labels: tuple[str, ...] = ()
    """Labels that are named at run time."""
    hypothesis: str = TEMPLATE
    """The hypothesis that is made of each."""
    multi_label: bool = False
    """Whether each of these labels is true or not by itself."""
    documents: tuple[str, ...] = ()
    """Documents that are ranked for each text, the query."""
    pair: str | None = None
    """The second text of a pair with each text."""
    prompt: str | None = None
    """The name of a sentence encoder's prompt; None: its usual one."""
    chunk: bool = False
    """Embed a text beyond the model's maximum in parts."""
    top_k: int | None = None
    """Fills of each masked token, answers to a question, or tokens to sample from; None: the usual
    number."""
    targets: tuple[str, ...] = ()
    """The words that may fill; none: all tokens."""


def run(
    folder: str | Path | Bundle, text: str | None, asked: Asked, threads: int | None = None
) -> None:
    """Run a bundle on one text and write its answer; or on each line of standard input, if text is
    "-" or is missing in a pipe.

    Raises:
        UserError: the bundle cannot be run, there is no text, it is not UTF-8, or a line of it is
            too long.
    """
    if text is None and sys.stdin.isatty():
        raise UserError("There is no text: give it after the bundle, or - to read lines.")
    model = runtime.load(folder, threads)
    texts = _lines(sys.stdin.buffer) if text in (None, "-") else iter([_checked(str(text))])
    documents: Iterator[Document] = texts
    if asked.pair is not None:
        second = _checked(asked.pair)
        documents = ((text, second) for text in texts)
    for piece in _pieces(model, documents, asked):
        print(piece, end="", flush=True)


def run_rows(
    folder: str | Path | Bundle,
    rows: list[Row],
    output: Path | None,
    asked: Asked,
    threads: int | None = None,
) -> None:
    """Run a bundle on the texts of rows, and write these with their answers as JSON lines, to a
    file or to standard output.

    Raises:
        UserError: the bundle cannot be run.
    """
    model = runtime.load(folder, threads)
    pairs = TASKS[model.bundle.task].pairs
    if not pairs and any(row.get("text_pair") for row in rows):
        raise UserError(
            f"The rows have pairs of texts, and {model.bundle.folder} reads single ones: name the "
            "field that it is to read with --field text=NAME, or give each text a row of its own."
        )
    documents = (document_of(row, "") if pairs else row["text"] for row in rows)
    lines = _pieces(model, documents, replace(asked, as_json=True))
    with nullcontext(sys.stdout) if output is None else whole_file(output) as opened:
        for line in answered_rows(rows, lines):
            opened.write(line)


def _pieces(model: Any, texts: Iterator[Document], asked: Asked) -> Iterator[str]:
    """Answers as the model's task writes them."""
    task = TASKS[model.bundle.task]
    for option, given in (
        ("--prompt", asked.prompt is not None),
        ("--chunk", asked.chunk),
        ("--pair", asked.pair is not None),
        ("--documents", bool(asked.documents)),
        ("--labels", bool(asked.labels)),
        ("--top-k", asked.top_k is not None),
        ("--target", bool(asked.targets)),
        ("--raw", asked.raw),
        *((f"--{name.replace('_', '-')}", True) for name in asked.sampling.model_fields_set),
    ):
        if given and option not in task.run_options:
            raise UserError(
                f"{model.bundle.folder} does {task.name}, which knows no {option}: leave it out."
            )
    pieces: Iterator[str] = load_function(task.terminal)(model, texts, asked)
    return pieces


def answer_lines(model: Any, texts: Iterator[Document], asked: Asked) -> Iterator[str]:
    """A line for each text or pair; lines of a pipe run in batches. One warning counts those that
    were cut."""
    if asked.documents:
        yield from _rankings(model, texts, asked)
        return

    def answer(batch: list[Document]) -> Sequence[Any]:
        if asked.chunk:
            found: Sequence[Any] = model.embed(batch, prompt=asked.prompt, chunk=True).tolist()
            return found
        return list(model.answers(model.tokenizer.encode(batch, asked.prompt)))

    pools = TASKS[model.bundle.task].pools
    remedy = "--chunk embeds such texts in parts." if pools else ""
    written = _zero_shot if asked.labels else partial(_written, answer=answer)
    yield from _in_batches(model, texts, asked, written, remedy)


def fill_lines(model: Filler, texts: Iterator[Document], asked: Asked) -> Iterator[str]:
    """The same of texts in which tokens are masked."""
    top_k = TOP_K if asked.top_k is None else asked.top_k

    def answer(batch: list[Document]) -> Sequence[Any]:
        return model.answers(model.encode(list(map(str, batch)), top_k, asked.targets))

    yield from _in_batches(model, texts, asked, partial(_written, answer=answer))


def question_lines(model: Answerer, texts: Iterator[Document], asked: Asked) -> Iterator[str]:
    """The same of questions with their contexts."""
    wanted = Wanted() if asked.top_k is None else Wanted(asked.top_k)

    def answer(batch: list[Document]) -> Sequence[Any]:
        return model.answers(model.encode(batch, wanted))

    yield from _in_batches(model, texts, asked, partial(_written, answer=answer))


def _in_batches(
    model: Any,
    texts: Iterator[Document],
    asked: Asked,
    written: Callable[[Any, list[Document], Asked], Iterator[str]],
    remedy: str = "",
) -> Iterator[str]:
    """The lines of some texts at a time; then, where texts were cut, how many, and what to do."""
    with model.tokenizer.counting(remedy):
        while batch := list(islice(texts, _LINES)):
            yield from written(model, batch, asked)


def _written(
    model: Any,
    texts: list[Document],
    asked: Asked,
    answer: Callable[[list[Document]], Sequence[Any]],
) -> Iterator[str]:
    for text, found in zip(texts, answer(texts), strict=True):
        if asked.as_json:
            yield _json(**row_of(text), **model.named(found)) + "\n"
        else:
            yield model.line(found) + "\n"


def _rankings(model: Any, queries: Iterator[Document], asked: Asked) -> Iterator[str]:
    """A line for each document of each query, the best first. One warning counts the pairs that
    were cut."""
    with model.tokenizer.counting():
        for query in queries:
            for rank, found in enumerate(model.rank(query, asked.documents), start=1):
                if asked.as_json:
                    yield _json(query=query, rank=rank, **asdict(found)) + "\n"
                else:
                    yield f"{found.score:.6g} {found.index + 1} {found.document}\n"


def _zero_shot(model: Any, texts: list[Any], asked: Asked) -> Iterator[str]:
    """A line for each text, with its labels, the likeliest first."""
    found = model.zero_shot(texts, asked.labels, asked.hypothesis, asked.multi_label)
    for text, each in zip(texts, found, strict=True):
        if asked.as_json:
            yield _json(text=text, **asdict(each)) + "\n"
        else:
            scores = zip(each.labels, each.scores, strict=True)
            yield "; ".join(f"{label} {score:.3f}" for label, score in scores) + "\n"


def stream_texts(model: Generator, texts: Iterator[str], asked: Asked) -> Iterator[str]:
    """Generated text for each text, as it comes; complete if written as JSON."""
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
                "give each text a line of its own."
            )
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(f"Line {number} of standard input is not UTF-8 text.") from None


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # Python keeps undecodable arguments as surrogates
        raise UserError("The text is not UTF-8.") from None
    return text
