"""The command line: one function per command, no logic. Heavy imports happen on use."""

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from edgeprune.base.disk import disk_is_full
from edgeprune.base.errors import MISSED, MISTAKE, STOPPED, RequirementMissed, UserError
from edgeprune.base.escape import one_line
from edgeprune.base.install import install
from edgeprune.base.interrupt import pressed
from edgeprune.base.parameters import Duration, Listed, Named, Numbers, Place, Suffixed
from edgeprune.base.version import __version__

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import RenderableType

    from edgeprune.pipeline.recipe import Recipe
    from edgeprune.runtime.bundle import Bundle

    Settings = TypeVar("Settings", bound=BaseModel)
    Function = TypeVar("Function", bound=Callable[..., None])


class Command(click.Command):
    """A command that -h explains too, in whichever context it is made."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **{"context_settings": _HELP, **options})


_HELP = {"help_option_names": ["-h", "--help"]}


class Commands(click.Group):
    """Turns errors into exit codes and a sentence on standard error, for all commands.

    Any other error is EdgePrune's own fault and is left to __main__.py.
    """

    command_class = Command

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        given = sys.argv[1:] if args is None else list(args)
        try:
            for word in given:
                word.encode()  # raises if the system's bytes were not UTF-8
            # One name, however it was started: by it a shell asks for completions.
            named = {"prog_name": "edgeprune", **options, "standalone_mode": False}
            code = super().main(given, *rest, **named)
        except BaseException as error:
            # A library may turn Ctrl-C into any error.
            if pressed or isinstance(error, KeyboardInterrupt | click.Abort):
                _end("Stopped.", STOPPED)
            if isinstance(error, click.ClickException):
                error.show()
                sys.exit(error.exit_code)
            if isinstance(error, RequirementMissed):
                _end(str(error), MISSED)
            if sentence := _mistake(error):
                _end(sentence, MISTAKE)
            raise
        sys.exit(code)


def _mistake(error: BaseException) -> str | None:
    """The sentence for a mistake of the user's or a fault of their machine; else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory for this."
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object!r} is not UTF-8, as text and the names of files must be here."
    if sentence := disk_is_full(error):
        return sentence
    if isinstance(error, OSError) and error.filename is not None:  # else not a file of the user's
        return f"{error.filename}: {error.strerror}."
    return None


def _end(sentence: str, code: int) -> NoReturn:
    click.echo(f"edgeprune: {one_line(sentence)}", err=True)
    sys.exit(code)


def _settings(kind: "type[Settings]", **options: Any) -> "Settings":
    """Settings from the given options; the class has the other defaults, and the bounds."""
    try:
        return kind(**{name: value for name, value in options.items() if value is not None})
    except ValueError as error:
        first = error.errors()[0]  # type: ignore[attr-defined]
        if not first["loc"]:
            raise UserError(f"{first['msg'].removeprefix('Value error, ').capitalize()}.") from None
        name = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{name} {first['input']}: {first['msg']}.") from None


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; of one that may be given often, none is none."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _own_names(fields: tuple[str, ...]) -> dict[str, str]:
    """The user's name of each field."""
    named = dict(field.partition("=")[::2] for field in fields)
    if not all(named.values()):
        raise UserError("--field is NAME=YOURS, for example --field text=sentence.")
    return named


def _opened(bundle: str, variant: str | None) -> "str | Bundle":
    """The model that a command was given, opened already where a variant is named."""
    if variant is None:
        return bundle
    from edgeprune.runtime.bundle import Bundle

    return Bundle.open(bundle, variant)


def _show(result: dict[str, Any], table: "RenderableType", json_file: str | None) -> None:
    """Print a result as a table, and write it to a JSON file; "-" prints only the JSON."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    if json_file == "-":
        click.echo(text)
        return
    try:
        if json_file:
            Path(json_file).write_text(text + "\n", encoding="utf-8")
    finally:  # no measurement is lost if either of the two fails
        _print(table)


def _print(table: "RenderableType") -> None:
    """Print a table, with the user's names unchanged, even with brackets."""
    from edgeprune.base.console import Terminal

    Terminal().print(table, crop=False)


def _writable(ctx: click.Context, option: click.Parameter, path: Any) -> Any:
    """Refuse a file that cannot be written before the work starts."""
    from edgeprune.base.files import refuse_unwritable

    if path and path != "-":
        refuse_unwritable(Path(path))
    return path


def _replaceable(ctx: click.Context, option: click.Parameter, path: Any) -> Any:
    """Refuse a file that cannot be replaced before the work starts."""
    from edgeprune.base.files import refuse_irreplaceable

    if path:
        refuse_irreplaceable(Path(path))
    return path


def _examples(*lines: str) -> str:
    """The end of a command's help: what one types, unwrapped."""
    return "\n".join(("\b", "Examples:", *(f"  edgeprune {line}" for line in lines)))


