"""The recipe `multilingual` on text of five languages of unequal size, beside the same without
evening them out and beside text in English alone: what does the worst language keep?

    EDGEPRUNE_DATA=<folder> python benchmarks/multilingual.py [--only NAME]... [--work FOLDER]

multilingual_model.py makes the model, once. A line of JSON a row in results/multilingual.jsonl; a
row that is there is not run again. Every row is measured on the same 200 sentences of each
language, of which neither the model nor a build learnt anything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from built import build_once
from multilingual_model import HELD_OUT, LANGUAGES, make, sentences
from resumed import kept, run_rows

from edgeprune.measure.evaluate.measures import evaluate

RESULTS = Path(__file__).parent / "results" / "multilingual.jsonl"
SIZES = {"en": 1797, "de": 600, "ru": 200, "zh": 100, "ar": 50}
_FEW = ("prune.steps=40", "prune.updates=10", "recover.steps=160", "measure.tokens=64")


@dataclass(frozen=True)
class Row:
    """A build.

    folder: of its output. balance: text.language_balance. sizes: sentences of each language that it
    learns from. whole: whether the tokens of all NTREX stay (vocabulary.data), but for the
    sentences that are asked.
    """

    name: str
    folder: str
    balance: float
    sizes: Mapping[str, int]
    whole: bool = False


ROWS = (
    Row("evened out (0.7)", "evened", 0.7, SIZES),
    Row("as the text has them", "plain", 0.0, SIZES),
    Row("English alone", "english", 0.0, {"en": 1797}),
    Row("evened out, more text for the vocabulary", "evened-whole", 0.7, SIZES, whole=True),
    Row("as the text has them, more text likewise", "plain-whole", 0.0, SIZES, whole=True),
)


def measure(row: Row, data: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Build a row and measure it language by language."""
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    recall = kept(work / "model.json", lambda: make(data, model, 700))
    learnt = [
        {"text": text, "lang": language}
        for language, count in row.sizes.items()
        for text in sentences(data, language)[:count]
    ]
    asked = [
        {"text": text, "lang": language}
        for language in LANGUAGES
        for text in sentences(data, language)[-HELD_OUT:]
    ]
    texts = _write(work / f"learnt-{len(row.sizes)}.jsonl", learnt)
    unseen = _write(work / "unseen.jsonl", asked)
    known = [
        {"text": text, "lang": language}
        for language in LANGUAGES
        for text in sentences(data, language)[:-HELD_OUT]
    ]
    further = f"vocabulary.data={_write(work / 'known.jsonl', known)}"
    trim = further if row.whole else "vocabulary.min_count=1"
    out = build_once(
        "multilingual",
        work / row.folder,
        [f"text.language_balance={row.balance}", *_FEW, trim],
        ["--model", str(model), "--data", str(texts)],
    )
    bundle, original = out / "bundle", out / "original"
    found = evaluate(bundle, "cosine", unseen, against=original, languages=True)
    stages = {
        each["name"]: each for each in json.loads((out / "report.json").read_text())["stages"]
    }
    assert found.groups is not None
    trimmed = stages["vocabulary"]
    return {
        "name": row.name,
        "recall": recall,
        "cosine": {name: each.values["mean_cosine"] for name, each in found.groups.items()},
        "interval": {name: each.interval["mean_cosine"] for name, each in found.groups.items()},
        "neighbours": {
            language: evaluate(
                bundle, "retrieval", _write(work / "one.jsonl", some), against=original
            ).values["overlap_at_10"]
            for language in LANGUAGES
            if (some := [each for each in asked if each["lang"] == language])
        },
        "tokens": [trimmed["tokens_before"], trimmed["tokens"]],
        "same": {name: each["texts_same"] for name, each in trimmed.get("languages", {}).items()},
        "told": (found.worst or {})["mean_cosine"],
    }


def _write(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def table(done: Mapping[str, Any]) -> str:
    """Mean cosines to the original by language, and the share of ten neighbours kept."""
    lines = [
        f"| mean cosine (neighbours kept) | {' | '.join(LANGUAGES)} | worst | tokens left |",
        "|---" * (len(LANGUAGES) + 3) + "|",
    ]
    for name, found in done.items():
        cells = [
            f"{found['cosine'][each]:.3f} ({found['neighbours'][each]:.0f} %)" for each in LANGUAGES
        ]
        before, now = found["tokens"]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['told']} | {now:,} of {before:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_rows(__doc__.splitlines()[0], RESULTS, ROWS, measure, table)
