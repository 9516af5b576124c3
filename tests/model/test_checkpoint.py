"""Which files of a folder are the model, and what is only beside it."""

import contextlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_builds import dry_run, model_folder

from edgeprune.base.errors import UserError
from edgeprune.model.checkpoint import INDEX, WEIGHTS, open_checkpoint
from edgeprune.model.families import gguf_model_types
from edgeprune.model.fits import check_fits
from edgeprune.model.gguf_header import read_gguf_header
from edgeprune.model.importing import import_checkpoint


@pytest.fixture
def model(tmp_path) -> Path:
    return model_folder(tmp_path / "model", "bert")


def shard(model: Path, parts: int = 2) -> Path:
    """Spread a model's weights over files that an index names."""
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    names = sorted(tensors)
    placed = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        mine = {name: tensors[name] for name in names[part::parts]}
        save_file(mine, model / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(mine, file)
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return model


# weights ---------------------------------------------------------------------------------------


def test_an_index_decides_and_what_is_beside_it_is_named(model, tmp_path):
    expected = open_checkpoint(str(model))
    tensors = import_checkpoint(expected).module.state_dict()
    stray = {name: torch.zeros(3, 3) for name in ("layers.0.attention.wq.weight", "norm.weight")}
    save_file(stray, shard(model) / "consolidated.safetensors")
    found = open_checkpoint(str(model))
    assert [file.name for file in found.files] == sorted(
        f"model-0000{part}-of-00002.safetensors" for part in (1, 2)
    )
    assert found.strays == ["consolidated.safetensors"]
    assert found.shapes == expected.shapes
    for name, tensor in import_checkpoint(found).module.state_dict().items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=0)

    result = dry_run(model, tmp_path)
    assert result.exit_code == 0
    assert "Warning: consolidated.safetensors in" in result.stderr


def test_weights_beside_the_model_are_not_the_model(model):
    save_file({"encoder.layer.2.x.weight": torch.zeros(2, 2)}, model / "old.safetensors")
    found = open_checkpoint(str(model))
    assert len(found.anatomy.blocks) == 2
    assert (found.files, found.strays) == ((model / WEIGHTS,), ["old.safetensors"])


def test_the_model_as_its_publisher_trained_it_is_named_and_not_read(model, tmp_path):
    (model / "original").mkdir()
    for name in ("consolidated.00.pth", "model.safetensors", "params.json", "tokenizer.model"):
        (model / "original" / name).write_bytes(b"\x80 not to be opened")
    found = open_checkpoint(str(model))
    assert found.strays == ["original/consolidated.00.pth", "original/model.safetensors"]
    import_checkpoint(found)
    result = dry_run(model, tmp_path)
    assert result.exit_code == 0
    assert "Warning: original/consolidated.00.pth, original/model.safetensors in" in result.stderr


def test_weights_of_another_layout_alone_are_no_model(model):
    (model / WEIGHTS).rename(model / "consolidated.safetensors")
    with pytest.raises(UserError, match=r"no weights in model\.safetensors.*consolidated\.safe"):
        open_checkpoint(str(model))


def test_two_models_in_one_folder(model):
    shutil.copyfile(model / WEIGHTS, model / "kept")
    shard(model)
    (model / "kept").rename(model / WEIGHTS)
    with pytest.raises(UserError, match="remove the one that is not the model"):
        open_checkpoint(str(model))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[]", "must hold a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "names 3 for a file of weights"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "for a file of weights: refused"),
        ('{"weight_map": {"a": "x.safetensors"}}', "x.safetensors is missing, which"),
        (f'{{"weight_map": {{"a": "{WEIGHTS}"}}}}', "names a, and no file of it has that"),
    ],
)
def test_an_index_that_names_what_is_not_there(index, words, model):
    if WEIGHTS not in index:
        (model / WEIGHTS).unlink()
    (model / INDEX).write_text(index)
    with pytest.raises(UserError) as error:
        open_checkpoint(str(model))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_refused_with_what_to_do(name, alone, model):
    if alone:
        for file in model.iterdir():
            file.unlink()
    (model / name).write_text("{}")
    with pytest.raises(UserError, match=r"merge it into its model .* merge_and_unload\(\)"):
        open_checkpoint(str(model))


# GGUF ------------------------------------------------------------------------------------------

_TYPES = {int: (4, "<I"), float: (6, "<f"), str: (8, "")}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str, value: object) -> bytes:
    if isinstance(value, list):
        kind = _TYPES[type(value[0])][0]
        packed = b"".join(_packed(each) for each in value)
        return text(name) + struct.pack("<IIQ", 9, kind, len(value)) + packed
    return text(name) + struct.pack("<I", _TYPES[type(value)][0]) + _packed(value)


def _packed(value: object) -> bytes:
    return text(value) if isinstance(value, str) else struct.pack(_TYPES[type(value)][1], value)


