"""Tiny models and data under the names that the documentation uses."""

import json
import shutil
from pathlib import Path

from paired_models import pair_folder, write_judged, write_pairs
from question_models import answerer_folder, questions
from sentence_encoder import make_sentence_encoder
from tiny_builds import model_folder, sentence_lines, text_file
from tiny_models import TAGS


def make_models(place: Path) -> None:
    """Every model that a page names."""
    encoder = make_sentence_encoder(place / "my-encoder")
    prompts = {"prompts": {"query": "w001 "}, "default_prompt_name": None}
    (encoder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    shutil.copytree(encoder, place / "my-xlm-r")
    model_folder(place / "my-classifier", "classifier")
    pair_folder(place / "my-nli")
    pair_folder(place / "my-cross-encoder", labels=1)
    decoder = model_folder(place / "my-decoder", "llama-fused")
    (decoder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    model_folder(place / "my-ner", "bert-tagger")
    answerer_folder(place / "my-qa")
    model_folder(place / "my-masked-model", "bert-filler")


def make_data(place: Path) -> None:
    """Every file of data that a page names."""
    lines = sentence_lines(80)
    text_file(place / "my-texts.txt", 80)
    (place / "passages.txt").write_text("\n".join(lines[:5]))
    for name, seed in (("intents", 0), ("held-out", 7)):
        rows = [f"{text},LABEL_{n % 3}" for n, text in enumerate(sentence_lines(60, seed))]
        (place / f"{name}.csv").write_text("\n".join(["text,category", *rows]))
    names = {"text": "premise", "text_pair": "hypothesis"}
    write_pairs(place / "nli.jsonl", **names)
    write_pairs(place / "pairs.jsonl", truth="score")
    languages = [{"text": text, "lang": "ab"[n % 2]} for n, text in enumerate(lines)]
    _write_rows(place / "rows.jsonl", languages)
    _write_rows(place / "books.jsonl", [{"text": " ".join(lines[:20])}])
    write_judged(place / "judged.jsonl", 30)
    tagged = [
        {"tokens": text.split(), "tags": [TAGS[n % 2] for n in range(len(text.split()))]}
        for text in lines
    ]
    _write_rows(place / "tagged.jsonl", tagged)
    _write_rows(place / "questions.jsonl", questions(60, (8, 14)))
    _beir_folder(place / "beir-folder", lines[:8])


def _beir_folder(folder: Path, lines: list[str]) -> None:
    folder.mkdir()
    _write_rows(folder / "corpus.jsonl", [{"_id": str(n), "text": t} for n, t in enumerate(lines)])
    _write_rows(folder / "queries.jsonl", [{"_id": "q", "text": lines[0]}])
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")


def _write_rows(file: Path, rows: list[dict]) -> None:
    file.write_text("\n".join(map(json.dumps, rows)))