NUMBERS, PLACE = Numbers(), Place()
MEASURE = Listed("edgeprune.measure.evaluate.measures:MEASURES")
RECIPE = Named("edgeprune.pipeline.recipe:shipped")
WORK = Listed("edgeprune.measure.works:WORKS")
_json_option = click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    callback=_writable,
    help="Write the result as JSON; - prints it.",
)
_field_option = click.option(
    "--field", "fields", multiple=True, metavar="NAME=YOURS", help="Your name for a field."
)
_variant_option = click.option(
    "--variant",
    metavar="NAME",
    help="The graph to run, of several.  [default: the fastest on this processor]",
)
_against_option = click.option(
    "--against", type=PLACE, metavar="BUNDLE|FOLDER", help="The original, to compare with."
)


def _sampling_options(command: "Function") -> "Function":
    """Options by which a language model writes, for every command that lets one."""
    options = (
        click.option("--max-tokens", type=int, help="Maximum tokens to generate.  [default: 256]"),
        click.option(
            "--temperature", type=float, help="0 takes the likeliest token.  [default: the model's]"
        ),
        click.option("--top-p", type=float, help="Sample from the likeliest of this total."),
        click.option("--min-p", type=float, help="Sample from this share of the likeliest's."),
        click.option("--repetition-penalty", type=float, help="1.1 repeats less.  [default: 1]"),
        click.option("--frequency-penalty", type=float, help="Less of what was written often."),
        click.option("--presence-penalty", type=float, help="Less of what was written at all."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End before it; repeatable."),
        click.option("--seed", type=int, help="The same seed gives the same text.  [default: 0]"),
        click.option(
            "--lookup",
            type=click.Choice(["auto", "off"]),
            help="Read what repeats several tokens at a time, where exact.  [default: auto]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(
    cls=Commands,
    context_settings=_HELP,
    epilog="""\b
A first look: `edgeprune doctor`, then `edgeprune build encoder --dry-run`.
Completion, in ~/.bashrc: eval "$(_EDGEPRUNE_COMPLETE=bash_source edgeprune)"
(zsh_source in ~/.zshrc; fish: _EDGEPRUNE_COMPLETE=fish_source edgeprune | source)
Colours are off where the output is no terminal, and by NO_COLOR=1.""",
)
@click.version_option(__version__, prog_name="edgeprune")
def main() -> None:
    """Make a Hugging Face transformer small and fast on a CPU, and prove it by measurement."""


@main.command(
    epilog=_examples(
        'run small/bundle "A sentence to embed"',
        'run small/bundle "best pizza in town" --documents reviews.txt',
        "run small/bundle --input rows.jsonl --output answers.jsonl",
    )
)
@click.argument("bundle", type=PLACE)
@click.argument("text", metavar="[TEXT|-]", required=False)
@click.option("--pair", metavar="TEXT", help="The second text, where the model reads pairs.")
@click.option("--labels", metavar="A,B,...", help="Score these labels by a model of entailment.")
@click.option("--hypothesis", metavar="TEXT", help="[default: This example is {}.]")
@click.option("--multi-label", is_flag=True, help="Each of the labels is true or not by itself.")
@click.option(
    "--documents", type=PLACE, metavar="FILE", help="Rank this file's texts for TEXT, the query."
)
@click.option("--prompt", metavar="NAME", help="A sentence encoder's prompt before each text.")
@click.option("--chunk", is_flag=True, help="Embed texts beyond the model's limit in parts.")
@click.option(
    "--top-k", type=int, help="Fills, answers, or tokens to sample from.  [default: 5; 1; all]"
)
@click.option("--target", "targets", multiple=True, metavar="WORD", help="A word that may fill.")
@click.option(
    "--input",
    "rows",
    type=PLACE,
    metavar="FILE",
    help="Run on a .jsonl's, .csv's or .txt's texts.",
)
@_field_option
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    callback=_replaceable,
    help="With --input: write the rows with their answers there.  [default: standard output]",
)
@click.option("--raw", is_flag=True, help="Continue plain text, without the chat template.")
@_sampling_options
@click.option("--threads", type=click.IntRange(min=1), help="Threads.  [default: all cores]")
@_variant_option
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, one object per line.")
def run(
    bundle: str,
    text: str | None,
    pair: str | None,
    labels: str | None,
    hypothesis: str | None,
    multi_label: bool,
    documents: str | None,
    prompt: str | None,
    chunk: bool,
    top_k: int | None,
    targets: tuple[str, ...],
    rows: str | None,
    fields: tuple[str, ...],
    output: Path | None,
    raw: bool,
    threads: int | None,
    variant: str | None,
    as_json: bool,
    **sampled: Any,
) -> None:
    """Do what the bundle is for: embed, classify, generate; - reads lines of input."""
    from edgeprune.runtime import terminal
    from edgeprune.runtime.rows import text_rows
    from edgeprune.runtime.sampling import Sampling

    sampling = _settings(Sampling, top_k=top_k, **_given(sampled))
    ranked = tuple(row["text"] for row in text_rows(Path(documents), {})) if documents else ()
    if labels is not None and pair is not None:
        raise UserError("--labels pairs each text with its labels itself: leave --pair out.")
    if labels is None and (hypothesis or multi_label):
        raise UserError("--hypothesis and --multi-label are for labels: name them with --labels.")
    named = tuple(label.strip() for label in (labels or "").split(",") if label.strip())
    if labels is not None and not named:
        raise UserError("--labels names no label: give some, with commas between them.")
    if documents and pair is not None:
        raise UserError("--documents pairs the query with each document itself: leave --pair out.")
    asked = terminal.Asked(
        sampling,
        raw,
        as_json,
        labels=named,
        hypothesis=hypothesis or terminal.TEMPLATE,
        multi_label=multi_label,
        documents=ranked,
        pair=pair,
        prompt=prompt,
        chunk=chunk,
        top_k=top_k,
        targets=targets,
    )
    if rows is None:
        if output or fields:
            raise UserError("--output and --field are for a file of rows: name it with --input.")
        terminal.run(_opened(bundle, variant), text, asked, threads)
        return
    if text is not None:
        raise UserError("Give a text or --input, not both.")
    if pair is not None or documents:
        raise UserError(
            "--pair and --documents are for one text; rows have a second text in the field "
            "text_pair."
        )
    read = text_rows(Path(rows), _own_names(fields))
    terminal.run_rows(_opened(bundle, variant), read, output, asked, threads)


@main.command(
    epilog=_examples(
        "chat small/bundle",
        'chat small/bundle --system "Answer in one sentence." --temperature 0.7',
    )
)
@click.argument("bundle", type=PLACE)
@click.option("--system", metavar="TEXT", help="Told to the model before the first message.")
@click.option(
    "--context-budget",
    type=click.IntRange(min=2),
    metavar="TOKENS",
    help="Most tokens of a turn with its answer: the oldest rounds are forgotten.  [default: the "
    "model's maximum, at which the chat is refused]",
)
@click.option("--top-k", type=int, help="Sample from so many of the likeliest tokens.")
@_sampling_options
@click.option("--threads", type=click.IntRange(min=1), help="Threads.  [default: all cores]")
@_variant_option
def chat(
    bundle: str,
    system: str | None,
    context_budget: int | None,
    threads: int | None,
    variant: str | None,
    **sampled: Any,
) -> None:
    """Chat with a language model: a line is a message; /reset, /exit; Ctrl-C stops an answer."""
    from edgeprune.runtime import dialogue
    from edgeprune.runtime.sampling import Sampling

    sampling = _settings(Sampling, **_given(sampled))
    dialogue.chat(_opened(bundle, variant), sampling, system, threads, context_budget)


@main.command(
    epilog=_examples(
        "bench small/bundle --against small/original",
        "bench small/bundle --batch 1,8 --tokens 32,128 --json speed.json",
        "bench small/bundle --remote pi@raspberrypi.local",
    )
)
@click.argument("bundle", type=PLACE)
@_against_option
@_variant_option
@click.option("--batch", type=NUMBERS, help="Texts per call; 1,8 measures both.  [default: 1]")
@click.option("--tokens", type=NUMBERS, help="Tokens per text, or of the prompt.  [default: 128]")
@click.option("--threads", type=NUMBERS, help="Threads.  [default: 1]")
@click.option("--time-limit", type=float, help="Seconds of timing, over launches.  [default: 20]")
@click.option("--launches", type=int, help="Times each model is started anew.  [default: 6]")
@click.option(
    "--spread", type=Duration(), help="Space the launches over 1h or 30m.  [default: none]"
)
@click.option(
    "--compressed/--no-compressed",
    help="Also compress by zlib and report the bytes: 1 s per 25 MB.",
)
@click.option(
    "--sustained", type=Duration(), help="Also work for 10m without a pause, and tell each minute."
)
@click.option("--profile/--no-profile", help="Also report the time of each operator.")
@click.option("--counters/--no-counters", help="Also count instructions and cycles with perf.")
@click.option(
    "--remote",
    metavar="USER@HOST",
    help="Run there by ssh; needs edgeprune there.",
)
@click.option("--remote-python", default="python3", metavar="PATH", help="The Python there.")
@click.option(
    "--submit-file",
    metavar="FILE",
    callback=_writable,
    help="Write this device's run as a small file to show to others.",
)
@_json_option
def bench(
    bundle: str,
    against: str | None,
    variant: str | None,
    batch: tuple[int, ...] | None,
    tokens: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    remote: str | None,
    remote_python: str,
    submit_file: str | None,
    json_file: str | None,
    **options: Any,
) -> None:
    """Time a model, alone or interleaved with another: latency, memory, size.

    BUNDLE is a bundle, a folder with an ONNX model, a Hugging Face folder (exported first), an ONNX
    file, torch:FOLDER (PyTorch itself), command:PROGRAM (see edgeprune.measure.bench.protocol), or
    stock:BUNDLE, which leaves out the sparse operator library.
    """
    from edgeprune.measure.bench.compare import compare, measure, sweep
    from edgeprune.measure.bench.record import Speed
    from edgeprune.measure.bench.remote import bench_remotely
    from edgeprune.measure.bench.settings import BenchSettings
    from edgeprune.measure.bench.submission import submission, submitted
    from edgeprune.measure.bench.table import bench_table

    points = [
        _settings(BenchSettings, batch=b, tokens=t, threads=n, **options)
        for b, t, n in itertools.product(batch or [None], tokens or [None], threads or [None])
    ]
    if submit_file and len(points) > 1:
        raise UserError("--submit-file is of one run: give one batch, one length, one --threads.")
    told = submitted(bundle) if submit_file else None
    if remote:
        options |= {"batch": batch, "tokens": tokens, "threads": threads, "variant": variant}
        result = bench_remotely(remote, bundle, against, options, remote_python)
    elif len(points) > 1:
        result = sweep(_opened(bundle, variant), against, points)
    else:
        timed = _opened(bundle, variant)
        result = compare(timed, against, *points) if against else measure(timed, *points)
    if told and submit_file and isinstance(result, Speed):
        submission(result, told).write(Path(submit_file))
    _show(result.to_json(), bench_table(result), json_file)


@main.command(
    epilog=_examples(
        "evaluate small/bundle --task sts --data pairs.jsonl --against small/original",
        "evaluate small/bundle --task classification --data held-out.csv --field label=category",
    )
)
@click.argument("bundle", type=PLACE)
@click.option(
    "--task",
    required=True,
    type=MEASURE,
    metavar="MEASURE",
    help="sts, cosine, retrieval, mixing or vectors; classification; multilabel; correlation; "
    "ranking; entities; spans or same_spans; masked or masked_kl; perplexity, kl, choice, cloze or "
    "generation; calibration.",
)
@click.option(
    "--data",
    required=True,
    type=PLACE,
    metavar="FILE|HUB_DATASET",
    help="A .txt, .jsonl or .csv file, or a dataset: NAME, NAME:SPLIT or NAME:CONFIG:SPLIT.",
)
@click.option(
    "--limit", type=int, help="Maximum rows, drawn by label; or first windows (per group)."
)
@click.option("--window", type=int, help="Tokens per window of text.  [default: 512]")
@click.option("--stride", type=int, help="Tokens between window starts.  [default: the window]")
@click.option("--group", metavar="FIELD", help="Also by value of this field, and the worst.")
@click.option(
    "--languages", is_flag=True, help="Also by language (field lang, or script), and the worst."
)
@_field_option
@click.option(
    "--examples",
    type=int,
    default=5,
    show_default=True,
    help="Texts to show that --against classifies rightly and this model does not.",
)
@click.option("--rows", "keep_rows", is_flag=True, help="Include every row's scores in the JSON.")
@_against_option
@_variant_option
@_json_option
def evaluate(
    bundle: str,
    variant: str | None,
    json_file: str | None,
    fields: tuple[str, ...],
    **options: Any,
) -> None:
    """Measure a bundle's quality, and its loss against the original with --against."""
    from edgeprune.measure.evaluate.measures import evaluate
    from edgeprune.measure.evaluate.table import evaluate_table

    result = evaluate(_opened(bundle, variant), **options, fields=_own_names(fields))
    _show(result.to_json(), evaluate_table(result), json_file)


@main.command(
    epilog=_examples(
        "check new/bundle --against released/bundle --task sts --data pairs.jsonl",
        "check new/bundle --save baseline.json",
        "check new/bundle --against baseline.json --format markdown",
    )
)
@click.argument("candidate", type=PLACE, metavar="BUNDLE")
@click.option(
    "--against",
    type=PLACE,
    metavar="BUNDLE|FILE",
    help="The baseline: a bundle, or what --save wrote.",
)
@click.option(
    "--save",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True),
    callback=_replaceable,
    help="Save this bundle's figures as a later baseline.",
)
@_variant_option
@click.option("--max-slowdown", metavar="PERCENT", help="Growth of time per call.  [default: 5%]")
@click.option("--max-memory", metavar="PERCENT", help="Growth of peak memory.  [default: 5%]")
@click.option("--max-size", metavar="PERCENT", help="Growth of graph and data.  [default: 2%]")
@click.option("--max-operators", metavar="PERCENT", help="Growth of operators run.  [default: 0%]")
@click.option("--max-drop", type=float, help="Loss of quality: points, or %.  [default: 0.5]")
@click.option(
    "--task", type=MEASURE, metavar="MEASURE", help="A quality measure of `edgeprune evaluate`."
)
@click.option("--data", type=PLACE, metavar="FILE", help="The measure's data.")
@click.option("--limit", type=int, help="Maximum rows, texts or windows.")
@click.option(
    "--original",
    type=PLACE,
    metavar="BUNDLE|FOLDER",
    help="For cosine and kl.  [default: the baseline]",
)
@click.option("--batch", type=int, help="Texts per call of an encoder.  [default: 1]")
@click.option("--tokens", type=int, help="Tokens per text or prompt.  [default: 128]")
@click.option("--threads", type=int, help="Threads.  [default: 1]")
@click.option(
    "--time-limit", type=float, default=6.0, help="Seconds of timing, over launches.  [default: 6]"
)
@click.option("--launches", type=int, help="Times each model is started anew.  [default: 6]")
@click.option("--strict", is_flag=True, help="Also exit with 1 if anything is undecided.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "junit", "markdown"]),
    default="text",
    help="Output format.",
)
@_json_option
def check(
    candidate: str,
    against: str | None,
    save: str | None,
    variant: str | None,
    strict: bool,
    form: str,
    json_file: str | None,
    **options: Any,
) -> None:
    """Compare a bundle with a baseline; exit with 1 if anything became worse than allowed.

    Size, operators, memory and quality are repeatable and decide at once. Speed fails only if its
    whole 95 % interval lies beyond the limit; otherwise it passes or is undecided. Exit codes: 0
    nothing became worse, 1 something did, 2 it could not be measured, 70 a fault of edgeprune's
    own.
    """
    from edgeprune.measure.bench.settings import BenchSettings
    from edgeprune.measure.check import formats, run
    from edgeprune.measure.check.settings import Limits, QualityTask

    limits = _settings(Limits, **{name: options.pop(name) for name in Limits.model_fields})
    quality = _settings(
        QualityTask, **{name: options.pop(name) for name in QualityTask.model_fields}
    )
    bench = _settings(BenchSettings, **options)
    if against is None and save is None:
        raise UserError("Name a baseline with --against, or a file to keep figures in with --save.")
    outcome = run.check(candidate, against, limits, bench, quality, variant)
    try:
        if save:
            run.save(outcome.candidate, Path(save))
        if json_file and json_file != "-":
            Path(json_file).write_text(formats.as_json(outcome) + "\n", encoding="utf-8")
    finally:  # no measurement is lost if any of them fails
        if form == "text" and json_file != "-":
            _print(formats.text(outcome))
        else:
            click.echo(formats.FORMATS["json" if json_file == "-" else form](outcome, strict))
    if missed := outcome.missed(strict):
        raise RequirementMissed("; ".join(missed) + ".")


