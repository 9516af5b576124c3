"""DeBERTa of both versions: the distances that its attention knows, beside transformers' own."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_builds import sentence_lines
from tiny_models import VOCABULARY, make_batch, make_model
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.surgery import keep_heads
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.graph import Graph
from edgeprune.export.trace import export_plain
from edgeprune.model import importing
from edgeprune.model.checkpoint import WEIGHTS, open_checkpoint
from edgeprune.model.distances import read_distances
from edgeprune.model.families import find_family
from edgeprune.model.importing import import_checkpoint, import_tokenizer
from edgeprune.model.store import save_model
from edgeprune.runtime.session import open_session

torch.set_num_threads(1)
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
}
_V3 = {
    "position_buckets": 32,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "version 3": ("deberta-v2", _V3),
    "linears of their own": ("deberta-v2", {**_V3, "share_att_key": False}),
    "a row each": ("deberta-v2", {"share_att_key": True}),
    "near ones alone": (
        "deberta-v2",
        {**_V3, "position_buckets": -1, "max_relative_positions": 20},
    ),
    "keys alone, as a word": ("deberta-v2", {**_V3, "pos_att_type": "c2p"}),
    "queries alone": ("deberta-v2", {**_V3, "pos_att_type": ["p2c"], "share_att_key": False}),
    "none": ("deberta-v2", {**_V3, "pos_att_type": []}),
    "narrow embeddings": ("deberta-v2", {**_V3, "embedding_size": 16, "type_vocab_size": 2}),
    "version 1": ("deberta", {"position_biased_input": False}),
    "version 1 near": ("deberta", {"pos_att_type": "c2p|p2c", "max_relative_positions": 20}),
    "version 1, keys alone": ("deberta", {"pos_att_type": ["c2p"], "type_vocab_size": 2}),
}


def made(variant: str, folder: Path) -> Any:
    """transformers' own model, with biases and norms of any values."""
    kind, settings = VARIANTS[variant]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**{**_SIZES, **settings})
    module = transformers.AutoModel.from_config(config)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data += 1
    module.save_pretrained(folder)
    return module.eval()


def flipped(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.flip(1) for name, values in batch.items()}


