"""What a bundle is asked, and what transformers answers of the model that it was made of."""

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import transformers as t
from click.testing import CliRunner
from usage_models import (
    LABELS,
    PARTS,
    TAGS,
    TYPES,
    Head,
    Saved,
    in_half,
    in_shards,
    named,
    pieces_alone,
    pooled_by,
    sentences,
    texts,
    vocabulary_alone,
    with_buffers,
    with_chat,
    with_prompts,
)

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from without_measuring import leave_out_measuring

import edgeprune
from edgeprune.cli import main
from edgeprune.export.rewrite.verify import complete_feed, outputs_of
from edgeprune.model.families import known_model_types
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import Bundle

TOLERANCE = 1e-4
"""The largest difference of a number that float32 answers may have."""
_RECIPE = """
name: usage
text: {max_tokens: 48, batch_tokens: 512, held_out: 0.2, held_out_samples: 16}
measure: {tokens: 16, seconds: 0.1, profile: false, curve: [], stages: false}
"""
_WRITTEN = 8
"""Tokens that a decoder writes after a text."""

Answer = tuple[Any, np.ndarray]
"""What is the same or is not, such as labels and written words; and numbers."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way in which models of a kind are saved, and what they are asked."""

    name: str
    task: str
    """The task's name in the list of tasks."""
    head: Head
    learnt: Callable[[int, str], Row]
    """A row to learn from, by its number and text."""
    asked: Callable[[Path, Sequence[Row]], list[Answer]]
    """The answers of transformers to rows."""
    told: Callable[[Row], Answer]
    """The same of a line that `edgeprune run` writes."""
    options: tuple[str, ...] = ()
    """Further ones of `edgeprune run`."""
    saved: tuple[Saved, ...] = ()
    """Changes of the files that transformers writes."""
    posed: Callable[[str, Any], Row] = lambda text, tokenizer: {"text": text}
    """A row to answer, by its text and the model's tokenizer."""

    def rows(self, model: Path) -> list[Row]:
        """The rows to answer."""
        tokenizer = t.AutoTokenizer.from_pretrained(model)
        return [self.posed(text, tokenizer) for text in texts()]


# Sentence encoders -----------------------------------------------------------------------------


def _pooled(model: Path, rows: Sequence[Row]) -> list[Answer]:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": "float32"})
    return [("", encoder.encode(row["text"])) for row in rows]