@main.command(
    epilog=_examples(
        "inspect small/bundle",
        "inspect --system --json -",
    )
)
@click.argument("bundle", type=PLACE, metavar="BUNDLE|FOLDER", required=False)
@click.option(
    "--system", is_flag=True, help="Show this machine and the installed packages instead."
)
@_variant_option
@_json_option
def inspect(bundle: str | None, system: bool, variant: str | None, json_file: str | None) -> None:
    """Show a model's layers with shapes and bits, bytes, operators and manifest."""
    if system == bool(bundle):
        raise UserError("Name a bundle or a folder to inspect, or give --system; one of the two.")
    if bundle is None:
        from edgeprune.measure.inspect.system import describe_system, system_table

        facts = describe_system()
        _show(facts.to_json(), system_table(facts), json_file)
        return
    from edgeprune.measure.inspect import describe, inspect_table

    found = describe(bundle, variant)
    _show(found.to_json(), inspect_table(found), json_file)


@main.command(
    epilog=_examples("doctor", "doctor --need build --need service", "doctor --json doctor.json")
)
@click.option(
    "--need",
    "needed",
    multiple=True,
    type=Listed("edgeprune.pipeline.doctor:EXTRAS"),
    help="Exit with 1 where this is missing; repeatable.",
)
@_json_option
def doctor(needed: tuple[str, ...], json_file: str | None) -> None:
    """Look at this machine: what is here, what is missing, what that costs, what to do.

    Exit codes: 0 done, 1 something is missing that --need names, 2 a mistake in what was given, 70
    a fault of edgeprune's own.
    """
    from edgeprune.pipeline.doctor import doctor_table, examine

    found = examine()
    _show(found.to_json(), doctor_table(found), json_file)
    if missed := found.missed(needed):
        raise RequirementMissed("; ".join(missed) + ".")


