"""EdgePrune: small, fast ONNX bundles from Hugging Face transformers, proved by measurement.

`build` makes a bundle of a model; `load` runs one, `evaluate` measures its quality and `bench` its
speed, on a device too, where nothing of torch is installed. docs/stability.md says what of this
stays as it is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, overload

from edgeprune.base.errors import RequirementMissed, UserError
from edgeprune.base.version import __version__

if TYPE_CHECKING:
    from edgeprune.measure.bench.record import Comparison, Speed
    from edgeprune.measure.evaluate.result import Evaluation
    from edgeprune.runtime.answer import Answerer
    from edgeprune.runtime.bundle import Bundle
    from edgeprune.runtime.classify import Classifier
    from edgeprune.runtime.embed import Embedder
    from edgeprune.runtime.fill import Filler
    from edgeprune.runtime.generate import Generator
    from edgeprune.runtime.tag import Tagger

__all__ = [
    "Bundle",
    "RequirementMissed",
    "UserError",
    "__version__",
    "bench",
    "build",
    "evaluate",
    "load",
]


def build(
    model: str | Path | None = None,
    text: str | Path | Sequence[str | Path] = (),
    recipe: str | Path = "encoder",
    *,
    output: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
) -> "Bundle":
    """Build a small, fast bundle of a model, and measure it beside the original.

    Progress goes to standard error. A build that was killed goes on after its last whole stage.

    Args:
        model: a Hugging Face folder, a hub id, a GGUF file, or `package:NAME`; None takes the
            recipe's own.
        text: what to learn from, such as a .txt file of the user's, or several; nothing given takes
            the recipe's own.
        recipe: the name of one that ships, or a YAML file.
        output: the folder for the bundle, the original's bundle, the report and what resumes a
            build; build/RECIPE where not given.
        settings: values of recipe keys, by their path, such as {"prune.steps": 200}.
        fresh: forget what an earlier build left in the output folder.

    Returns:
        The bundle, in the output folder's `bundle`; its `manifest` holds what every stage did and
        measured.

    Raises:
        UserError: something given cannot be used; the sentence says what to do.
        RequirementMissed: the bundle is built and measured, and misses what the recipe requires.

    Examples:
        >>> bundle = edgeprune.build("model", "text.txt", "encoder-int8", output="small")
        >>> bundle.task
        'feature-extraction'
    """
    import json

    from edgeprune.pipeline.build import prepare
    from edgeprune.pipeline.recipe import read_recipe
    from edgeprune.pipeline.run import run
    from edgeprune.runtime.bundle import Bundle

    texts = [text] if isinstance(text, str | Path) else text
    try:
        sets = [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    except TypeError as error:
        raise UserError(f"settings hold what YAML cannot: {error}.") from None
    prepared = prepare(
        read_recipe(str(recipe), sets),
        None if model is None else str(model),
        tuple(map(str, texts)),
        None if output is None else Path(output),
    )
    outcome = run(prepared, fresh)
    if outcome.missed:
        raise RequirementMissed("; ".join(outcome.missed) + ".")
    return Bundle.open(outcome.bundle)


def load(
    bundle: Union[str, Path, "Bundle"], threads: int | None = None, variant: str | None = None
) -> Union["Embedder", "Classifier", "Tagger", "Answerer", "Filler", "Generator"]:
    """Load a bundle for what its task is, such as to embed, to classify or to generate.

    Args:
        bundle: a bundle's folder, or an opened `Bundle`; any folder with an ONNX model and its
            tokenizer.
        threads: for the matrix products; None takes all cores that may be used: those of
            the fastest kind, within a container's share and the affinity.
        variant: the name of one of its graphs, of a folder that holds several; None: the one that
            this processor runs fastest.

    Raises:
        UserError: the bundle is damaged, has no such variant, or needs a newer ONNX Runtime.

    Examples:
        >>> model = edgeprune.load("small/bundle", threads=1)
        >>> model.embed(["w001 w002 w003", "w004 w005"]).shape
        (2, 32)
    """
    from edgeprune import runtime

    return runtime.load(bundle, threads, variant)


def evaluate(
    bundle: Union[str, Path, "Bundle"],
    task: str,
    data: str | Path,
    against: Union[str, Path, "Bundle", None] = None,
    **options: Any,
) -> "Evaluation":
    """Measure a bundle's quality, beside the original's where `against` names it.

    Args:
        bundle: a bundle, a folder with an ONNX model, or a Hugging Face folder.
        task: a measure, as `edgeprune evaluate --help` lists them.
        data: what the measure reads: a file, a folder of text, or a dataset's name on the hub.
        against: the original, in any of the forms of `bundle`.
        **options: limit, window, stride, group, fields, languages, keep_rows, classes, examples,
            as `edgeprune.measure.evaluate.measures.evaluate` describes them.

    Returns:
        The values with 95 % intervals; with `against` the original's and their difference.

    Raises:
        UserError: an unknown measure, one that does not fit the bundle, or data of another form.

    Examples:
        >>> found = edgeprune.evaluate("small/bundle", "cosine", "text.txt", "small/original")
        >>> bool(0.9 < found.values["mean_cosine"] <= 1)
        True
    """
    from edgeprune.measure.evaluate import measures

    return measures.evaluate(bundle, task, data, against=against, **options)


@overload
def bench(bundle: Union[str, Path, "Bundle"], against: None = None, **settings: Any) -> "Speed": ...
@overload
def bench(
    bundle: Union[str, Path, "Bundle"], against: str | Path, **settings: Any
) -> "Comparison": ...
def bench(
    bundle: Union[str, Path, "Bundle"], against: str | Path | None = None, **settings: Any
) -> "Speed":
    """Time a model, alone or interleaved with another, in processes of their own.

    Args:
        bundle: a bundle, a folder with an ONNX model, a Hugging Face folder, an ONNX file,
            `torch:FOLDER`, `command:PROGRAM` or `stock:BUNDLE`, as `edgeprune bench` takes them;
            or an opened `Bundle`, as `Bundle.open(folder, variant)` gives.
        against: the same, for the baseline.
        **settings: batch, tokens, threads, launches, time_limit and the like, as
            `edgeprune.measure.bench.settings.BenchSettings` describes them.

    Returns:
        Milliseconds, bytes and memory of both; with `against` how many times as fast the bundle is,
        with its 95 % interval.

    Raises:
        UserError: a model cannot be opened or run, or the two do different tasks.

    Examples:
        >>> quick = {"tokens": 12, "launches": 2, "time_limit": 0.2}
        >>> found = edgeprune.bench("small/bundle", "small/original", **quick)
        >>> ratio = found.measures["encoder"].ratio
        >>> 0 < ratio.low <= ratio.high
        True
    """
    from pydantic import ValidationError

    from edgeprune.measure.bench.compare import compare, measure
    from edgeprune.measure.bench.settings import BenchSettings
    from edgeprune.runtime.bundle import Bundle

    try:
        chosen = BenchSettings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    place = bundle if isinstance(bundle, Bundle) else str(bundle)
    return measure(place, chosen) if against is None else compare(place, str(against), chosen)


def __getattr__(name: str) -> Any:
    """`Bundle`, imported on use: what a command line does not need costs it nothing."""
    if name == "Bundle":
        from edgeprune.runtime.bundle import Bundle

        return Bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
