"""Texts beyond the limit in parts, against the same parts embedded by themselves."""

import json

import numpy as np
import pytest
from onnx_models import encoder_folder

from edgeprune import runtime
from edgeprune.base.errors import UserError

LIMIT = 9


@pytest.fixture(scope="module", params=[False, True])
def model(request, tmp_path_factory):
    """With and without scaling to length 1."""
    folder = encoder_folder(tmp_path_factory.mktemp("chunks"))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if request.param else [])]
    modules = [{"type": f"sentence_transformers.models.{k}", "path": "1_Pooling"} for k in kinds]
    prompts = {"prompts": {"query": "the mat "}}
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode": "mean"},
        "sentence_bert_config.json": {"max_seq_length": LIMIT},
        "config_sentence_transformers.json": prompts,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return runtime.load(folder, threads=1)


def special(model) -> int:
    return len(model.tokenizer.ids("cat")) - 1


@pytest.mark.parametrize(("prompt", "before"), [(None, ""), ("query", "the mat ")])
def test_a_long_text_is_the_mean_of_its_parts_by_tokens(model, prompt, before, capsys):
    words = ("the cat sat on a mat far away " * 3).split()
    room = LIMIT - special(model) - len(before.split())
    parts = [words[start : start + room] for start in range(0, len(words), room)]
    assert len(parts) > 2
    assert len(parts[-1]) < room
    vectors = model.embed([before + " ".join(part) for part in parts])
    mean = np.average(vectors, axis=0, weights=[len(part) for part in parts])
    if model.bundle.steps:
        mean /= np.linalg.norm(mean)
    short = "a dog"
    capsys.readouterr()
    found = model.embed([" ".join(words), short], prompt=prompt, chunk=True)
    np.testing.assert_allclose(found[0], mean, atol=1e-6)
    np.testing.assert_allclose(found[1], model.embed([short], prompt=prompt)[0], atol=1e-6)
    said = capsys.readouterr().err
    assert f"1 text is longer than the model's {LIMIT} tokens, and embedded in parts" in said
    assert "was cut" not in said


def test_a_prompt_that_leaves_no_room_is_refused(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "max_length", special(model) + 2)
    with pytest.raises(UserError, match="no text has room beside them"):
        model.embed(["the cat sat on"], prompt="query", chunk=True)