LLAMA = {
    "general.architecture": "llama",
    "llama.context_length": 96,
    "llama.embedding_length": 16,
    "llama.feed_forward_length": 16,
    "llama.block_count": 1,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 2,
}
PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
TENSORS = ("token_embd.weight", *(f"blk.0.{part}.weight" for part in PARTS))


def gguf_bytes(settings: dict[str, object], tensors: tuple[str, ...] = TENSORS) -> bytes:
    """A whole GGUF file of 16x16 float32 zeros."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    header += b"".join(entry(name, value) for name, value in settings.items())
    for number, name in enumerate(tensors):
        header += text(name) + struct.pack("<IQQIQ", 2, 16, 16, 0, number * 1024)
    return header + bytes(-len(header) % 32 + 1024 * len(tensors))


def gguf_file(path: Path, without: tuple[str, ...] = (), **changes: object) -> Path:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in (LLAMA | named).items() if name not in without}
    path.write_bytes(gguf_bytes(kept))
    return path


def test_a_gguf_header_is_read_as_its_own_library_reads_it(tmp_path):
    gguf = pytest.importorskip("gguf")
    file = gguf_file(tmp_path / "a.gguf", tokenizer__ggml__tokens=["a", "b"] * 600)
    theirs = gguf.GGUFReader(str(file))
    found = open_checkpoint(str(file))
    names = {"hidden_size": "embedding_length", "num_attention_heads": "attention.head_count"}
    for mine, its in names.items():
        assert found.config[mine] == theirs.fields[f"llama.{its}"].contents()
    assert len(found.shapes) == len(theirs.tensors) == len(TENSORS)
    check_fits(found)


def test_key_value_heads_that_are_not_stated_are_as_many_as_heads(tmp_path):
    found = open_checkpoint(
        str(gguf_file(tmp_path / "a.gguf", without=("llama.attention.head_count_kv",)))
    )
    assert found.anatomy.blocks[0].attention.num_key_value_heads == 2
    check_fits(found)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.attention.head_count_kv", [2, 1], "head_count_kv for each layer"),
        ("llama.attention.head_count", None, "does not say llama.attention.head_count"),
        ("llama.embedding_length", None, "does not say llama.embedding_length"),
        ("llama.attention.head_count", 0, "num_attention_heads: input should be greater than"),
        ("llama.attention.head_count", "2", "num_attention_heads: input should be a valid int"),
        ("llama.rope.scaling.type", "yarn", "stretches its rotary positions (rope.scaling.type)"),
        ("llama.rope.scaling.factor", 4.0, "stretches its rotary positions"),
    ],
)
def test_settings_of_a_gguf_file(key, value, words, tmp_path):
    file = gguf_file(
        tmp_path / "a.gguf", **({"without": (key,)} if value is None else {key: value})
    )
    with pytest.raises(UserError) as error:
        open_checkpoint(str(file))
    assert words in str(error.value)


def test_a_gguf_with_frequencies_of_its_own_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(LLAMA, (*TENSORS, "rope_freqs.weight")))
    with pytest.raises(UserError, match=r"\(rope_freqs\.weight\)"):
        open_checkpoint(str(tmp_path / "a.gguf"))


def test_a_family_that_is_not_read_from_gguf_is_told_at_once(tmp_path):
    """However large its vocabulary, of which nothing is kept."""
    words = [f"token{number}" for number in range(5_000)]
    file = gguf_file(
        tmp_path / "a.gguf",
        general__architecture="gemma3",
        tokenizer__ggml__tokens=words,
        tokenizer__ggml__scores=[0.5] * len(words),
    )
    kept = read_gguf_header(file).settings
    assert [key for key, value in kept.items() if value is None] == [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
    ]
    with pytest.raises(UserError, match=r"'gemma3', which is not read from GGUF") as error:
        open_checkpoint(str(file))
    assert all(name in str(error.value) for name in gguf_model_types())
    assert "a folder of safetensors" in str(error.value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_gguf_file_is_taken_or_told_in_a_sentence(tmp_path_factory, data):
    """Cut off, and with bytes changed."""
    whole = bytearray(gguf_bytes(LLAMA))
    header = len(whole) - 1024 * len(TENSORS)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, header - 1))
        whole[place] = data.draw(st.sampled_from([0, 1, 2, 8, 9, 127, 255]))
    left = data.draw(st.sampled_from([len(whole), len(whole) - 1, header, 100, 30, 4, 0]))
    file = tmp_path_factory.mktemp("gguf") / "a.gguf"
    file.write_bytes(whole[:left])
    with contextlib.suppress(UserError):
        check_fits(open_checkpoint(str(file)))


def test_a_model_that_the_hub_has_as_pickled_weights_alone_says_what_to_do(model, monkeypatch):
    fetched = []

    def snapshot_download(name, allow_patterns, **_):
        fetched.append(allow_patterns)
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert open_checkpoint("somebody/something").folder == model
    (model / WEIGHTS).unlink()
    with pytest.raises(UserError, match="'somebody/something' has no weights in safetensors on"):
        open_checkpoint("somebody/something")
    assert not any(".bin" in pattern for patterns in fetched for pattern in patterns)
