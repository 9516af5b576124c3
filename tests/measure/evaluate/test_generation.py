"""Greedy answers on the decoder whose logits are known in closed form."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from choice_items import log_likelihood, random_items
from onnx_models import VOCABULARY, decoder_folder, decoder_logits, ids_of, write_jsonl

from edgeprune.measure.evaluate.generation import answers
from edgeprune.measure.evaluate.measures import evaluate
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.generate import Generator


def greedy_words(prompt: str, tokens: int = 8) -> list[str]:
    """The words of what greedy decoding gives after a prompt."""
    ids = ids_of(prompt)
    for _ in range(tokens):
        ids.append(int(decoder_logits(ids)[-1].argmax()))
    return [VOCABULARY[i] for i in ids[-tokens:] if i >= 4]


PROMPTS = [
    prompt
    for prompt in ("the", "a cat", "the dog ran", "far away", "on", "sat on the mat", "cat", "ran")
    if len(greedy_words(prompt)) > 3
]


def test_the_answer_is_what_greedy_decoding_begins_with(tmp_path: Path) -> None:
    generator = Generator(Bundle.open(decoder_folder(tmp_path / "m")))
    assert len(PROMPTS) >= 2
    for prompt in PROMPTS:
        first, second, third, *_ = greedy_words(prompt)
        other = next(word for word in ("cat", "dog") if word != second)
        for answer, expected in (
            (first, True),
            (f"{first} {second} {third}", True),
            (f" {first.upper()}\n {second} ", True),
            (f"{first} {other}", False),
            (other + first, False),
            (first[:-1], False),
            (f"{first}s", False),
        ):
            if answer:
                assert answers(generator, prompt, answer) is expected, (prompt, answer)


def test_exact_match_of_prompts_and_answers(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "answer": greedy_words(prompt)[0]} for prompt in PROMPTS]
    rows.append({"prompt": "the", "answer": "nothing of the kind"})
    folder = decoder_folder(tmp_path / "m")
    result = evaluate(folder, "generation", write_jsonl(tmp_path / "r.jsonl", rows))
    assert result.values == pytest.approx({"exact_match": 100 * len(PROMPTS) / len(rows)})
    assert result.conditions == {"prompts": len(rows)}


def test_the_paired_table_and_the_illusion(tmp_path: Path) -> None:
    rows = random_items(60, seed=3)
    for number, row in enumerate(rows):
        said = greedy_words(row["query"])
        if number % 2 and said:
            row["choices"][row["gold"]] = said[0]
    pairs = []
    for row in rows:
        logs = [log_likelihood(row["query"], choice) for choice in row["choices"]]
        best = int(np.argmax(np.divide(logs, [len(choice) for choice in row["choices"]])))
        answer = row["choices"][row["gold"]].split()
        greedy = greedy_words(row["query"], len(" ".join(answer)) + 8)[: len(answer)] == answer
        pairs.append((best == row["gold"], greedy))
    counts = Counter(pairs)
    assert len(counts) == 4
    values = evaluate(
        decoder_folder(tmp_path / "m"), "generation", write_jsonl(tmp_path / "r.jsonl", rows)
    ).values
    share = {pair: 100 * count / len(rows) for pair, count in counts.items()}
    assert values == pytest.approx(
        {
            "exact_match": share[True, True] + share[False, True],
            "acc_norm": share[True, True] + share[True, False],
            "both_right": share[True, True],
            "choice_only": share[True, False],
            "greedy_only": share[False, True],
            "both_wrong": share[False, False],
            "illusion": 100 * counts[True, False] / (counts[True, False] + counts[True, True]),
        }
    )
