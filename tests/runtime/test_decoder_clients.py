"""Other clients generate with a fused decoder what PyTorch generates, padded batches included."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from other_python import in_clients, in_node, needs_clients, needs_node
from tiny_models import VOCABULARY, make_batch, make_model

from edgeprune.export.genai_config import write_genai_config
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.trace import export_onnx
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.session import open_session
from edgeprune.targets import find

torch.set_num_threads(1)
STEPS = 24
# Folder that holds node_modules/@huggingface/transformers (npm i @huggingface/transformers).


@pytest.fixture(scope="module")
def prompts() -> dict[str, torch.Tensor]:
    """Three prompts, padded on the left as generation wants them."""
    batch = make_batch()
    return {name: value.flip(1) for name, value in batch.items()}


@pytest.fixture(scope="module", params=["llama-fused", "mistral-fused"])
def folder(request, tmp_path_factory, prompts) -> tuple[Path, list[list[int]]]:
    """A folder as the hub lays it out, and what PyTorch generates from the prompts."""
    place = tmp_path_factory.mktemp(request.param)
    model = make_model(request.param, place, unequal=False)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(model.module.generation_config, name, 1 if name == "pad_token_id" else None)
    expected = model.module.generate(**prompts, max_new_tokens=STEPS, do_sample=False)
    model.module.generation_config.save_pretrained(place)
    (place / "model.safetensors").unlink()
    path = export_onnx(model, place / "plain")
    checked = [{name: value.numpy() for name, value in make_batch().items()}]
    reports = rewrite(
        path, place / "onnx/model.onnx", model.anatomy, None, checked, find("x86-avx512-vnni")
    )
    assert "fuse attention" in [report.name for report in reports if report.kept]
    shutil.rmtree(place / "plain")
    return place, expected.tolist()


OPTIMUM = """
import torch
from optimum.onnxruntime import ORTModelForCausalLM
folder, prompts, steps, bound = given
model = ORTModelForCausalLM.from_pretrained(folder, use_io_binding=bound)
inputs = {name: torch.tensor(values) for name, values in prompts.items()}
print(json.dumps(model.generate(**inputs, max_new_tokens=steps, do_sample=False).tolist()))
"""


@needs_clients
@pytest.mark.parametrize("bound", [False, True], ids=["", "outputs bound"])
def test_optimum_generates_the_same(bound, folder, prompts, tmp_path):
    """With bound outputs, it lays out each beforehand, from the sizes that a plain export has."""
    place, expected = folder
    given = {name: values.tolist() for name, values in prompts.items()}
    found = in_clients(tmp_path / "run.py", OPTIMUM, str(place), given, STEPS, bound)
    assert found == expected


GENAI = """
import numpy
import onnxruntime_genai as genai
folder, prompts, steps = given
model = genai.Model(folder)
found = []
for prompt in prompts:
    settings = genai.GeneratorParams(model)
    settings.set_search_options(do_sample=False, max_length=len(prompt) + steps)
    generator = genai.Generator(model, settings)
    generator.append_tokens(numpy.array([prompt], numpy.int32))
    while not generator.is_done():
        generator.generate_next_token()
    found.append(generator.get_sequence(0).tolist())
print(json.dumps(found))
"""


@needs_clients
def test_onnxruntime_genai_generates_the_same(folder, prompts, tmp_path):
    """It lays out the cache by genai_config.json, and so do we by the graph."""
    place, expected = folder
    assert write_genai_config(place, place / "onnx/model.onnx", "onnx/model.onnx")
    # Its own end of text would stop it before ours, which have none.
    settings = json.loads((place / "genai_config.json").read_text())
    settings["model"]["eos_token_id"] = VOCABULARY - 1
    assert all(VOCABULARY - 1 not in row for row in expected)
    (place / "genai_config.json").write_text(json.dumps(settings))
    masks = prompts["attention_mask"].bool()
    rows = [ids[mask].tolist() for ids, mask in zip(prompts["input_ids"], masks, strict=True)]
    found = in_clients(tmp_path / "run.py", GENAI, str(place), rows, STEPS)
    lengths = [int(mask.sum()) for mask in masks]
    assert found == [row[-count - STEPS :] for row, count in zip(expected, lengths, strict=True)]
    decoder = Decoder(open_session(place / "onnx/model.onnx"), {})
    for row, tokens in zip(rows, found, strict=True):
        decoding = decoder.start(1)
        ours = list(row)
        logits = decoding.feed(np.array([row]), last_only=True)
        for _ in range(STEPS):
            ours.append(int(logits[0, -1].argmax()))
            logits = decoding.feed(np.array([ours[-1:]]), last_only=True)
        assert tokens == ours


SCRIPT = """
const [place, ids, mask, steps] = given;
const options = { dtype: "fp32", device: "cpu", local_files_only: true };
const model = await t.AutoModelForCausalLM.from_pretrained(place, options);
const found = [];
for (let row = 0; row < ids.length; row++) {
    const tensor = (values) =>
        new t.Tensor("int64", BigInt64Array.from(values.map(BigInt)), [1, values.length]);
    const inputs = { input_ids: tensor(ids[row]), attention_mask: tensor(mask[row]) };
    const output = await model.generate({ ...inputs, max_new_tokens: steps, do_sample: false });
    found.push(Array.from(output.data, Number));
}
console.log(JSON.stringify(found));
"""


@needs_node
def test_transformers_js_generates_the_same(folder, prompts, tmp_path):
    place, expected = folder
    given = [str(place), prompts["input_ids"].tolist(), prompts["attention_mask"].tolist(), STEPS]
    assert in_node(tmp_path / "generate.mjs", SCRIPT, *given) == expected