@main.command(
    epilog=_examples(
        "serve small/bundle",
        "serve small/bundle --host 0.0.0.0 --port 8080 --threads 2",
    )
)
@click.argument("bundle", type=PLACE)
@click.option("--host", help="Address to listen on; 0.0.0.0: all.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8000]")
@click.option("--threads", type=int, help="Threads.  [default: all cores]")
@_variant_option
@click.option(
    "--allowed-host",
    multiple=True,
    metavar="NAME",
    help="Another name that clients use; repeatable.  [default: its own]",
)
@click.option(
    "--allowed-origin",
    multiple=True,
    metavar="ORIGIN",
    help="A web page's origin that may call it; repeatable.  [default: none]",
)
@click.option(
    "--token-file", type=PLACE, metavar="FILE", help="Ask for this token.  [default: none]"
)
@click.option("--served-name", help="OpenAI's clients' name for it.  [default: its folder's]")
@click.option("--max-batch", type=int, help="Texts per call (dynamic INT8: 1).  [default: 16]")
@click.option("--max-batch-tokens", type=int, help="Tokens per call.  [default: 256]")
@click.option("--max-wait-ms", type=float, help="Wait for more texts.  [default: 0]")
@click.option("--max-waiting", type=int, help="Queued texts; then 503.  [default: 256]")
@click.option("--max-concurrent", type=int, help="Concurrent requests; then 503.  [default: 64]")
@click.option("--max-per-client", type=int, help="Of one address; then 429.  [default: no limit]")
@click.option("--max-connections", type=int, help="Open connections.  [default: 512]")
@click.option("--max-body-bytes", type=int, help="Bytes per request.  [default: 524288]")
@click.option("--max-texts", type=int, help="Texts per request.  [default: 64]")
@click.option("--max-tokens", type=int, help="Tokens per text or prompt.  [default: 2048]")
@click.option("--max-new-tokens", type=int, help="Tokens to generate.  [default: 1024]")
@click.option("--kept-conversations", type=int, help="Caches kept for next turns.  [default: 4]")
@click.option("--head-seconds", type=float, help="Time for a head to arrive.  [default: 10]")
@click.option("--body-seconds", type=float, help="Time for a body to arrive.  [default: 10]")
@click.option("--answer-seconds", type=float, help="Time for an answer to begin.  [default: 30]")
@click.option(
    "--generate-seconds", type=float, help="Time for generated text to end.  [default: 300]"
)
@click.option("--stop-seconds", type=int, help="Time for requests to end at a stop.  [default: 30]")
def serve(bundle: str, variant: str | None, **options: Any) -> None:
    """Answer over HTTP, on the path of the bundle's task; /health, /metrics."""
    from edgeprune.service.settings import ServiceSettings

    settings = _settings(ServiceSettings, **options)
    try:
        from edgeprune.service.server import serve as answer
    except ModuleNotFoundError as error:
        raise UserError(f"Serving needs the package {error.name}: {install('service')}.") from None
    answer(_opened(bundle, variant), settings)


