"""The quality measures by name, and how one is run on a bundle."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

from edgeprune.base.errors import UserError
from edgeprune.base.registry import load_function
from edgeprune.export.opened import name_of, open_model
from edgeprune.measure.evaluate.changes import changed
from edgeprune.measure.evaluate.data import Data
from edgeprune.measure.evaluate.result import Evaluation, Quality
from edgeprune.measure.evaluate.summary import by_class, by_group, summary, worst
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.vocabulary import KEPT
from edgeprune.text import answers
from edgeprune.text.files import Row, number_of, text_of
from edgeprune.text.pairs import FIELDS

# Of the options; a window of one token predicts none.
_LEAST = {"window": 2, "stride": 1}


Read = Callable[[Row, str, str | Path], Any]
"""(row, field, where the row comes from) -> the field's value."""


def _as_it_is(row: Row, name: str, place: str | Path) -> Any:
    return row[name]


@dataclass(frozen=True)
class Measure:
    """A quality measure: where its function is, and what it needs. Rows of tasks say what it
    fits."""

    name: str
    function: str  # "module:function" of bundle, (original,) data and options; imported on use
    against_original: bool = False  # whether it compares two models token by token or text by text
    equal: float = 0.0  # of one that does: its main value where both are the same
    options: tuple[str, ...] = ()  # which of window and stride it takes
    per_token: str | None = None  # the measure in its place for models of different tokens
    own: bool = False  # whether a build takes it as measure.task, on data of the user's
    fields: Mapping[str, Read] = field(default_factory=dict)  # of such rows, and how each is read
    further: tuple[str, ...] = ()  # such as are read where rows have them
    reads: str | None = None  # "module:function" of data in a form of its own, which refuses
    check: str | None = None  # "module:function" of rows, config.json and their place that refuses
    rather: tuple[str, str] | None = None  # a field of rows that another measure reads, and which

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of the bundles that it fits."""
        return tuple(task.name for task in TASKS.values() if self.name in task.measures)


_MEASURES = (
    Measure(
        "sts",
        "edgeprune.measure.evaluate.sts:sts",
        own=True,
        fields={"text": text_of, "text_pair": text_of, "score": number_of},
    ),
    Measure("cosine", "edgeprune.measure.evaluate.cosine:cosine", against_original=True, equal=1.0),
    Measure(
        "retrieval",
        "edgeprune.measure.evaluate.retrieval:retrieval",
        against_original=True,
        equal=100.0,
    ),
    Measure(
        "mixing", "edgeprune.measure.evaluate.mixing:mixing", against_original=True, equal=100.0
    ),
    Measure(
        "vectors", "edgeprune.measure.evaluate.vectors:vectors", against_original=True, equal=100.0
    ),
    Measure(
        "classification",
        "edgeprune.measure.evaluate.classification:classification",
        own=True,
        fields={"text": text_of, "label": _as_it_is},
        further=FIELDS[1:],
        check="edgeprune.measure.evaluate.classification:check_rows",
    ),
    Measure(
        "multilabel",
        "edgeprune.measure.evaluate.multilabel:multilabel",
        own=True,
        fields={"text": text_of, "labels": _as_it_is},
        further=FIELDS[1:],
        check="edgeprune.measure.evaluate.multilabel:check_rows",
    ),
    Measure(
        "correlation",
        "edgeprune.measure.evaluate.correlation:correlation",
        own=True,
        fields={"text": text_of, "score": number_of},
        further=FIELDS[1:],
    ),
    Measure(
        "ranking",
        "edgeprune.measure.evaluate.ranking:ranking",
        own=True,
        reads="edgeprune.measure.evaluate.ranking:read",
    ),
    Measure(
        "entities",
        "edgeprune.measure.evaluate.entities:entities",
        own=True,
        fields={"tokens": _as_it_is, "tags": _as_it_is},
        check="edgeprune.measure.evaluate.entities:check_rows",
    ),
    Measure(
        "spans",
        "edgeprune.measure.evaluate.spans:spans",
        own=True,
        fields={"question": text_of, "context": text_of},
        further=answers.FURTHER,
        check="edgeprune.measure.evaluate.spans:check_rows",
    ),
    Measure(
        "same_spans",
        "edgeprune.measure.evaluate.spans:same_spans",
        against_original=True,
        equal=100.0,
    ),
    Measure("masked", "edgeprune.measure.evaluate.masked:masked", per_token="masked_kl", own=True),
    Measure("masked_kl", "edgeprune.measure.evaluate.masked:masked_kl", against_original=True),
    Measure("calibration", "edgeprune.measure.evaluate.calibration:calibration"),
    Measure(
        "perplexity",
        "edgeprune.measure.evaluate.perplexity:perplexity",
        options=("window", "stride"),
        per_token="kl",
        own=True,
    ),
    Measure("kl", "edgeprune.measure.evaluate.kl:kl", against_original=True, options=("window",)),
    Measure(
        "choice",
        "edgeprune.measure.evaluate.choice:choice",
        own=True,
        fields={"query": text_of, "choices": _as_it_is, "gold": _as_it_is},
        check="edgeprune.measure.evaluate.choice:check_rows",
    ),
    Measure(
        "cloze",
        "edgeprune.measure.evaluate.cloze:cloze",
        own=True,
        fields={"context": text_of, "continuation": text_of},
    ),
    Measure(
        "generation",
        "edgeprune.measure.evaluate.generation:generation",
        own=True,
        fields={"prompt": text_of, "answer": text_of},
        rather=("choices", "choice"),
    ),
)
MEASURES = {measure.name: measure for measure in _MEASURES}


def evaluate(
    bundle: str | Path | Bundle,
    task: str,
    data: str | Path,
    limit: int | None = None,
    against: str | Path | Bundle | None = None,
    window: int | None = None,
    stride: int | None = None,
    group: str | None = None,
    fields: Mapping[str, str] | None = None,
    languages: bool = False,
    keep_rows: bool = False,
    classes: bool = True,
    examples: int = 0,
) -> Evaluation:
    """Measure a bundle's quality, beside the original's where `against` names it.

    Args:
        task: a name in MEASURES.
        data: what the measure reads: a file, a folder of text, or a Hugging Face dataset's name.
        limit: rows or texts at most, drawn by a seed, of each group and label in proportion; or
            the first windows (of each group).
        against: the original: a bundle, an ONNX folder, or a Hugging Face folder.
        window: tokens of a window, for perplexity and kl; 512 where not given.
        stride: tokens from one window's start to the next's, for perplexity; the window's where not
            given.
        group: the field of the rows by whose values the result is also given group by group.
        fields: for a field that the measure reads, the data's own name of it.
        languages: also give the result language by language: by the rows' field `lang`, or else by
            the script of their text.
        keep_rows: also return what each row scored.
        classes: also measure class by class, where rows have classes.
        examples: texts to name that the original classifies rightly and the bundle does not.

    Returns:
        The values with 95 % bootstrap intervals over rows; with `against` also the original's and
        the paired differences, where the measure is one model's own; where rows have classes, the
        same of each.

    Raises:
        UserError: an unknown task, one that does not fit the bundle, or bad data.
    """
    measure = _find(task)
    options = _options(task, measure, window, stride)
    if examples < 0:
        raise UserError(f"--examples must be at least 0, not {examples}.")
    if limit is not None and limit < 1:
        raise UserError(f"The limit must be at least 1, not {limit}.")
    if measure.against_original and against is None:
        raise UserError(f"{task} compares with the original: name it with --against.")
    function: Callable[..., Quality] = load_function(measure.function)
    if not str(data).strip():
        raise UserError("The data is empty, as an unset variable is; name a file or a hub id.")
    if languages and group is not None:
        raise UserError("--languages groups rows by language: leave --group out.")
    source = Data(data, limit, group, fields, languages)
    original = None
    with ExitStack() as stack:
        models = [
            _fitting(stack.enter_context(open_model(place)), task, measure)
            for place in (bundle, against)
            if place is not None
        ]
        if measure.per_token:
            _check_tokens(measure, models)
        if measure.against_original:
            candidate = _checked(function(*models, source, **options), task, models[0])
        else:
            candidate, *others = [
                _checked(function(model, source, **options), task, model) for model in models
            ]
            original = others[0] if others else None
    conditions = dict(candidate.conditions)
    if cut := models[0].cut_texts:
        conditions["texts_cut"] = cut
    more: dict[str, Any] = {}
    if models[0].graph_sha256 is not None:
        more["graph"] = models[0].graph_sha256
    if against is not None:
        more["against"] = name_of(against)
    if source.sample:
        more["sample"] = source.sample
    if source.group is not None:
        if candidate.groups is None:
            raise UserError(
                f"{source.place} has no rows whose fields --group and --languages could read: "
                "leave them out."
            )
        groups = by_group(candidate, original)
        more |= {"group": source.group, "groups": groups}
        more["worst"] = worst({name: each.values for name, each in groups.items()})
        if original is not None:
            losses = {name: each.difference for name, each in groups.items()}
            more["largest_loss"] = worst(losses)
    if classes and candidate.classes:
        more["classes"] = by_class(candidate, original)
        if told := changed(candidate, original, examples):
            more["changes"] = told
    if keep_rows:
        more["rows"] = {"bundle": _listed(candidate)}
        if original is not None:
            more["rows"]["original"] = _listed(original)
    return Evaluation(
        task=task,
        data=source.place,
        bundle=name_of(bundle),
        conditions=conditions,
        **summary(candidate, original).to_json(),
        **more,
    )


def _find(task: str) -> Measure:
    if task not in MEASURES:
        near = get_close_matches(task, MEASURES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"There is no measure {task!r}: take one of {', '.join(MEASURES)}.{hint}")
    return MEASURES[task]


def _options(task: str, measure: Measure, window: int | None, stride: int | None) -> dict[str, int]:
    """The options that were given, which the measure must take."""
    given = {"window": window, "stride": stride}
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        if name not in measure.options:
            raise UserError(f"{task} does not use --{name}: leave it out.")
        if value < _LEAST[name]:
            raise UserError(f"--{name} must be at least {_LEAST[name]}, not {value}.")
    return found


def _fitting(bundle: Bundle, task: str, measure: Measure) -> Bundle:
    bundle.verify()
    if task not in (fitting := TASKS[bundle.task].measures):
        raise UserError(
            f"{task} measures {' and '.join(measure.tasks)}, and {bundle.folder} does "
            f"{bundle.task}: take {' or '.join(fitting)}."
        )
    return bundle


def _check_tokens(measure: Measure, models: Sequence[Bundle]) -> None:
    """Refuse to compare token by token where one model's vocabulary was trimmed."""
    kept = [model.read_json(KEPT) for model in models]
    if any(each != kept[0] for each in kept[1:]):
        raise UserError(
            f"The vocabulary of {models[0].folder} or {models[1].folder} was trimmed, and "
            f"{measure.name} of other tokens does not compare: take {measure.per_token}, which "
            "looks at the same tokens."
        )


def _checked(quality: Quality, task: str, bundle: Bundle) -> Quality:
    """Refuse values that are NaN or infinite."""
    if not all(isfinite(value) for value in quality.values().values()):
        raise UserError(f"{bundle.folder} produced NaN or infinite outputs: {task} fails.")
    return quality


def _listed(quality: Quality) -> dict[str, list[Any]]:
    return {name: score.tolist() for name, score in quality.scores.items()}
