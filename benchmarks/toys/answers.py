"""Rows for each task, what transformers answers to them, and what `edgeprune run` says of a row."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t

from toys.vocabularies import sentences

LABELS = {0: "negative", 1: "neutral", 2: "positive"}
TAGS = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
ENTAILMENT = {0: "entailment", 1: "neutral", 2: "contradiction"}
CANDIDATES = ["travel", "cooking", "dancing"]
LONGEST = 15
"""Tokens of an answer to a question."""
WRITTEN = 8
"""Tokens that a decoder writes after a text."""

Answer = tuple[Any, np.ndarray]
"""What is the same or is not, such as labels and written words; and numbers."""
Row = dict[str, Any]


# Sentence encoders -----------------------------------------------------------------------------


def pooled(model: Path, rows: Sequence[Row]) -> list[Answer]:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": "float32"})
    return [("", encoder.encode(row["text"])) for row in rows]


def states(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("feature-extraction", str(model), device="cpu")
    return [("", np.mean(pipeline(row["text"])[0], axis=0)) for row in rows]


def embedded(row: Row) -> Answer:
    return "", np.asarray(row["embedding"])


def plain(number: int, text: str) -> Row:
    return {"text": text}


# Classifiers -----------------------------------------------------------------------------------


def labelled(number: int, text: str) -> Row:
    return {"text": text, "label": LABELS[number % len(LABELS)]}


def classes(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("text-classification", str(model), device="cpu", top_k=None)
    answers = [pipeline([row["text"]])[0] for row in rows]
    return [_scored({one["label"]: one["score"] for one in each}) for each in answers]


def classified(row: Row) -> Answer:
    return _scored(row["probabilities"])


def _scored(scores: Mapping[str, float]) -> Answer:
    best = max(scores, key=lambda label: scores[label])
    return best, np.array([scores[label] for label in sorted(scores)])


def tagged(number: int, text: str) -> Row:
    return {"tokens": text.split(), "tags": [0] * len(text.split())}


def entities(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline(
        "token-classification", str(model), device="cpu", aggregation_strategy="simple"
    )
    return [_spans(pipeline(row["text"]), "entity_group") for row in rows]


def found(row: Row) -> Answer:
    return _spans(row["entities"], "label")


def _spans(entities: Sequence[Mapping[str, Any]], label: str) -> Answer:
    spans = [(one["start"], one["end"], one[label]) for one in entities]
    return spans, np.array([one["score"] for one in entities])


# Fills and pairs -------------------------------------------------------------------------------


def masked(text: str, tokenizer: Any) -> Row:
    """A text without its third and, where it is long, its eighth word."""
    words = text.split()
    for place in (2, 7)[: 1 + (len(words) > 9)]:
        words[place] = tokenizer.mask_token
    return {"text": " ".join(words)}


def filled(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("fill-mask", str(model), device="cpu")
    found = [pipeline(row["text"]) for row in rows]
    return [fills(one if isinstance(one[0], list) else [one]) for one in found]


def fills(masks: Sequence[Sequence[Mapping[str, Any]]]) -> Answer:
    fills = [fill for fills in masks for fill in fills]
    said = [(fill["token"], fill["token_str"], fill["sequence"]) for fill in fills]
    return said, np.array([fill["score"] for fill in fills])


def filled_row(row: Row) -> Answer:
    return fills(row["fills"])


def pair(text: str, tokenizer: Any) -> Row:
    """A text beside one of the others."""
    return {"text": text, "text_pair": sentences()[len(text) % len(sentences())]}


def scored_pair(number: int, text: str) -> Row:
    return {**pair(text, None), "score": number % 5 / 4}


def ranked(model: Path, rows: Sequence[Row]) -> list[Answer]:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(model), device="cpu")
    return [("", np.array(encoder.predict((row["text"], row["text_pair"])))) for row in rows]


class Deciding(torch.nn.Module):
    """A decoder whose answer is how much likelier one token is than another after the last."""

    def __init__(self, decoder: torch.nn.Module, tokens: Mapping[str, int]) -> None:
        super().__init__()
        self.decoder, self.tokens = decoder, tokens

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [texts, 1] of texts of one length."""
        logits = self.decoder(input_ids).logits[:, -1]
        yes, no = (self.tokens[f"{name}_token_id"] for name in ("true", "false"))
        return {"logits": (logits[:, yes] - logits[:, no])[:, None]}