def _recipe_options(command: "Function") -> "Function":
    """The recipe, its changed settings, the model and the text of what is built."""
    parts = (
        click.argument("recipe", type=RECIPE, required=False),
        click.option(
            "--model",
            type=PLACE,
            metavar="FOLDER|HUB_ID|package:NAME",
            help="The model to compress.",
        ),
        click.option(
            "--data",
            type=PLACE,
            multiple=True,
            metavar="PATH|HUB_DATASET",
            help="Text to learn from; repeatable.",
        ),
        _field_option,
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="STAGE.KEY=VALUE",
            help="Change a setting of the recipe; repeatable.",
        ),
        click.option("--seed", type=int, help="The seed of everything random.  [default: 0]"),
    )
    for part in reversed(parts):
        command = part(command)
    return command


@main.command(
    epilog=_examples(
        "build encoder",
        "build encoder --model ./my-encoder --data my-texts.txt --output small",
        "build classifier --model ./my-classifier --data labelled.csv --field label=category",
        "build encoder --model ./my-encoder --data my-texts.txt --speedup 5 --output small",
        "build encoder --model ./my-encoder --data my-texts.txt --dry-run",
    )
)
@_recipe_options
@click.option(
    "--output", type=click.Path(path_type=Path), help="Output folder.  [default: build/RECIPE]"
)
@click.option(
    "--speedup",
    type=float,
    help="In place of the recipe's cuts, search for what loses least at so many times the speed.",
)
@click.option("--hours", type=float, help="With --speedup: how long, at most.  [default: 1]")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--all", "every", is_flag=True, help="With --dry-run, also show every setting.")
@click.option("--fresh", is_flag=True, help="Discard what an earlier build left in the output.")
def build(
    recipe: str | None,
    model: str | None,
    data: tuple[str, ...],
    fields: tuple[str, ...],
    output: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    speedup: float | None,
    hours: float | None,
    dry_run: bool,
    every: bool,
    fresh: bool,
) -> None:
    """Build a small, fast bundle by RECIPE: a name (see `edgeprune recipes`) or a file.

    With --speedup the shape is searched for, as by `edgeprune search`, which knows other limits,
    and the bundle is OUTPUT/best. Exit codes: 0 done, 1 a requirement or the speed was missed, 2 a
    mistake in what was given, 70 a fault of edgeprune's own.
    """
    from edgeprune.base.ranks import in_turn
    from edgeprune.pipeline import terminal
    from edgeprune.pipeline.build import prepare
    from edgeprune.pipeline.joined import joined
    from edgeprune.pipeline.recipe import DEFAULT, read_recipe
    from edgeprune.pipeline.run import run as carry_out

    if recipe is None and model is None and not dry_run:
        taken = read_recipe(DEFAULT)
        raise UserError(
            f"Name a recipe, a model or both: `edgeprune build {DEFAULT}` would make "
            f"{taken.model} small, in minutes, into build/{taken.name}; `edgeprune build {DEFAULT} "
            "--model FOLDER --data TEXT.txt` a model of yours. `edgeprune recipes` lists the "
            "others, and --dry-run says what one would do."
        )
    if every and not dry_run:
        raise UserError("--all shows every setting of a dry run: add --dry-run.")
    sets = _sets(overrides, seed, fields)
    if speedup is not None:
        if dry_run or fresh:
            raise UserError(
                f"--{'dry-run' if dry_run else 'fresh'} is for a recipe's own cuts, and --speedup "
                "searches for others: leave one of the two out."
            )
        given = read_recipe(recipe or DEFAULT, sets)
        wish, settings = {"speedup": (speedup,)}, {"hours": hours}
        _search(given, model, data, wish, settings, output or Path("build") / given.name)
        return
    if hours is not None:
        raise UserError("--hours says how long a search may take: add --speedup.")
    given = read_recipe(recipe or DEFAULT, sets)
    if dry_run:
        terminal.show_preview(prepare(given, model, data, output), every)
        return
    with joined():
        outcome = carry_out(in_turn(prepare, given, model, data, output), fresh)
    terminal.show_outcome(outcome)
    if outcome.missed:
        raise RequirementMissed("; ".join(outcome.missed) + ".")