def _states(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("feature-extraction", str(model), device="cpu")
    return [("", np.mean(pipeline(row["text"])[0], axis=0)) for row in rows]


def _embedded(row: Row) -> Answer:
    return "", np.asarray(row["embedding"])


def _plain(number: int, text: str) -> Row:
    return {"text": text}


# Classifiers -----------------------------------------------------------------------------------


def _labelled(number: int, text: str) -> Row:
    return {"text": text, "label": LABELS[number % len(LABELS)]}


def _classes(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("text-classification", str(model), device="cpu", top_k=None)
    answers = [pipeline([row["text"]])[0] for row in rows]
    return [_scored({one["label"]: one["score"] for one in each}) for each in answers]


def _classified(row: Row) -> Answer:
    return _scored(row["probabilities"])


def _scored(scores: Mapping[str, float]) -> Answer:
    best = max(scores, key=lambda label: scores[label])
    return best, np.array([scores[label] for label in sorted(scores)])


def _tagged(number: int, text: str) -> Row:
    return {"tokens": text.split(), "tags": [0] * len(text.split())}


def _entities(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline(
        "token-classification", str(model), device="cpu", aggregation_strategy="simple"
    )
    return [_spans(pipeline(row["text"]), "entity_group") for row in rows]


def _found(row: Row) -> Answer:
    return _spans(row["entities"], "label")


def _spans(entities: Sequence[Mapping[str, Any]], label: str) -> Answer:
    spans = [(one["start"], one["end"], one[label]) for one in entities]
    return spans, np.array([one["score"] for one in entities])


# Fills and pairs -------------------------------------------------------------------------------


def _masked(text: str, tokenizer: Any) -> Row:
    """A text without its third and, where it is long, its eighth word."""
    words = text.split()
    for place in (2, 7)[: 1 + (len(words) > 9)]:
        words[place] = tokenizer.mask_token
    return {"text": " ".join(words)}


def _filled(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("fill-mask", str(model), device="cpu")
    found = [pipeline(row["text"]) for row in rows]
    return [_fills(one if isinstance(one[0], list) else [one]) for one in found]


def _fills(masks: Sequence[Sequence[Mapping[str, Any]]]) -> Answer:
    fills = [fill for fills in masks for fill in fills]
    said = [(fill["token"], fill["token_str"], fill["sequence"]) for fill in fills]
    return said, np.array([fill["score"] for fill in fills])


def _pair(text: str, tokenizer: Any) -> Row:
    """A text beside one of the others."""
    return {"text": text, "text_pair": sentences()[len(text) % len(sentences())]}


def _scored_pair(number: int, text: str) -> Row:
    return {**_pair(text, None), "score": number % 5 / 4}


def _ranked(model: Path, rows: Sequence[Row]) -> list[Answer]:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(model), device="cpu")
    return [("", np.array(encoder.predict((row["text"], row["text_pair"])))) for row in rows]


# Decoders --------------------------------------------------------------------------------------


def _continued(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("text-generation", str(model), device="cpu", dtype="float32")
    settings = {"max_new_tokens": _WRITTEN, "do_sample": False, "return_full_text": False}
    return [(pipeline(row["text"], **settings)[0]["generated_text"], np.zeros(0)) for row in rows]


def _chatted(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("text-generation", str(model), device="cpu", dtype="float32")
    settings = {"max_new_tokens": _WRITTEN, "do_sample": False}
    found = []
    for row in rows:
        [answer] = pipeline([{"role": "user", "content": row["text"]}], **settings)
        found.append((answer["generated_text"][-1]["content"], np.zeros(0)))
    return found


def _written(row: Row) -> Answer:
    return row["generated"], np.zeros(0)


# Ways ------------------------------------------------------------------------------------------


_MEAN, _FIRST, _LAST = map(pooled_by, ("mean_tokens", "cls_token", "lasttoken"))
_PLAIN = Way("plain", "feature-extraction", Head("AutoModel"), _plain, _states, _embedded)
_POOLED = replace(_PLAIN, name="pooled", asked=_pooled, saved=(_MEAN,))
_CLASSIFIER = Way(
    "labels",
    "text-classification",
    Head("AutoModelForSequenceClassification", {"id2label": LABELS}),
    _labelled,
    _classes,
    _classified,
)
_TAGGER = Way(
    "tags",
    "token-classification",
    Head("AutoModelForTokenClassification", {"id2label": TAGS}),
    _tagged,
    _entities,
    _found,
)
_DECODER = Way(
    "decoder",
    "text-generation",
    Head("AutoModelForCausalLM"),
    _plain,
    _continued,
    _written,
    ("--raw", "--max-tokens", str(_WRITTEN)),
    (in_half(torch.bfloat16),),
)
_RERANKER = Way(
    "one logit",
    "text-ranking",
    Head("AutoModelForSequenceClassification", {"num_labels": 1}),
    _scored_pair,
    _ranked,
    lambda row: ("", np.array(row["score"])),
    posed=_pair,
)
_DECODING_RERANKER = replace(_RERANKER, name="yes or no", task="", head=_DECODER.head)
_FILLER = Way(
    "masked",
    "fill-mask",
    Head("AutoModelForMaskedLM"),
    _plain,
    _filled,
    lambda row: _fills(row["fills"]),
    posed=_masked,
)
_NARROW = {"hidden_size": 8, "intermediate_size": 32}
_CHAT = replace(
    _DECODER,
    name="chat",
    asked=_chatted,
    options=("--max-tokens", str(_WRITTEN)),
    saved=(in_half(torch.bfloat16), with_chat, in_shards),
)
_WAYS: Mapping[str, tuple[Way, ...]] = {
    "sentence-similarity": (_POOLED,),
    "feature-extraction": (_PLAIN,),
    "text-classification": (_CLASSIFIER,),
    "token-classification": (_TAGGER,),
    "text-generation": (_DECODER,),
    "text-ranking": (_RERANKER,),
    "fill-mask": (_FILLER,),
    "masked-lm": (_FILLER,),
}
"""By the hub's name of a task."""
_LAST_POOLED = replace(
    _POOLED,
    head=_DECODER.head,
    saved=(_LAST, named((r"^model\.", "")), in_half(torch.bfloat16), with_prompts),
)
_XLM_PIECES = pieces_alone("sentencepiece.bpe.model", "<unk>", "<s>", "</s>")
_DEBERTA_PIECES = pieces_alone("spm.model", "[PAD]", "[CLS]", "[SEP]", "[UNK]")
_OLD_NORMS = named(
    (r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta")
)
_WAYS_OF_TYPE: Mapping[tuple[str, str], tuple[Way, ...]] = {
    ("bert", "sentence-similarity"): (replace(_POOLED, saved=(_MEAN, with_buffers)),),
    ("bert", "text-classification"): (
        replace(_CLASSIFIER, saved=(_OLD_NORMS, with_buffers)),
        _RERANKER,
    ),
    ("bert", "fill-mask"): (replace(_FILLER, saved=(_OLD_NORMS,)),),
    ("bert", "masked-lm"): (replace(_FILLER, saved=(with_buffers,)),),
    ("roberta", "fill-mask"): (replace(_FILLER, saved=(with_buffers,)),),
    ("bert", "token-classification"): (replace(_TAGGER, saved=(vocabulary_alone,)),),
    ("roberta", "text-classification"): (
        replace(_CLASSIFIER, saved=(with_buffers, vocabulary_alone)),
    ),
    ("roberta", "token-classification"): (
        replace(_TAGGER, head=replace(_TAGGER.head, settings={"id2label": PARTS})),
    ),
    **{
        (model_type, "text-classification"): (_CLASSIFIER, _RERANKER)
        for model_type in ("xlm-roberta", "modernbert")
    },
    ("xlm-roberta", "token-classification"): (replace(_TAGGER, saved=(_XLM_PIECES,)),),
    ("deberta-v2", "text-classification"): (
        replace(_CLASSIFIER, saved=(_DEBERTA_PIECES,)),
        _RERANKER,
    ),
    ("xlm-roberta", "sentence-similarity"): (replace(_POOLED, saved=(_FIRST,)),),
    ("mpnet", "sentence-similarity"): (
        replace(
            _POOLED,
            head=Head("AutoModelForMaskedLM"),
            saved=(_MEAN, named((r"^mpnet\.", ""), (r"^lm_head\..*", "")), with_buffers),
        ),
    ),
    ("qwen3", "text-ranking"): (_DECODING_RERANKER,),
    ("qwen3", "sentence-similarity"): (_LAST_POOLED,),
    ("qwen3", "feature-extraction"): (_LAST_POOLED,),
    ("gpt2", "text-generation"): (
        replace(_DECODER, saved=(named((r"^transformer\.", "")), with_buffers)),
    ),
    ("opt", "text-generation"): (
        replace(_DECODER, saved=(in_half(torch.float16), vocabulary_alone)),
    ),
    ("qwen2", "text-generation"): (
        _CHAT,
        # trl's own for tests, which is downloaded most: heads of two values.
        replace(_DECODER, name="narrow", head=replace(_DECODER.head, settings=_NARROW)),
    ),
    **{(model_type, "text-generation"): (_DECODER, _CHAT) for model_type in ("qwen3", "llama")},
}
"""Where the most downloaded models of a type are saved in another way."""


def ways(model_type: str, task: str) -> tuple[Way, ...]:
    """The ways of a kind; none where its type is no family here or nothing is known of its task."""
    found = _WAYS_OF_TYPE.get((model_type, task), _WAYS.get(task, ()))
    return found if model_type in known_model_types() and model_type in TYPES else ()


def claimed(way: Way) -> bool:
    """Whether what its models are for is a task here."""
    return way.task in TASKS


# Bundles ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A bundle that was built."""

    folder: Path
    rounding: float
    """The drift that its INT8 pass states; 0 where there is none."""


def built(model: Path, way: Way, output: Path, quantize: str | None, quick: bool) -> Built:
    """`edgeprune build` of a model, and the bundle that it leaves."""
    import pytest

    output.mkdir()
    data, recipe = output / "data.jsonl", output / "recipe.yaml"
    rows = [way.learnt(number, text) for number, text in enumerate(sentences())]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe.write_text(f"{_RECIPE}{quantize or ''}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            leave_out_measuring(patch)
        bundle = edgeprune.build(model, data, recipe, output=output / "out")
    stages = bundle.manifest["stages"]
    passes = next(stage["passes"] for stage in stages if stage["name"] == "rewrite")
    return Built(bundle.folder, max((one["rounding"] or 0.0 for one in passes), default=0.0))


def answered(bundle: Built, way: Way, rows: Sequence[Row]) -> list[Answer]:
    """`edgeprune run` on the rows."""
    given, made = bundle.folder.parent / "asked.jsonl", bundle.folder.parent / "answers.jsonl"
    given.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ["run", bundle.folder, "--input", given, "--output", made, *way.options]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    if done.exit_code:
        raise AssertionError(done.output.strip().splitlines()[-1])
    lines = made.read_text(encoding="utf-8").splitlines()
    return [way.told(json.loads(line)) for line in lines]


def far(expected: Sequence[Answer], found: Sequence[Answer]) -> float:
    """The largest difference of a number, where everything else is the same.

    Raises:
        AssertionError: something else is not.
    """
    largest = 0.0
    for (words, numbers), (own, values) in zip(expected, found, strict=True):
        if words != own:
            raise AssertionError(f"float32 answers {own!r:.100}, transformers {words!r:.100}")
        largest = max(largest, float(np.abs(numbers - values).max(initial=0.0)))
    return largest


def drift(model: Path, bundle: Built, rows: Sequence[Row]) -> float:
    """How far a bundle's outputs lie from torch's, ||a - b|| / ||a|| over all rows."""
    opened = Bundle.open(bundle.folder)
    task = TASKS[opened.task]
    module = getattr(t, task.loader).from_pretrained(model, dtype="float32").eval()
    reads = inspect.signature(module.forward).parameters
    tokenizer = t.AutoTokenizer.from_pretrained(model)
    session = ort.InferenceSession(str(opened.model_path), providers=["CPUExecutionProvider"])
    apart, size = 0.0, 0.0
    for row in rows:
        inputs = tokenizer(row["text"], row.get("text_pair"), return_tensors="pt")
        inputs = {name: each for name, each in inputs.items() if name in reads}
        with torch.no_grad():
            right = module(**inputs)[task.output].numpy()
        feed = complete_feed(session, {name: each.numpy() for name, each in inputs.items()})
        apart += float(np.square(outputs_of(session, feed)[task.output] - right).sum())
        size += float(np.square(right).sum())
    return (apart / size) ** 0.5
