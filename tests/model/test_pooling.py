"""What sentence-transformers would do to a text or a vector is done, or refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_builds import dry_run, model_folder

from edgeprune.base.errors import UserError
from edgeprune.model.pooling import read_pooling
from edgeprune.model.projection import UnitLength, read_steps
from edgeprune.text.prompts import read_library

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
    ("kinds", "files", "words"),
    [
        (None, {"library": {"prompts": ["a"]}}, "prompts must be an object"),
        (None, {"library": {"prompts": QUERY, "default_prompt_name": "q"}}, "has none of that"),
        (None, {"library": {"truncate_dim": "16"}}, "truncate_dim is '16'"),
        (None, {"library": {"similarity_fn_name": "maxsim"}}, "is 'maxsim', and edgeprune"),
        (None, {"transformer": {"transformer_task": "fill-mask"}}, "task fill-mask"),
        (None, {"transformer": {"query_length": 32}}, "sets query_length of its Transformer"),
        (None, {"transformer": {"module_output_name": "scores"}}, "as scores of its Transformer"),
        (None, {"pooling": {"pooling_mode": "median"}}, "(Pooling) pools by ['median']"),
        (("Transformer", "Pooling", "LSTM"), {}, "LSTM module"),
        (("Transformer", "Pooling", "LSTM", "Normalize"), {}, "LSTM module"),
        (("Transformer", "LayerNorm", "Pooling"), {}, "chains Transformer, LayerNorm, Pooling"),
        (("Transformer", "WordWeights", "Pooling"), {}, "WordWeights module"),
        (("WordEmbeddings", "Pooling"), {}, "WordEmbeddings module"),
        (("Transformer", "Normalize", "Pooling"), {}, "chains Transformer, Normalize, Pooling"),
        (("Transformer", "Pooling", "Pooling"), {}, "chains Transformer, Pooling, Pooling"),
        (("Transformer",), {}, "chains Transformer, and"),
    ],
)
def test_what_would_change_a_vector_is_refused(kinds, files, words, tmp_path):
    given = {} if kinds is None else {"kinds": kinds}
    folder = encoder(tmp_path, **given, **files)
    with pytest.raises(UserError) as error:
        _ = read_pooling(folder), read_library(folder)
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
    assert read_steps(model) == (UnitLength(),)
    export_plain(model, tmp_path / "plain")
    texts = ["W001 w002 W003", "w004"]
    theirs = SentenceTransformer(str(model), device="cpu").encode(texts)
    mine = runtime.load(tmp_path / "plain", threads=1).embed(texts)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert (
        np.abs(mine - runtime.load(tmp_path / "plain").embed([t.upper() for t in texts])).max()
        < 1e-6
    )
