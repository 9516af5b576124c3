"""Toy models as people save them: random weights, a tokenizer of the kind that the type has.

Tokenizers are learnt from the project's own pages, by the tokenizers library, and written by the
class that transformers names for the type.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

WEIGHTS = "model.safetensors"
ROOT = Path(__file__).parents[1]
LABELS = {0: "negative", 1: "neutral", 2: "positive"}
TAGS = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
PARTS = dict(enumerate(["NOUN", "VERB", "ADJ", "PUNCT"]))
SIZE, ROWS = 500, 512
"""Tokens of a vocabulary, about, and rows of a table: more than that, as of many that are trained.
"""


@functools.cache
def sentences() -> list[str]:
    """The running text of the project's pages, a sentence each."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    prose = " ".join(
        line
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"[A-Za-z`]", line)
    )
    whole = re.findall(r"[A-Z][^.:!?|`<>*\[\]]{30,90}[.!?](?= )", prose)
    return list(dict.fromkeys(whole))


def texts() -> list[str]:
    """The texts that are asked."""
    return sentences()[:: len(sentences()) // 12][:12]


# Tokenizers ------------------------------------------------------------------------------------


def word_pieces(*special: str) -> dict[str, Any]:
    """WordPiece's vocabulary of lower-case text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return {"vocab": tokenizer.get_vocab()}


def joined_bytes(*special: str) -> dict[str, Any]:
    """Byte-level BPE's vocabulary and merges."""
    tokenizer = _byte_level(special)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _byte_level(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return tokenizer


def unigrams(unknown: str, *special: str) -> dict[str, Any]:
    """Unigram's vocabulary with its scores, as SentencePiece learns it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    scored = json.loads(tokenizer.to_str())["model"]["vocab"]
    return {"vocab": [(piece, score) for piece, score in scored]}


def whole_file(first: str, last: str, *special: str) -> t.PreTrainedTokenizerFast:
    """A byte-level BPE that a type without a class of its own keeps in tokenizer.json alone."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = _byte_level((first, last, *special))
    around = f"{first} $A {last}" if special else f"{first} $A"
    tokenizer.post_processor = TemplateProcessing(
        single=around,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return tokenizer


_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def _bert_tokenizer() -> Any:
    return t.BertTokenizer(**word_pieces(*_BERT_TOKENS), model_max_length=128)


def _mpnet_tokenizer() -> Any:
    special = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
    return t.MPNetTokenizer(**word_pieces(*special), model_max_length=126)


def _roberta_tokenizer() -> Any:
    return t.RobertaTokenizer(**joined_bytes(*_ROBERTA_TOKENS), model_max_length=126)


def _xlm_roberta_tokenizer() -> Any:
    return t.XLMRobertaTokenizer(**unigrams("<unk>", *_ROBERTA_TOKENS), model_max_length=126)


def _gpt2_tokenizer() -> Any:
    return t.GPT2Tokenizer(**joined_bytes("<|endoftext|>"), model_max_length=128)


def _opt_tokenizer() -> Any:
    return t.GPT2Tokenizer(
        **joined_bytes(*_ROBERTA_TOKENS[:4]),
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
        add_bos_token=True,
    )


def _qwen_tokenizer() -> Any:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return t.Qwen2Tokenizer(
        **joined_bytes(*special),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=128,
    )


def _llama_tokenizer() -> Any:
    return t.PreTrainedTokenizerFast(
        tokenizer_object=whole_file("<|begin_of_text|>", "<|eot_id|>"),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        model_max_length=128,
    )


def _modernbert_tokenizer() -> Any:
    return t.PreTrainedTokenizerFast(
        tokenizer_object=whole_file("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
        **{f"{name[1:-1].lower()}_token": name for name in _BERT_TOKENS},
        model_max_length=128,
    )


def _deberta_tokenizer() -> Any:
    special = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    return t.DebertaTokenizer(**joined_bytes(*special), model_max_length=128)


def _deberta_v2_tokenizer() -> Any:
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    return t.DebertaV2Tokenizer(**unigrams("[UNK]", *special), unk_id=3, model_max_length=128)


# Configurations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Type:
    """A type of models: its sizes as a toy, and its tokenizer."""

    tokenizer: Callable[[], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_OFFSET = {**_SIZES, "max_position_embeddings": 130, "type_vocab_size": 1}
_DISTANCES = {
    **_SIZES,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
TYPES: Mapping[str, Type] = {
    "bert": Type(_bert_tokenizer, _SIZES),
    "distilbert": Type(
        _bert_tokenizer,
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 128,
        },
    ),
    "electra": Type(_bert_tokenizer, {**_SIZES, "embedding_size": 16}),
    "mpnet": Type(_mpnet_tokenizer, {**_SIZES, "max_position_embeddings": 130}),
    "roberta": Type(_roberta_tokenizer, _OFFSET),
    "xlm-roberta": Type(_xlm_roberta_tokenizer, _OFFSET),
    "modernbert": Type(
        _modernbert_tokenizer,
        {**_SIZES, "num_hidden_layers": 4, "local_attention": 8},
    ),
    "deberta": Type(_deberta_tokenizer, {**_DISTANCES, "max_relative_positions": -1}),
    "deberta-v2": Type(
        _deberta_v2_tokenizer,
        {
            **_DISTANCES,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    "gpt2": Type(_gpt2_tokenizer, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "opt": Type(
        _opt_tokenizer,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
        },
    ),
    "qwen2": Type(_qwen_tokenizer, {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": Type(_qwen_tokenizer, {**_GROUPED, "head_dim": 16, "tie_word_embeddings": True}),
    "llama": Type(
        _llama_tokenizer,
        {
            **_GROUPED,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
}


@dataclass(frozen=True)
class Head:
    """A kind of model by what it answers."""

    loader: str
    settings: Mapping[str, Any] = field(default_factory=dict)


Saved = Callable[[Path], None]
"""A change of a folder that transformers wrote, to what lies on the hub."""


def make_model(model_type: str, head: Head, saved: Sequence[Saved], folder: Path) -> Path:
    """A folder with weights, configuration and tokenizer."""
    kind = TYPES[model_type]
    tokenizer = kind.tokenizer()
    tokens = {
        name: getattr(tokenizer, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        if getattr(tokenizer, name, None) is not None
    }
    settings = {"vocab_size": ROWS, **tokens, **kind.settings, **head.settings}
    config = t.AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(0)
    module = getattr(t, head.loader).from_config(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.2 if parameter.ndim > 1 else 0.1)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for change in saved:
        change(folder)
    return folder


# Files -----------------------------------------------------------------------------------------


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
