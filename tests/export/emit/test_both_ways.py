"""A decoder's layers whose tokens see those after them too: they embed, and keep nothing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
import torch
import transformers
from tiny_builds import model_folder
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.export.emit.emitted import emitted
from edgeprune.export.graph import Graph
from edgeprune.export.trace import export_plain
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import save_model
from edgeprune.runtime.session import open_session

torch.set_num_threads(1)
FAMILY = "gemma3_text-encoder"


@pytest.fixture(scope="module", params=[True, False], ids=["unequal", "equal"])
def built(request, tmp_path_factory) -> tuple[Model, Graph, Path]:
    folder = tmp_path_factory.mktemp("both-ways")
    model = make_model(FAMILY, folder / "hf", unequal=request.param)
    save_model(model, folder / "stage")
    graph = emitted(folder / "stage")
    assert graph is not None
    return model, graph, folder


def states(model: Model, graph: Graph, tokens: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Of real tokens by torch, and by the graph."""
    batch = make_batch(tokens=tokens)
    if side == "left":
        batch = {name: value.flip(1) for name, value in batch.items()}
    real = batch["attention_mask"].numpy() == 1
    with torch.no_grad():
        expected = model.module(**batch).last_hidden_state.numpy()[real]
    session = open_session(graph.save_for_session(), threads=1)
    feed = {name: value.numpy() for name, value in batch.items()}
    return expected, session.run(["last_hidden_state"], feed)[0][real]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tokens", [4, 70])
def test_states_equal_torch(tokens, side, built):
    expected, got = states(*built[:2], tokens, side)
    assert np.abs(got - expected).max() < 2e-5 * np.sqrt(np.square(expected).mean())


def test_the_graph_is_an_encoders(built):
    model, graph, _ = built
    onnx.checker.check_model(graph.model())
    assert sorted(graph.inputs) == ["attention_mask", "input_ids"]
    assert list(graph.outputs) == ["last_hidden_state"]
    assert not model.anatomy.has_cache


def test_a_window_is_half_as_far_to_either_side(built):
    """Of width 6: three tokens before and three after; a wider one answers otherwise."""
    model, graph, _ = built
    wide = graph.snapshot()
    assert wide.constant("/integer/4") == 4
    wide.add_constant("/integer/4", np.array(5, np.int64))
    narrow, found = states(model, graph, 40, "right")[0], states(model, wide, 40, "right")[1]
    assert np.abs(narrow - found).max() > 0.01


def test_the_reference_can_be_traced(tmp_path):
    model = import_checkpoint(open_checkpoint(str(model_folder(tmp_path / "hf", FAMILY))))
    save_model(model, tmp_path / "stage")
    path = export_plain(tmp_path / "stage", tmp_path / "plain")
    batch = {name: value.numpy() for name, value in make_batch(tokens=40).items()}
    [got] = open_session(path, threads=1).run(None, batch)
    with torch.no_grad():
        expected = model.module(**make_batch(tokens=40)).last_hidden_state.numpy()
    real = batch["attention_mask"] == 1
    assert np.abs(got - expected)[real].max() < 1e-4


def test_it_writes_no_text(tmp_path):
    config = transformers.Gemma3TextConfig(
        use_bidirectional_attention=True, **tiny_models._GEMMA3, **tiny_models._LLAMA, head_dim=8
    )
    transformers.Gemma3ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="writes text with an encoder's layers"):
        import_checkpoint(open_checkpoint(str(tmp_path)))


def test_what_reads_images_too_is_refused_and_its_text_part_taken(tmp_path):
    """As the sentence says."""
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    seen |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    text = {**tiny_models._LLAMA, "head_dim": 8, "sliding_window": 6}
    config = transformers.Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=4)
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match="reads images beside text") as error:
        open_checkpoint(str(tmp_path / "whole"))
    said = str(error.value).partition("(whole")[2].rpartition("),")[0]
    names = {name: getattr(transformers, name) for name in dir(transformers) if "Gemma3" in name}
    names |= {"MODEL": tmp_path / "whole", "FOLDER": tmp_path / "part"}
    exec("whole" + said, names)
    model = import_checkpoint(open_checkpoint(str(tmp_path / "part")))
    tokens = make_batch()["input_ids"]
    with torch.no_grad():
        expected = names["whole"].eval()(tokens).logits
        torch.testing.assert_close(model.module(tokens).logits, expected, rtol=0, atol=1e-6)
