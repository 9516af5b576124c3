"""Heads of words as files have them: tied or not, with a bias under one name or two, beside others
that nothing reads; each answers as transformers' module does."""

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tiny_models import _BERT, _DEBERTA_V3, _MODERN, VOCABULARY, make_batch

from edgeprune.base.errors import UserError
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.emit.reference import torch_outputs
from edgeprune.export.rewrite.verify import largest_drift, run_graph
from edgeprune.model.checkpoint import WEIGHTS, open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.store import load_model, save_model


def _as_first_published(weights):
    """Older names of norms, a head that is written down twice, and a pooler and another head, as
    files have them that were trained on sentences' order too."""
    norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, values in weights.items():
        for new, old in norms.items():
            name = name.replace(new, old)
        renamed[name] = values.clone()
    table = weights["bert.embeddings.word_embeddings.weight"]
    return renamed | {
        "cls.predictions.decoder.weight": table.clone(),
        "bert.pooler.dense.weight": torch.ones(32, 32),
        "bert.pooler.dense.bias": torch.ones(32),
        "cls.seq_relationship.weight": torch.ones(2, 32),
        "cls.seq_relationship.bias": torch.ones(2),
    }


def _made(kind, config):
    torch.manual_seed(0)
    module = kind(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return module


@pytest.mark.parametrize(
    ("kind", "config", "tied", "file"),
    [
        (t.BertForMaskedLM, t.BertConfig(**_BERT), True, _as_first_published),
        (t.BertForMaskedLM, t.BertConfig(tie_word_embeddings=False, **_BERT), False, None),
        (t.RobertaForMaskedLM, t.RobertaConfig(tie_word_embeddings=False, **_BERT), False, None),
        (t.XLMRobertaForMaskedLM, t.XLMRobertaConfig(**_BERT), True, None),
        (t.ModernBertForMaskedLM, t.ModernBertConfig(decoder_bias=False, **_MODERN), True, None),
    ],
)
def test_a_head_of_words_is_read_kept_and_written(kind, config, tied, file, tmp_path):
    module, batch = _made(kind, config), make_batch()
    module.save_pretrained(tmp_path / "hf")
    if file:
        weights = file(load_file(tmp_path / "hf" / WEIGHTS))
        save_file(weights, tmp_path / "hf" / WEIGHTS, {"format": "pt"})
    checkpoint = open_checkpoint(str(tmp_path / "hf"))
    model = import_checkpoint(checkpoint)
    assert model.anatomy.tied_embeddings == tied
    assert checkpoint.anatomy.head_linears == model.anatomy.head_linears
    assert len(model.anatomy.head_linears) == 2
    with torch.no_grad():
        expected = module(**batch).logits
        assert torch.equal(model.run(batch).logits, expected)
        save_model(model, tmp_path / "stage")
        assert torch.equal(load_model(tmp_path / "stage").run(batch).logits, expected)
    feeds = [{name: values.numpy() for name, values in batch.items()}]
    graph = emitted(tmp_path / "stage")
    shapes = [tuple(each.shape) for each in graph.initializers.values()]
    width = config.hidden_size
    assert shapes.count((VOCABULARY, width)) + shapes.count((width, VOCABULARY)) == 2 - tied
    assert largest_drift(torch_outputs(model, feeds), run_graph(graph, feeds)) < 1e-5


def test_a_head_of_another_kind_is_refused_with_what_to_do(tmp_path):
    config = t.DebertaV2Config(legacy=False, **_DEBERTA_V3)
    _made(t.DebertaV2ForMaskedLM, config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="name the class DebertaV2Model in"):
        import_checkpoint(open_checkpoint(str(tmp_path)))