def loaded(model: Path, loader: str) -> torch.nn.Module:
    """A model by a class of transformers."""
    module: torch.nn.Module = getattr(t, loader).from_pretrained(model, dtype="float32").eval()
    return module


def deciding(model: Path, loader: str) -> torch.nn.Module:
    """A decoder that ranks by a word."""
    tokens = json.loads((model / "1_LogitScore" / "config.json").read_text())
    return Deciding(loaded(model, "AutoModelForCausalLM"), tokens)


def scored_row(row: Row) -> Answer:
    return "", np.array(row["score"])


def entailing_pair(number: int, text: str) -> Row:
    return {**pair(text, None), "label": ENTAILMENT[number % len(ENTAILMENT)]}


def zero_shot(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("zero-shot-classification", str(model), device="cpu")
    found = [pipeline(row["text"], CANDIDATES) for row in rows]
    return [zero_shot_row(one) for one in found]


def zero_shot_row(row: Row) -> Answer:
    return row["labels"], np.array(row["scores"])


def question(text: str, tokenizer: Any) -> Row:
    """A question, and two texts as its context."""
    one, other = text, pair(text, tokenizer)["text_pair"]
    return {"question": f"What of the {text.split()[-1][:-1]}?", "context": f"{one} {other}"}


def marked(number: int, text: str) -> Row:
    row, words = question(text, None), text.split()
    answer = words[number % len(words)]
    return {**row, "answers": {"text": [answer], "answer_start": [row["context"].index(answer)]}}


def spans(model: Path, rows: Sequence[Row]) -> list[Answer]:
    """The likeliest part of the context, by the rules of transformers 4's pipeline for one window:
    of softmaxes over the context's tokens and the first, the product of start and end. The twelve
    likeliest are widened to whole words, and those of one text are added."""
    module = t.AutoModelForQuestionAnswering.from_pretrained(model).eval()
    tokenizer = t.AutoTokenizer.from_pretrained(model)
    found = []
    for row in rows:
        batch = tokenizer(row["question"], row["context"], return_tensors="pt")
        with torch.no_grad():
            output = module(**batch)
        chosen = [0, *(n for n, side in enumerate(batch.sequence_ids(0)) if side == 1)]
        starts, ends = (
            logits[0, chosen].double().softmax(-1)
            for logits in (output.start_logits, output.end_logits)
        )
        table = torch.outer(starts, ends).triu().tril(LONGEST - 1)
        table[0] = 0
        scores, places = defaultdict[str, float](float), {}
        for score, place in zip(*table.flatten().topk(12), strict=True):
            words = [batch.token_to_word(0, chosen[n]) for n in divmod(int(place), len(chosen))]
            begin, end = (batch.word_to_chars(0, word, 1) for word in words)
            said = row["context"][begin.start : end.end]
            places.setdefault(said.lower(), (begin.start, end.end, said))
            scores[said.lower()] += float(score)
        best = max(scores, key=lambda said: scores[said])
        found.append((places[best], np.array(scores[best])))
    return found


def span_row(row: Row) -> Answer:
    [answer] = row["predictions"]
    return (answer["start"], answer["end"], answer["answer"]), np.array(answer["score"])


# Decoders --------------------------------------------------------------------------------------


def continued(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("text-generation", str(model), device="cpu", dtype="float32")
    settings = {"max_new_tokens": WRITTEN, "do_sample": False, "return_full_text": False}
    return [(pipeline(row["text"], **settings)[0]["generated_text"], np.zeros(0)) for row in rows]


def chatted(model: Path, rows: Sequence[Row]) -> list[Answer]:
    pipeline = t.pipeline("text-generation", str(model), device="cpu", dtype="float32")
    settings = {"max_new_tokens": WRITTEN, "do_sample": False}
    found = []
    for row in rows:
        [answer] = pipeline([{"role": "user", "content": row["text"]}], **settings)
        found.append((answer["generated_text"][-1]["content"], np.zeros(0)))
    return found


def written(row: Row) -> Answer:
    return row["generated"], np.zeros(0)