@main.command(
    epilog=_examples(
        "search encoder --model ./my-encoder --data my-texts.txt --speedup 10 --output found",
        "search --model ./my-encoder --data my-texts.txt --max-drop 1 --hours 2 --output found",
        "search encoder --latency 10ms --task sts --eval pairs.jsonl --output found",
    )
)
@_recipe_options
@click.option(
    "--task",
    type=MEASURE,
    metavar="MEASURE",
    help="A quality measure by which models are judged; see evaluate.",
)
@click.option(
    "--eval", type=PLACE, metavar="FILE", help="The data of that measure, never trained on."
)
@click.option(
    "--speedup",
    type=float,
    multiple=True,
    help="Least loss at so many times the speed; repeatable.",
)
@click.option("--latency", type=Suffixed("ms"), help="Least loss within 10ms of a call.")
@click.option("--max-drop", type=float, help="The fastest model that loses no more.")
@click.option("--megabytes", type=float, help="Least loss within so many megabytes of the graph.")
@click.option("--memory", type=Suffixed("MB"), help="Least loss within 120MB of memory.")
@click.option(
    "--on",
    "target",
    type=Listed("edgeprune.targets:NAMES", "this"),
    help="The kind of processor.  [default: this]",
)
@click.option("--work", type=WORK, help="What to time of a decoder.  [default: prompt]")
@click.option("--tokens", type=int, help="Tokens of a timed text or prompt.  [default: 128]")
@click.option("--batch", type=int, help="Texts in a timed call.  [default: 1]")
@click.option("--threads", type=int, help="Threads of a timed session.  [default: 1]")
@click.option("--hours", type=float, help="How long it may take, at most.  [default: 1]")
@click.option(
    "--steps", type=int, help="Train by steps, not by time: the same command, the same models."
)
@click.option("--points", type=int, help="Models of a front.  [default: 5]")
@click.option("--candidates", type=int, help="Shapes trained briefly for each model.  [default: 3]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Train candidates in so many processes, by Ray.  [default: this one]",
)
@click.option("--cluster", metavar="ADDRESS", help="Train candidates on this Ray cluster.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Output folder.")
@_json_option
def search(
    recipe: str | None,
    model: str | None,
    data: tuple[str, ...],
    fields: tuple[str, ...],
    target: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    workers: int | None,
    cluster: str | None,
    output: Path,
    json_file: str | None,
    **options: Any,
) -> None:
    """Find the best model within a loss, a speed, a size or memory, by measurement.

    With --max-drop the fastest model that loses no more; with a speed, size or memory the one that
    loses least within it; with none a front of models, from nearly lossless to very fast. RECIPE
    gives text, quantization and training. Stopped, it goes on with the same command. Exit codes: 0
    done, 1 a limit was missed, 2 a mistake in what was given, 70 a fault of edgeprune's own.
    """
    from edgeprune.pipeline.recipe import read_recipe, validate
    from edgeprune.search.settings import Wish

    sets = _sets(overrides, seed, fields)
    sets += [f"target={target}"] if target not in (None, "this") else []
    if recipe is None and model is None:
        raise UserError("Name a recipe, a model or both: `edgeprune recipes` lists recipes.")
    given = read_recipe(recipe, sets) if recipe else validate({"name": "search"}, "the search")
    wish = {name: options.pop(name) for name in Wish.model_fields}
    _search(given, model, data, wish, options, output, workers, cluster, json_file)


