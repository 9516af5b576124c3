"""One list of tasks: a row says everything by which one differs from the others.

What a row names as "module:name" belongs to a room above and is imported on use, by
`edgeprune.base.registry.load_function`: the list itself needs neither torch nor a runtime. Every
other file asks a row for a fact and compares no task's name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeprune.base.errors import UserError
from edgeprune.model.settings import is_causal
from edgeprune.text.labels import label_names

Head = Literal["labels", "vocabulary", "span"]
"""The output of a model's head: a logit for each label of a text or of each of its tokens, for each
token of the vocabulary that may follow one of the text or stand in its place, or two for each token
of the text, to be the first and the last of an answer."""


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str
    """The Hugging Face hub's name, as it stands in records and manifests."""
    models: str
    """The noun for its models in a sentence."""
    classes: tuple[str, ...]
    """Endings of the architectures' classes that are for it; of the one without any are all that
    no other names."""
    loader: str
    """The class of transformers that reads a model."""
    outputs: tuple[str, ...]
    """The outputs of its graph: the fields of the module's answer, and the outputs' names."""
    answer: str
    """The class of that answer; a graph with a cache answers by a dictionary."""
    reads: Literal[
        "sentences",
        "labelled",
        "multi-labelled",
        "scored",
        "tagged",
        "asked",
        "masked",
        "windows",
    ]
    """The form in which it learns from text: sentences, texts with a label, with several or with a
    score, words with a label each, questions with a context, texts of which some tokens are masked,
    windows of tokens."""
    columns: tuple[str, ...]
    """Fields of the data that it learns from."""
    objective: str
    """The module in which training and scores find what tells a model from its original."""
    runtime: str
    """The class that runs a bundle."""
    terminal: str
    """The function that writes answers for the command line."""
    service: str
    """The class that answers over HTTP."""
    path: str
    """The path at which it does."""
    answers: str
    """The name of the answers in its JSON."""
    card: str
    """The template of the model card's part on how to use it."""
    works: tuple[str, ...]
    """The kinds of work that a benchmark times, by their names in edgeprune.measure.works."""
    measures: tuple[str, ...]
    """The quality measures that fit, by their names in edgeprune.measure.evaluate.measures."""
    held_out: tuple[str, ...]
    """Those that a build asks on its held-out text, the main one first."""
    build_measures: Mapping[str, str] = field(default_factory=dict)
    """Further measurements of a build: the key in its record -> a name in
    edgeprune.pipeline.measure.stage."""
    head: Head | None = None
    """The output of the linears outside the blocks; None: they are left out."""
    logits_axes: int = 0
    """Axes of the graph's logits; 0 where it has none."""
    tag: str = ""
    """The hub's name of the task, where it has none of its own."""
    problem: str | None = None
    """Of what kind the labels are, as `problem_of` has it, where several tasks share a class."""
    needs_class: bool = False
    """Whether a graph is only known to be for it where the architecture's class says so, since
    other tasks' logits have as many axes."""
    sees_both_sides: bool = False
    """Whether only models of it run whose tokens see those after them too."""
    pairs: bool = False
    """Whether two texts may be read together."""
    generates: bool = False
    """Whether text is written token by token, with a key-value cache."""
    run_options: tuple[str, ...] = ()
    """Options of `edgeprune run` that its models know, beyond those that all do."""
    pools: bool = False
    """Whether an answer is the states of a text's tokens, pooled as sentence-transformers says."""