def drift(graph: Graph, module: Any, batch: dict[str, Tensor]) -> float:
    """Largest difference from a module's answer, at real tokens, over the root mean square."""
    typed = "token_type_ids" in graph.inputs
    if typed:
        batch = {
            **batch,
            "token_type_ids": torch.arange(batch["input_ids"].numel()).view_as(batch["input_ids"])
            % 2,
        }
    with torch.no_grad():
        wanted = module(**batch)[0].numpy()
    session = open_session(graph.save_for_session(), threads=1)
    [got] = session.run(None, {name: value.numpy() for name, value in batch.items()})
    real = batch["attention_mask"].numpy() == 1
    return float(np.abs(got - wanted)[real].max() / np.sqrt(np.square(wanted[real]).mean()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_are_those_of_transformers(variant, tmp_path):
    theirs = made(variant, tmp_path / "hf")
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    save_model(model, tmp_path / "stage")
    graph = emitted(tmp_path / "stage")
    assert graph is not None
    for rows, tokens in ((1, 1), (3, 8), (3, 250)):
        batch = make_batch(rows, tokens)
        with torch.no_grad():
            wanted, got = (each(**batch)[0] for each in (theirs, model.module))
        real = batch["attention_mask"] == 1
        torch.testing.assert_close(got[real], wanted[real], rtol=0, atol=2e-5)
        assert drift(graph, theirs, batch) < 1e-5
        assert drift(graph, theirs, flipped(batch)) < 1e-5


@pytest.mark.parametrize("variant", ["version 3", "linears of their own", "version 1"])
def test_heads_leave_with_their_distances(variant, tmp_path):
    """As if nothing read them."""
    theirs = made(variant, tmp_path / "hf")
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    for layer, kept in enumerate(([1], [0, 2, 3])):
        keep_heads(model, layer, kept)
        gone = [column for column in range(32) if column // 8 not in kept]
        theirs.encoder.layer[layer].attention.output.dense.weight.data[:, gone] = 0
    save_model(model, tmp_path / "stage")
    graph = emitted(tmp_path / "stage")
    assert graph is not None
    assert drift(graph, theirs, make_batch(3, 60)) < 1e-5


@pytest.mark.parametrize(
    ("buckets", "furthest", "most"), [(256, 512, 512), (32, 256, 300), (8, 96, 96), (4, 512, 600)]
)
def test_buckets_are_those_of_transformers(buckets, furthest, most):
    config = {"position_buckets": buckets, "max_relative_positions": furthest}
    distances = read_distances(config, find_family("deberta-v2"))
    numbers = torch.arange(-most, most + 1)
    theirs = make_log_bucket_position(numbers, buckets, furthest).long() + buckets
    got = distances.rows(numbers.numpy())
    np.testing.assert_array_equal(got, theirs.clamp(0, 2 * buckets - 1).numpy())


@pytest.mark.parametrize("family", ["deberta-v2", "deberta-classifier"])
def test_the_reference_can_be_traced(family, tmp_path):
    make_model(family, tmp_path / "hf", unequal=False)
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    save_model(model, tmp_path / "stage")
    (tmp_path / "stage" / "tokenizer.json").write_text("{}")
    graph = Graph.load(export_plain(tmp_path / "stage", tmp_path / "plain"))
    batch = make_batch(3, 60)
    with torch.no_grad():
        wanted = model.module(**batch)[0].numpy()
    session = open_session(graph.save_for_session(), threads=1)
    [got] = session.run(None, {name: value.numpy() for name, value in batch.items()})
    kept = slice(None) if wanted.ndim == 2 else batch["attention_mask"].numpy() == 1
    assert np.abs(got - wanted)[kept].max() < 1e-4


def test_a_table_of_positions_that_nothing_reads_is_no_part_of_the_model(tmp_path):
    """As the files of DeBERTa-v3 may hold one."""
    made("version 3", tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["embeddings.position_embeddings.weight"] = torch.zeros(512, 32)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    checkpoint = open_checkpoint(str(tmp_path))
    assert set(checkpoint.anatomy.embeddings) == {"word"}
    assert set(import_checkpoint(checkpoint).anatomy.embeddings) == {"word"}


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is 3"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention is False"),
        ("deberta", {"talking_head": True}, "talking_head is True"),
        ("deberta-v2", {"position_buckets": "many"}, "position_buckets: input should be"),
        ("deberta", {"pos_att_type": "c2p|p2p"}, "p2p is not known here, but c2p and p2c are"),
    ],
)
def test_what_is_not_known_is_refused(kind, settings, words, tmp_path):
    config = transformers.CONFIG_MAPPING[kind](**_SIZES)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | settings))
    with pytest.raises(UserError, match=words.replace("|", r"\|")):
        open_checkpoint(str(tmp_path)).anatomy  # noqa: B018


def test_a_tokenizer_of_sentence_pieces_alone_says_what_reads_it(tmp_path, monkeypatch):
    made("version 3", tmp_path)
    (tmp_path / "spm.model").write_bytes(b"pieces")
    monkeypatch.setattr(importing, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"alone \(spm.model\).* pip install sentencepiece, or"):
        import_tokenizer(open_checkpoint(str(tmp_path)), tmp_path / "out")


def test_a_tokenizer_of_sentence_pieces_alone_is_read(tmp_path):
    """As the hub has DeBERTa-v3: beside sentencepiece itself, which made the file."""
    made("version 3", tmp_path)
    lines, pieces = sentence_lines(200), io.BytesIO()
    names = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=pieces,
        vocab_size=100,
        minloglevel=2,
        **{f"{name}_id": place for place, name in enumerate(names)},
        **{f"{name}_piece": token for name, token in names.items()},
    )
    (tmp_path / "spm.model").write_bytes(pieces.getvalue())
    settings = {"do_lower_case": False, "vocab_type": "spm"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    import_tokenizer(open_checkpoint(str(tmp_path)), tmp_path / "out")
    ours = RustTokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    trained = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue())
    for line in lines[:20]:
        assert ours.encode(line).ids == [1, *trained.encode(line), 2]
    for odd in ("w001 [MASK] w002", " two  spaces ", "W001\tunknown"):
        assert ours.encode(odd).ids == theirs(odd).input_ids
