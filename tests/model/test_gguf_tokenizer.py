"""A GGUF file's tokenizer: it says by itself whether it puts a token before a text."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from edgeprune.model.checkpoint import Checkpoint
from edgeprune.model.importing import import_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]


def gguf_file(path: Path, adds: bool) -> Path:
    """A Llama without weights, whose byte-level tokenizer joins two pairs of letters."""
    gguf = pytest.importorskip("gguf")
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "he"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["t h", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(adds)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("adds", [True, False])
def test_a_token_goes_before_a_text_where_the_file_says_so(tmp_path: Path, adds: bool) -> None:
    file = gguf_file(tmp_path / "a.gguf", adds)
    import_tokenizer(Checkpoint("it", tmp_path, {}, {}, (file,), gguf=file), tmp_path / "out")
    found = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("th")
    assert found.tokens == [*(["<s>"] if adds else []), "th"]