_ROWS = (
    Task(
        name="feature-extraction",
        models="sentence encoders",
        classes=(),
        loader="AutoModel",
        outputs=("last_hidden_state",),
        answer="transformers.modeling_outputs.BaseModelOutput",
        reads="sentences",
        columns=("text",),
        objective="edgeprune.compress.objectives.embedding",
        runtime="edgeprune.runtime.embed:Embedder",
        terminal="edgeprune.runtime.terminal:answer_lines",
        service="edgeprune.service.embeddings:EmbeddingAnswers",
        path="/embed",
        answers="embeddings",
        card="use-feature-extraction.md",
        works=("encoder",),
        measures=("sts", "cosine", "retrieval", "mixing", "vectors", "ranking"),
        held_out=("cosine",),
        build_measures={"batching": "embeddings alone", "neighbours": "neighbours"},
        pools=True,
        run_options=("--prompt", "--chunk"),
    ),
    Task(
        name="text-classification",
        models="classifiers of whole texts (ForSequenceClassification)",
        classes=("ForSequenceClassification",),
        problem="single_label_classification",
        loader="AutoModelForSequenceClassification",
        outputs=("logits",),
        answer="transformers.modeling_outputs.SequenceClassifierOutput",
        reads="labelled",
        columns=("text", "label"),
        objective="edgeprune.compress.objectives.classification",
        runtime="edgeprune.runtime.classify:Classifier",
        terminal="edgeprune.runtime.terminal:answer_lines",
        service="edgeprune.service.predicting:ClassifierAnswers",
        path="/classify",
        answers="predictions",
        card="use-text-classification.md",
        works=("encoder",),
        measures=("classification", "calibration"),
        held_out=("classification",),
        build_measures={"batching": "predictions alone"},
        head="labels",
        logits_axes=2,
        pairs=True,
        run_options=("--pair", "--labels"),
    ),
    Task(
        name="multi-label-classification",
        tag="text-classification",
        models="classifiers with several labels a text (problem_type multi_label_classification)",
        classes=("ForSequenceClassification",),
        problem="multi_label_classification",
        loader="AutoModelForSequenceClassification",
        outputs=("logits",),
        answer="transformers.modeling_outputs.SequenceClassifierOutput",
        reads="multi-labelled",
        columns=("text", "labels"),
        objective="edgeprune.compress.objectives.multilabel",
        runtime="edgeprune.runtime.multilabel:MultiLabelClassifier",
        terminal="edgeprune.runtime.terminal:answer_lines",
        service="edgeprune.service.predicting:PredictionAnswers",
        path="/labels",
        answers="predictions",
        card="use-multi-label-classification.md",
        works=("encoder",),
        measures=("multilabel",),
        held_out=("multilabel",),
        build_measures={"batching": "predictions alone"},
        head="labels",
        logits_axes=2,
        pairs=True,
        run_options=("--pair",),
    ),
    Task(
        name="text-ranking",
        models="rerankers and regressions (ForSequenceClassification of one label)",
        classes=("ForSequenceClassification",),
        problem="regression",
        loader="AutoModelForSequenceClassification",
        outputs=("logits",),
        answer="transformers.modeling_outputs.SequenceClassifierOutput",
        reads="scored",
        columns=("text", "score"),
        objective="edgeprune.compress.objectives.regression",
        runtime="edgeprune.runtime.rank:Ranker",
        terminal="edgeprune.runtime.terminal:answer_lines",
        service="edgeprune.service.reranking:RankingAnswers",
        path="/score",
        answers="predictions",
        card="use-text-ranking.md",
        works=("encoder",),
        measures=("correlation", "ranking"),
        held_out=("correlation",),
        build_measures={"batching": "predictions alone"},
        head="labels",
        logits_axes=2,
        pairs=True,
        run_options=("--pair", "--documents"),
    ),
    Task(
        name="token-classification",
        models="classifiers of tokens (ForTokenClassification)",
        classes=("ForTokenClassification",),
        loader="AutoModelForTokenClassification",
        outputs=("logits",),
        answer="transformers.modeling_outputs.TokenClassifierOutput",
        reads="tagged",
        columns=("tokens", "tags"),
        objective="edgeprune.compress.objectives.tagging",
        runtime="edgeprune.runtime.tag:Tagger",
        terminal="edgeprune.runtime.terminal:answer_lines",
        service="edgeprune.service.answers:TextAnswers",
        path="/tag",
        answers="entities",
        card="use-token-classification.md",
        works=("encoder",),
        measures=("entities",),
        held_out=("entities",),
        head="labels",
        logits_axes=3,
        needs_class=True,
        sees_both_sides=True,
    ),
    Task(
        name="question-answering",
        models="models that mark an answer in a context (ForQuestionAnswering)",
        classes=("ForQuestionAnswering",),
        loader="AutoModelForQuestionAnswering",
        outputs=("start_logits", "end_logits"),
        answer="transformers.modeling_outputs.QuestionAnsweringModelOutput",
        reads="asked",
        columns=("question", "context", "answers"),
        objective="edgeprune.compress.objectives.spans",
        runtime="edgeprune.runtime.answer:Answerer",
        terminal="edgeprune.runtime.terminal:question_lines",
        service="edgeprune.service.questions:QuestionAnswers",
        path="/answer",
        answers="answers",
        card="use-question-answering.md",
        works=("encoder",),
        measures=("spans", "same_spans"),
        held_out=("spans", "same_spans"),
        head="span",
        sees_both_sides=True,
        pairs=True,
        run_options=("--pair", "--top-k"),
    ),
    Task(
        name="fill-mask",
        models="encoders that fill in masked tokens (ForMaskedLM)",
        classes=("ForMaskedLM",),
        loader="AutoModelForMaskedLM",
        outputs=("logits",),
        answer="transformers.modeling_outputs.MaskedLMOutput",
        reads="masked",
        columns=("text",),
        objective="edgeprune.compress.objectives.masked",
        runtime="edgeprune.runtime.fill:Filler",
        terminal="edgeprune.runtime.terminal:fill_lines",
        service="edgeprune.service.fills:FillAnswers",
        path="/fill",
        answers="fills",
        card="use-fill-mask.md",
        works=("encoder",),
        measures=("masked", "masked_kl"),
        held_out=("masked", "masked_kl"),
        head="vocabulary",
        logits_axes=3,
        needs_class=True,
        sees_both_sides=True,
        run_options=("--top-k", "--target"),
    ),
    Task(
        name="text-generation",
        models="decoders (ForCausalLM)",
        classes=("ForCausalLM", "LMHeadModel"),
        loader="AutoModelForCausalLM",
        outputs=("logits",),
        answer="builtins.dict",
        reads="windows",
        columns=("text",),
        objective="edgeprune.compress.objectives.generation",
        runtime="edgeprune.runtime.generate:Generator",
        terminal="edgeprune.runtime.terminal:stream_texts",
        service="edgeprune.service.generating:GeneratedAnswers",
        path="/generate",
        answers="text",
        card="use-text-generation.md",
        works=("prompt", "decode"),
        measures=("calibration", "perplexity", "kl", "choice", "cloze", "generation"),
        held_out=("perplexity", "kl"),
        head="vocabulary",
        logits_axes=3,
        needs_class=True,
        generates=True,
        run_options=(
            *("--raw", "--max-tokens", "--temperature", "--top-k", "--top-p", "--min-p"),
            *("--repetition-penalty", "--frequency-penalty", "--presence-penalty", "--stop"),
            *("--seed", "--lookup"),
        ),
    ),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _ROWS}
