"""Changes of a folder that transformers wrote to what lies on the hub."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from toys.models import Saved

WEIGHTS = "model.safetensors"


def pooled_by(pooling: str) -> Saved:
    """Beside the model, the files by which sentence-transformers pools its tokens."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]

    def change(folder: Path) -> None:
        _write(
            folder / "modules.json",
            [
                {
                    "idx": place,
                    "name": str(place),
                    "path": path,
                    "type": f"sentence_transformers.models.{name}",
                }
                for place, (path, name) in enumerate(modules)
            ],
        )
        modes = {"pooling_mode_mean_tokens": False, f"pooling_mode_{pooling}": True}
        _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **modes})
        (folder / "2_Normalize").mkdir()
        _write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})

    return change


def named(*renamed: tuple[str, str]) -> Saved:
    """Tensors by older names: regular expressions and what stands there instead; those of which no
    name is left are left out."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        for pattern, name in renamed:
            tensors = {re.sub(pattern, name, key): each for key, each in tensors.items()}
        tensors.pop("", None)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return change


def with_buffers(folder: Path) -> None:
    """The positions, and the masks of attention, that older versions wrote among the weights."""
    tensors = load_file(folder / WEIGHTS)
    for name, each in list(tensors.items()):
        if name.endswith("embeddings.position_embeddings.weight"):
            tensors[name.replace("embeddings.weight", "ids")] = torch.arange(len(each))[None]
        if name.endswith("attn.c_attn.weight"):
            path = name.removesuffix("c_attn.weight")
            tensors[f"{path}bias"] = torch.ones(1, 1, 128, 128).tril()
            tensors[f"{path}masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def in_half(dtype: torch.dtype) -> Saved:
    """Weights in a format of 16 bits."""

    def change(folder: Path) -> None:
        tensors = {name: each.to(dtype) for name, each in load_file(folder / WEIGHTS).items()}
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        _changed(folder / "config.json", torch_dtype=str(dtype).removeprefix("torch."))

    return change


def in_shards(folder: Path) -> None:
    """Weights in two files, and the index that says what lies where."""
    tensors = load_file(folder / WEIGHTS)
    names = {name: f"model-{1 + n % 2:05}-of-00002.safetensors" for n, name in enumerate(tensors)}
    for file in set(names.values()):
        part = {name: each for name, each in tensors.items() if names[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    (folder / WEIGHTS).unlink()
    size = sum(each.nbytes for each in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": names}
    _write(folder / f"{WEIGHTS}.index.json", index)


def with_chat(folder: Path) -> None:
    """A template of chats, and several tokens that end an answer."""
    (folder / "chat_template.jinja").write_text(_CHAT, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    ends = sorted({config["eos_token_id"], config.get("pad_token_id") or 0})
    _write(folder / "generation_config.json", {"eos_token_id": ends, "do_sample": True})


_CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def with_verdict(folder: Path) -> None:
    """The tokens by which a decoder says whether a document answers a query, the chat that asks it,
    and the instruction that it has unless told otherwise."""
    kinds = [("", "base.modules.transformer.Transformer")]
    kinds.append(("1_LogitScore", "cross_encoder.modules.logit_score.LogitScore"))
    _write(
        folder / "modules.json",
        [
            {
                "idx": place,
                "name": str(place),
                "path": path,
                "type": f"sentence_transformers.{kind}",
            }
            for place, (path, kind) in enumerate(kinds)
        ],
    )
    (folder / "1_LogitScore").mkdir()
    _write(folder / "1_LogitScore" / "config.json", {"true_token_id": 70, "false_token_id": 75})
    reads = {"method": "forward", "method_output_name": "logits"}
    _write(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": reads, "message": {**reads, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
    _write(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "prompts": {"search": "Find it."},
            "default_prompt_name": "search",
        },
    )
    (folder / "chat_template.jinja").write_text(_VERDICT, encoding="utf-8")


_SAID = "{{ messages | selectattr('role', 'eq', 'ROLE') | map(attribute='content') | first }}"
_VERDICT = (
    f"<|im_start|>{_SAID.replace('ROLE', 'system').replace('first', 'first | default(1)')}\n"
    f"Q: {_SAID.replace('ROLE', 'query')}\nD: {_SAID.replace('ROLE', 'document')}<|im_end|>\n"
)


def with_prompts(folder: Path) -> None:
    """Texts that stand before a query's, padding on the left, and a last token that is pooled."""
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "Query: ", "document": ""}, "default_prompt_name": None},
    )
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    last = content["added_tokens"][0]
    token = {"id": last["content"], "ids": [last["id"]], "tokens": [last["content"]]}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}]
    pieces.append({"SpecialToken": {"id": last["content"], "type_id": 0}})
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {last["content"]: token},
    }
    _write(file, content)
    _changed(folder / "tokenizer_config.json", padding_side="left")


def _changed(file: Path, **settings: Any) -> None:
    _write(file, json.loads(file.read_text(encoding="utf-8")) | settings)


def vocabulary_alone(folder: Path) -> None:
    """A tokenizer's vocabulary and merges, in the files that came before tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    if model["type"] == "WordPiece":
        pieces = sorted(model["vocab"], key=lambda piece: model["vocab"][piece])
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    else:
        _write(folder / "vocab.json", model["vocab"])
        merges = "\n".join(" ".join(merge) for merge in model["merges"])
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()


def pieces_alone(name: str, *special: str) -> Saved:
    """A tokenizer as SentencePiece's file alone; the token of masks is none of its pieces.

    Args:
        name: of the file.
        special: the pieces that it begins with, one of them the unknown token.
    """

    def change(folder: Path) -> None:
        from sentencepiece import sentencepiece_model_pb2 as spm

        model, kinds = spm.ModelProto(), spm.ModelProto.SentencePiece
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        scored = [piece for piece in content["model"]["vocab"] if piece[1] < 0]
        for token in special:
            unknown = "unk" in token.lower()
            kind = kinds.UNKNOWN if unknown else kinds.CONTROL
            if unknown:
                model.trainer_spec.unk_id = len(model.pieces)
            model.pieces.add(piece=token, score=0.0, type=kind)
        for piece, score in scored:
            model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
        (folder / name).write_bytes(model.SerializeToString())
        (folder / "tokenizer.json").unlink()

    return change


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
