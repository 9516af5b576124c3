"""The ways in which the models of each kind are saved and asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers as t

from edgeprune.model.families import known_model_types
from edgeprune.model.tasks import TASKS
from toys import answers as a
from toys import files as f
from toys.answers import CANDIDATES, ENTAILMENT, LABELS, TAGS, WRITTEN, Answer, Row
from toys.models import TYPES, Head, Saved
from toys.vocabularies import texts

PARTS = dict(enumerate(["NOUN", "VERB", "ADJ", "PUNCT"]))


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
    read: Callable[[Path, str], torch.nn.Module] = a.loaded
    """The model in float32 by the class of a task, with the outputs of that task."""
    posed: Callable[[str, Any], Row] = lambda text, tokenizer: {"text": text}
    """A row to answer, by its text and the model's tokenizer."""

    def rows(self, model: Path) -> list[Row]:
        """The rows to answer."""
        tokenizer = t.AutoTokenizer.from_pretrained(model)
        return [self.posed(text, tokenizer) for text in texts()]


def _named(labels: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}


_MEAN, _FIRST, _LAST = map(f.pooled_by, ("mean_tokens", "cls_token", "lasttoken"))
_PLAIN = Way("plain", "feature-extraction", Head("AutoModel"), a.plain, a.states, a.embedded)
_POOLED = replace(_PLAIN, name="pooled", asked=a.pooled, saved=(_MEAN,))
_CLASSIFIER = Way(
    "labels",
    "text-classification",
    Head("AutoModelForSequenceClassification", _named(LABELS)),
    a.labelled,
    a.classes,
    a.classified,
)
_TAGGER = Way(
    "tags",
    "token-classification",
    Head("AutoModelForTokenClassification", _named(TAGS)),
    a.tagged,
    a.entities,
    a.found,
)
_DECODER = Way(
    "decoder",
    "text-generation",
    Head("AutoModelForCausalLM"),
    a.plain,
    a.continued,
    a.written,
    ("--raw", "--max-tokens", str(WRITTEN)),
    (f.in_half(torch.bfloat16),),
)
_RERANKER = Way(
    "one logit",
    "text-ranking",
    Head("AutoModelForSequenceClassification", {"num_labels": 1}),
    a.scored_pair,
    a.ranked,
    a.scored_row,
    posed=a.pair,
)
_DECODING_RERANKER = replace(
    _RERANKER,
    name="yes or no",
    head=_DECODER.head,
    saved=(f.in_half(torch.bfloat16), f.with_verdict),
    read=a.deciding,
)
_FILLER = Way(
    "masked",
    "fill-mask",
    Head("AutoModelForMaskedLM"),
    a.plain,
    a.filled,
    a.filled_row,
    posed=a.masked,
)
_ENTAILMENT = Way(
    "labels at run time",
    "text-classification",
    Head("AutoModelForSequenceClassification", _named(ENTAILMENT)),
    a.entailing_pair,
    a.zero_shot,
    a.zero_shot_row,
    ("--labels", ",".join(CANDIDATES)),
)
_ANSWERER = Way(
    "spans",
    "question-answering",
    Head("AutoModelForQuestionAnswering"),
    a.marked,
    a.spans,
    a.span_row,
    posed=a.question,
)
_NARROW = {"hidden_size": 8, "intermediate_size": 32}
_CHAT = replace(
    _DECODER,
    name="chat",
    asked=a.chatted,
    options=("--max-tokens", str(WRITTEN), "--temperature", "0"),
    saved=(f.in_half(torch.bfloat16), f.with_chat, f.in_shards),
)
_WAYS: Mapping[str, tuple[Way, ...]] = {
    "sentence-similarity": (_POOLED,),
    "feature-extraction": (_PLAIN,),
    "text-classification": (_CLASSIFIER,),
    "token-classification": (_TAGGER,),
    "text-generation": (_DECODER,),
    "text-ranking": (_RERANKER,),
    "zero-shot-classification": (_ENTAILMENT,),
    "question-answering": (_ANSWERER,),
    "fill-mask": (_FILLER,),
    "masked-lm": (_FILLER,),
}
"""By the hub's name of a task."""
_LAST_POOLED = replace(
    _POOLED,
    head=_DECODER.head,
    saved=(_LAST, f.named((r"^model\.", "")), f.in_half(torch.bfloat16), f.with_prompts),
)
_XLM_PIECES = f.pieces_alone("sentencepiece.bpe.model", "<unk>", "<s>", "</s>")
_DEBERTA_PIECES = f.pieces_alone("spm.model", "[PAD]", "[CLS]", "[SEP]", "[UNK]")
_OLD_NORMS = f.named(
    (r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta")
)
_WAYS_OF_TYPE: Mapping[tuple[str, str], tuple[Way, ...]] = {
    ("bert", "sentence-similarity"): (replace(_POOLED, saved=(_MEAN, f.with_buffers)),),
    ("bert", "text-classification"): (
        replace(_CLASSIFIER, saved=(_OLD_NORMS, f.with_buffers)),
        _RERANKER,
    ),
    ("bert", "fill-mask"): (replace(_FILLER, saved=(_OLD_NORMS,)),),
    ("bert", "masked-lm"): (replace(_FILLER, saved=(f.with_buffers,)),),
    ("roberta", "fill-mask"): (replace(_FILLER, saved=(f.with_buffers,)),),
    ("bert", "token-classification"): (replace(_TAGGER, saved=(f.vocabulary_alone,)),),
    ("roberta", "text-classification"): (
        replace(_CLASSIFIER, saved=(f.with_buffers, f.vocabulary_alone)),
    ),
    ("roberta", "token-classification"): (
        replace(_TAGGER, head=replace(_TAGGER.head, settings=_named(PARTS))),
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
            saved=(_MEAN, f.named((r"^mpnet\.", ""), (r"^lm_head\..*", "")), f.with_buffers),
        ),
    ),
    ("qwen3", "text-ranking"): (_DECODING_RERANKER,),
    ("qwen3", "sentence-similarity"): (_LAST_POOLED,),
    ("qwen3", "feature-extraction"): (_LAST_POOLED,),
    ("gpt2", "text-generation"): (
        replace(_DECODER, saved=(f.named((r"^transformer\.", "")), f.with_buffers)),
    ),
    ("opt", "text-generation"): (
        replace(_DECODER, saved=(f.in_half(torch.float16), f.vocabulary_alone)),
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
    """Whether what its models are for is a task here that takes the options they are run with."""
    task = TASKS.get(way.task)
    asked = [option for option in way.options if option.startswith("--")]
    return task is not None and (task.generates or set(asked) <= set(task.run_options))