def _sets(overrides: tuple[str, ...], seed: int | None, fields: tuple[str, ...]) -> list[str]:
    """Everything that changes a recipe's settings, as --set has it."""
    sets = [*overrides, *([f"seed={seed}"] if seed is not None else [])]
    return sets + [
        f"text.fields.{name}={json.dumps(own)}" for name, own in _own_names(fields).items()
    ]


def _search(
    recipe: "Recipe",
    model: str | None,
    data: tuple[str, ...],
    wished: dict[str, Any],
    options: dict[str, Any],
    output: Path,
    workers: int | None = None,
    cluster: str | None = None,
    json_file: str | None = None,
) -> None:
    """Search, and show what was found."""
    from edgeprune.pipeline.joined import refuse_several
    from edgeprune.search.settings import SearchRunSettings, Wish
    from edgeprune.search.terminal import search_table

    refuse_several("A search", "give --workers or --cluster, and Ray shares its trials")

    wish, settings = _settings(Wish, **wished), _settings(SearchRunSettings, **options)
    try:
        from edgeprune.search.engine import engine
        from edgeprune.search.prepare import prepare
        from edgeprune.search.run import search as carry_out
    except ModuleNotFoundError as error:
        raise UserError(f"Searching needs the package {error.name}: {install('build')}.") from None
    prepared = prepare(recipe, model, data, wish, settings, output)
    with engine(prepared, workers, cluster) as trials:
        record = carry_out(prepared, trials)
    _show(record.to_json(), search_table(record, output), json_file)
    if record.verdict:
        raise RequirementMissed("; ".join(record.verdict) + ".")