"""The tasks by name."""

_REFUSED = ("ForMultipleChoice",)
"""Endings of classes whose head would be lost."""


def task_of(config: Mapping[str, Any]) -> Task:
    """The task of a configuration, by the ending of its architecture's class.

    Raises:
        UserError: its head is of a kind that would be lost, or is not what its layers are for.
    """
    architecture = (config.get("architectures") or [""])[0]
    if architecture.endswith(_REFUSED):
        *others, last = (task.models for task in _ROWS)
        raise UserError(
            f"{architecture} has a head that EdgePrune does not run: it takes "
            f"{', '.join(others)} and {last}."
        )
    for task in _ROWS:
        if architecture.endswith(task.classes) and task.problem in (None, problem_of(config)):
            if task.generates and not is_causal(config):
                raise UserError(
                    f"{architecture} writes text with an encoder's layers, which EdgePrune does "
                    "not run."
                )
            if task.sees_both_sides and is_causal(config):
                raise UserError(
                    f"{architecture} answers for each token with a decoder's layers, which "
                    "EdgePrune does not run: take one with an encoder's, such as BERT's."
                )
            return task
    return next(task for task in _ROWS if not task.classes)


def problem_of(config: Mapping[str, Any]) -> str:
    """The kind of a configuration's labels, in the words of its problem_type: one of several, any
    number of them, or a single logit, whatever that is said to be.

    Raises:
        UserError: it is none of these.
    """
    count, stated = len(label_names(config)), config.get("problem_type")
    if count == 1:
        return "regression"
    if stated == "regression":
        raise UserError(
            f"config.json says that this is a regression of {count} values, and EdgePrune takes "
            "those of one."
        )
    kind = str(stated or "single_label_classification")
    if kind not in (known := [task.problem for task in _ROWS if task.problem]):
        raise UserError(
            f"config.json says problem_type: {kind}, which is none of {', '.join(map(str, known))}."
        )
    return kind


def base_class(architecture: str) -> str:
    """The class of the same layers without a head, which sentence-transformers reads of a model
    whatever head its weights have."""
    return re.sub(r"(For[A-Z]\w*|LMHeadModel)$", "Model", architecture)


def task_of_graph(
    outputs: Mapping[str, int | None], config: Mapping[str, Any] | None = None
) -> Task | None:
    """The task of an ONNX graph that nobody named, by its outputs; None where they do not tell.

    Args:
        outputs: their axes by name, None where the graph does not say.
        config: its configuration, where that was read.
    """
    config = config or {}
    architectures = " ".join(config.get("architectures") or [])
    pooling = next(task for task in _ROWS if task.pools)
    cached = any(name.startswith("present") for name in outputs)
    if cached and set(pooling.outputs) <= outputs.keys() and "logits" not in outputs:
        return pooling  # some exporters leave an embedding decoder its cache
    if cached:
        return next(task for task in _ROWS if task.generates)
    for task in _ROWS:
        if len(task.outputs) > 1 and set(task.outputs) <= outputs.keys():
            return task
    for task in _ROWS:
        named = any(ending in architectures for ending in task.classes)
        if (
            task.logits_axes == outputs.get("logits", 0)
            and (named or not task.needs_class)
            and task.problem in (None, problem_of(config))
        ):
            return task
    return None


def task_doing(works: tuple[str, ...]) -> Task | None:
    """The only task whose models do all of these kinds of work; None where several do."""
    doing = [task for task in _ROWS if set(works) <= set(task.works)]
    return doing[0] if len(doing) == 1 else None
