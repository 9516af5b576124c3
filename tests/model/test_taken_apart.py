"""Parts of stored tensors beside the linears that loading makes of whole modules."""

import numpy as np
import pytest
import transformers
from safetensors.torch import save_file
from tiny_models import make_model

from edgeprune.model.families import find_family
from edgeprune.model.plain import make_plain
from edgeprune.model.taken_apart import taken_apart
from edgeprune.model.tensor_files import TensorFiles

FAMILIES = ("gpt2", "gpt_neox", "phi3", "mixtral", "qwen2_moe", "llama")


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_files_are_the_linears_that_modules_become(family, tmp_path):
    config = make_model(family, tmp_path / "model", unequal=False).config
    module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    head = "lm_head.weight" if config.get("tie_word_embeddings", family == "gpt2") else ""
    stored = {name: each.clone() for name, each in module.state_dict().items() if name != head}
    save_file(stored, tmp_path / "stored.safetensors")
    files = taken_apart(
        find_family(family), config, TensorFiles.of([tmp_path / "stored.safetensors"])
    )
    make_plain(module, find_family(family), config)
    wanted = {name: each for name, each in module.state_dict().items() if name != head}
    assert set(files) == set(wanted)
    for name, tensor in wanted.items():
        assert files.shape(name) == tuple(tensor.shape)
        assert np.array_equal(files.read(name), tensor.numpy())


def test_what_a_list_says_of_parts_is_read_back(tmp_path):
    make_model("gpt_neox", tmp_path / "model", unequal=False)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "model").to_dict()
    files = TensorFiles.of([tmp_path / "model/model.safetensors"])
    parts = taken_apart(find_family("gpt_neox"), config, files)
    parts.write_list(tmp_path, tmp_path)
    again = TensorFiles.listed(tmp_path)
    assert again.shapes == parts.shapes
    for name in parts:
        assert np.array_equal(again.read(name), parts.read(name))
