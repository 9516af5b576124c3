"""Decoders that rank by a word, as sentence-transformers keeps them."""

import json
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from tiny_builds import WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PROMPT = "Find what the query asks for."
_OF = "{{ messages | selectattr('role', 'eq', 'ROLE') | map(attribute='content') | first }}"
TEMPLATE = (
    "<|im_start|>system\nJudge. Say yes or no.<|im_end|>\n<|im_start|>user\n"
    f"<Instruct>: {_OF.replace('ROLE', 'system').replace('first', 'first | default(1)')}\n"
    f"<Query>: {_OF.replace('ROLE', 'query')}\n<Document>: {_OF.replace('ROLE', 'document')}"
    "<|im_end|>\n<|im_start|>assistant\n\n\n"
)


def verdict_folder(
    folder: Path,
    family: str = "Qwen3",
    no: bool = True,
    tied: bool = True,
    template: str = TEMPLATE,
) -> Path:
    """A tiny random decoder with a byte-level tokenizer, a template and the tokens of its verdict;
    `no`: whether it has two of these."""
    tokenizer = _tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    sizes |= {"head_dim": 8} if family == "Qwen3" else {}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    module = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    module.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=256,
    ).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    kinds = (("", "base.modules.transformer.Transformer"),)
    kinds += (("1_LogitScore", "cross_encoder.modules.logit_score.LogitScore"),)
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    yes = tokenizer.token_to_id("the")
    tokens = {"true_token_id": yes, "false_token_id": yes + 5 if no else None}
    (folder / "1_LogitScore").mkdir()
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(tokens))
    reads = {"method": "forward", "method_output_name": "logits"}
    settings = {
        "transformer_task": "text-generation",
        "modality_config": {"text": reads, "message": {**reads, "format": "flat"}},
        "module_output_name": "causal_logits",
    }
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    library = {
        "model_type": "CrossEncoder",
        "prompts": {"search": PROMPT},
        "default_prompt_name": "search",
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(library))
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [f"{one} {two}?\n" for one, two in pairwise(WORDS)]
    tokenizer.train_from_iterator(["the the " * 9, *lines], trainer)
    return tokenizer
