"""Decoders that classify: they are planned, quantized and exported with the head that they have."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_builds import model_folder
from tiny_models import _LLAMA

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.plan import plan_formats
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.trace import export_plain
from edgeprune.model.checkpoint import Checkpoint, open_checkpoint
from edgeprune.model.fits import check_fits
from edgeprune.model.importing import import_checkpoint
from edgeprune.targets import find

TEXTS = ["w001 w002 w003 w004 w005", "w007", "w001 w001 w009"]


def scoring(folder: Path, **settings: object) -> Path:
    """A random Llama with a head of three labels, embeddings said to be tied, and a tokenizer."""
    model_folder(folder, "llama")
    torch.manual_seed(0)
    given = {"num_labels": 3, "pad_token_id": 0, "tie_word_embeddings": True, **_LLAMA, **settings}
    config = transformers.LlamaConfig(initializer_range=0.3, **given)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    return open_checkpoint(str(scoring(tmp_path / "model")))


def test_its_head_is_the_one_in_its_files(checkpoint):
    anatomy = checkpoint.anatomy
    assert checkpoint.task == "text-classification"
    assert (anatomy.head, anatomy.head_linears) == (None, ("score",))
    assert not anatomy.tied_embeddings
    check_fits(checkpoint)
    plan = plan_formats(anatomy, QuantizeSettings(), 8, {})
    known = {name.removesuffix(".weight") for name in checkpoint.shapes}
    assert {entry.name for entry in plan.quantized} <= known


def test_it_is_quantized(checkpoint):
    model = import_checkpoint(checkpoint)
    ids = torch.arange(24).reshape(2, 12) + 5
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        before = model.module(**batch).logits
    quantize_model(model, [batch], QuantizeSettings(), find("x86-avx512-vnni"), {})
    with torch.no_grad():
        after = model.module(**batch).logits
    assert 0 < (after - before).abs().max() < 0.1 * before.abs().max()


def test_texts_of_unlike_length_are_classified_as_transformers_does(checkpoint, tmp_path):
    """Padded to the longest: the graph looks for the last token that is no padding."""
    export_plain(checkpoint.folder, tmp_path / "plain")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint.folder)
    with torch.no_grad():
        expected = theirs.eval()(batch["input_ids"], batch["attention_mask"]).logits.numpy()
    model = runtime.load(tmp_path / "plain", threads=1)
    np.testing.assert_allclose(model.logits(TEXTS, batch_size=3), expected, atol=1e-5)


def test_one_without_a_padding_token_is_refused(tmp_path):
    checkpoint = open_checkpoint(str(scoring(tmp_path / "model", pad_token_id=None)))
    with pytest.raises(UserError, match="finds a text's last token by the padding token"):
        check_fits(checkpoint)
