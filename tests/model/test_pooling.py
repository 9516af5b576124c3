"""What sentence-transformers would do to a text or a vector is done, or refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_builds import dry_run, model_folder

from edgeprune.base.errors import UserError
from edgeprune.model.pooling import normalizes, read_pooling

LIBRARY = "sentence_transformers.models"
QUERY = {"query": "query: ", "passage": ""}


def encoder(
    folder: Path, kinds: tuple[str, ...] = ("Transformer", "Pooling"), **files: Any
) -> Path:
    """Files of sentence-transformers' in a folder; `pooling` and `library` are two of them."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {
            "idx": n,
            "name": str(n),
            "path": paths.get(kind, f"{n}_{kind}"),
            "type": f"{LIBRARY}.{kind}",
        }
        for n, kind in enumerate(kinds)
    ]
    written = {
        "modules.json": modules,
        "1_Pooling/config.json": {
            "embedding_dimension": 32,
            "pooling_mode": "mean",
            **files.get("pooling", {}),
        },
        "config_sentence_transformers.json": files.get("library", {}),
        "sentence_bert_config.json": files.get("transformer", {"max_seq_length": 64}),
    }
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"library": {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}},
        {"library": {"prompts": QUERY}},  # for those who ask for it by name
        {"library": {"prompts": QUERY, "default_prompt_name": "passage"}},
        {"pooling": {"include_prompt": False}},
        {"pooling": {"include_prompt": True}, "library": {"prompts": QUERY}},
    ],
)
def test_what_changes_no_vector_is_taken_in_silence(files, tmp_path):
    assert read_pooling(encoder(tmp_path, **files)) == "mean"


@pytest.mark.parametrize(
    ("kinds", "files", "words"),
    [
        (None, {"library": {"prompts": QUERY, "default_prompt_name": "query"}}, "'query: ' before"),
        (None, {"library": {"prompts": QUERY}, "pooling": {"include_prompt": False}}, "for query:"),
        (None, {"library": {"prompts": ["a"]}}, "prompts must be an object"),
        (None, {"library": {"truncate_dim": 16}}, "after 16 values (truncate_dim)"),
        (None, {"transformer": {"transformer_task": "fill-mask"}}, "task fill-mask"),
        (None, {"pooling": {"pooling_mode": "lasttoken"}}, "pools by ['lasttoken']"),
        (None, {"pooling": {"pooling_mode": ["mean", "max"]}}, "pools by ['mean', 'max']"),
        (("Transformer", "Pooling", "LSTM"), {}, "LSTM module"),
        (("Transformer", "Pooling", "LSTM", "Normalize"), {}, "LSTM module"),
        (("Transformer", "LayerNorm", "Pooling"), {}, "LayerNorm module"),
        (("WordEmbeddings", "Pooling"), {}, "WordEmbeddings module"),
        (("Transformer", "Normalize", "Pooling"), {}, "chains Transformer, Normalize, Pooling"),
        (("Transformer", "Pooling", "Pooling"), {}, "chains Transformer, Pooling, Pooling"),
        (("Transformer",), {}, "chains Transformer, and"),
    ],
)
def test_what_would_change_a_vector_is_refused(kinds, files, words, tmp_path):
    given = {} if kinds is None else {"kinds": kinds}
    with pytest.raises(UserError) as error:
        read_pooling(encoder(tmp_path, **given, **files))
    assert words in str(error.value)


def test_the_dry_run_refuses_it(tmp_path):
    model = encoder(model_folder(tmp_path / "model"), ("Transformer", "Pooling", "LSTM"))
    result = dry_run(model, tmp_path)
    assert result.exit_code == 2
    assert "has a sentence_transformers.models.LSTM module" in result.stderr


def test_vectors_are_the_librarys_where_it_lower_cases(tmp_path):
    """On a tokenizer that tells capitals from small letters."""
    from sentence_transformers import SentenceTransformer

    from edgeprune import runtime
    from edgeprune.export.trace import export_plain

    kinds = ("Transformer", "Pooling", "Normalize")
    told = {"max_seq_length": 64, "do_lower_case": True}
    model = encoder(model_folder(tmp_path / "model"), kinds, transformer=told)
    assert normalizes(model)
    export_plain(model, tmp_path / "plain")
    texts = ["W001 w002 W003", "w004"]
    theirs = SentenceTransformer(str(model), device="cpu").encode(texts)
    mine = runtime.load(tmp_path / "plain", threads=1).embed(texts)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert (
        np.abs(mine - runtime.load(tmp_path / "plain").embed([t.upper() for t in texts])).max()
        < 1e-6
    )