@main.command(
    epilog=_examples(
        "calibrate",
        "calibrate --model ./my-encoder --only blocks",
    )
)
@click.option(
    "--model", type=PLACE, metavar="FOLDER|HUB_ID|package:NAME", help="Also time this one's blocks."
)
@click.option(
    "--only",
    "kinds",
    multiple=True,
    type=click.Choice(["formats", "break-even", "blocks"]),
    help="Measure this table; repeatable.  [default: all]",
)
@click.option(
    "--form",
    type=Listed("edgeprune.search.times.settings:FORMS"),
    help="Blocks: format of the linears.  [default: int8]",
)
@click.option("--work", type=WORK, help="Blocks: what to time of a decoder.  [default: prompt]")
@click.option("--batch", type=int, help="Blocks: texts per call.  [default: 1]")
@click.option("--tokens", type=int, help="Blocks: tokens per text, or prompt.  [default: 128]")
@click.option("--threads", type=int, help="Blocks: threads.  [default: 1]")
@click.option("--seed", type=int, help="Blocks: the seed of what is drawn.  [default: 0]")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Formats and break-even: calls of each linear.",
)
@click.option(
    "--remote", metavar="USER@HOST", help="Blocks: time there by ssh; needs edgeprune there."
)
@click.option("--remote-python", default="python3", metavar="PATH", help="The Python there.")
@_json_option
def calibrate(
    model: str | None,
    kinds: tuple[str, ...],
    rounds: int,
    remote: str | None,
    remote_python: str,
    json_file: str | None,
    **options: Any,
) -> None:
    """Measure how fast this machine is, once: builds for it are planned by what is kept.

    Formats and break-even take minutes on a quiet machine, the blocks of a small model two. The
    tables lie in your cache folder (EDGEPRUNE_CACHE) and hold for this processor and ONNX Runtime.
    """
    from edgeprune.search.times.settings import BlockSettings
    from edgeprune.search.times.table import calibrated_table

    settings = _settings(BlockSettings, **options)
    try:
        from edgeprune.search.times.calibrate import calibrate, calibrate_remotely
    except ModuleNotFoundError as error:
        raise UserError(
            f"Calibrating needs the package {error.name}: {install('build')}."
        ) from None
    if remote is None:
        result = calibrate(model, kinds, settings, rounds)  # type: ignore[arg-type]
    elif model is None or set(kinds) - {"blocks"}:
        raise UserError("--remote is for times of a model's blocks: give --model --only blocks.")
    else:
        result = calibrate_remotely(remote, model, settings, remote_python)
    _show(result.to_json(), calibrated_table(result), json_file)


@main.command(
    epilog=_examples(
        "report small",
        "report small smaller --output compared.html",
        "report small peer-speed.json peer-quality.json",
    )
)
@click.argument(
    "places",
    metavar="DIR|RESULT...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    callback=_replaceable,
    help="Output file.  [default: report.html in DIR; here, for several]",
)
def report(places: tuple[Path, ...], output: Path | None) -> None:
    """Redraw a build's report.html, or compare several builds on one page.

    DIR is an output folder of `edgeprune build`, or a bundle. RESULT is a --json file of `edgeprune
    bench` or `edgeprune evaluate`, for a build's bundle or for another model, which is then shown
    beside it.
    """
    from edgeprune.report.write import report as write

    click.echo(f"report  {write(places, output)}")


@main.command(
    epilog=_examples(
        "recipes",
        "recipes encoder --all",
    )
)
@click.argument("name", type=RECIPE, required=False)
@click.option("--all", "every", is_flag=True, help="Every setting of one; every method of all.")
@_json_option
def recipes(name: str | None, every: bool, json_file: str | None) -> None:
    """List the recipes that ship, or show one with its settings."""
    from edgeprune.pipeline import recipes as pages

    result = pages.one(name, every) if name else pages.all_of_them(every)
    _show(result, pages.table(result), json_file)
