"""A GGUF file's weights, packed in blocks, are read as the numbers that its own library unpacks."""

from pathlib import Path

import pytest
import torch
import transformers

from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def called(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, *path, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(path)]}.{kind}"


def packed(module: torch.nn.Module, path: Path) -> Path:
    """A Qwen2 as a GGUF file with matrices in Q8_0, whose rounded weights the module takes on."""
    gguf = pytest.importorskip("gguf")
    config, kind = module.config, gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(config.vocab_size)])
    for name, parameter in module.named_parameters():
        values = parameter.detach().numpy()
        if values.ndim == 1:
            writer.add_tensor(called(name), values)
            continue
        blocks = gguf.quants.quantize(values, kind)
        writer.add_tensor(called(name), blocks, raw_dtype=kind)
        parameter.data = torch.from_numpy(gguf.quants.dequantize(blocks, kind).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def test_packed_weights_are_read_as_numbers(tmp_path):
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        initializer_range=0.4,
    )
    theirs = transformers.Qwen2ForCausalLM(config).eval()
    model = import_checkpoint(open_checkpoint(str(packed(theirs, tmp_path / "a.gguf"))))
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    assert model.config["rope_theta"] == 500_000.0
    assert "quantization_config" not in model.config
    ids = torch.arange(200)[None] % 64
    torch.testing.assert_close(model.module(ids).logits, theirs(ids).logits, rtol=0, atol=1e-6)
