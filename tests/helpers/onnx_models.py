"""Tiny ONNX models with answers in closed form, in folders as clients lay them out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgeprune.runtime.names import SHARED_CACHE

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "far", "away"]
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]
SIZE = 8
OPSET = [helper.make_opsetid("", 17)]


def table(rows: int = len(VOCABULARY), size: int = SIZE, seed: int = 0) -> np.ndarray:
    """The weights of all models below: fixed random numbers, [rows, size]."""
    return np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)


def encoder_folder(folder: Path, depth: int = 1, width: int = SIZE, **extra: Any) -> Path:
    """last_hidden_state = table[input_ids] @ mixing, `depth` times; [batch, tokens, width]."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["h0"], "/embed/Gather")]
    for i in range(depth):
        last = "last_hidden_state" if i == depth - 1 else f"h{i + 1}"
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [last], f"/l.{i}/up/MatMul"))
    nodes.append(helper.make_node("Identity", ["attention_mask"], ["mask"]))
    weights = {"table": table(size=width)}
    weights |= {f"w{i}": mixing(width, i) for i in range(depth)}
    outputs = [_value("last_hidden_state", TensorProto.FLOAT, ["b", "t", width])]
    outputs.append(_value("mask", TensorProto.INT64, ["b", "t"]))
    _save(folder, nodes, _ids_and_mask("t"), outputs, weights)
    return _assets(folder, {"architectures": ["BertModel"]} | extra)


def mixing(size: int = SIZE, seed: int = 0) -> np.ndarray:
    """The weights of one linear, scaled so that many in a row neither grow nor vanish."""
    return table(size, size, seed + 1) / np.float32(np.sqrt(size))


def classifier_folder(
    folder: Path, labels: tuple[str, ...] = ("bad", "good", "so-so"), **config: Any
) -> Path:
    """logits = (sum of table[ids] over real tokens) @ heads; `config` adds to its settings."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["h", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "heads"], ["logits"], "/classifier/MatMul"),
    ]
    weights = {
        "table": table(),
        "heads": table(SIZE, len(labels), seed=5),
        "last": np.array([2]),
        "tokens": np.array([1]),
    }
    outputs = [_value("logits", TensorProto.FLOAT, ["b", len(labels)])]
    _save(folder, nodes, _ids_and_mask("t"), outputs, weights)
    names = {str(index): label for index, label in enumerate(labels)}
    stated = {"architectures": ["XForSequenceClassification"], "id2label": names}
    return _assets(folder, stated | config)


def tagger_folder(folder: Path, labels: tuple[str, ...] = ("O", "B-PER", "I-PER")) -> Path:
    """logits of each token = table[ids] @ heads."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        helper.make_node("MatMul", ["h", "heads"], ["logits"], "/classifier/MatMul"),
    ]
    weights = {"table": table(), "heads": table(SIZE, len(labels), seed=5)}
    outputs = [_value("logits", TensorProto.FLOAT, ["b", "t", len(labels)])]
    _save(folder, nodes, _ids_and_mask("t"), outputs, weights)
    names = {str(index): label for index, label in enumerate(labels)}
    return _assets(folder, {"architectures": ["XForTokenClassification"], "id2label": names})


def answerer_folder(folder: Path) -> Path:
    """start_logits and end_logits of each token = the columns of table[ids] @ heads."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        helper.make_node("MatMul", ["h", "heads"], ["both"], "/qa_outputs/MatMul"),
        helper.make_node("Split", ["both"], ["first", "last"], axis=-1),
        helper.make_node("Squeeze", ["first", "axis"], ["start_logits"]),
        helper.make_node("Squeeze", ["last", "axis"], ["end_logits"]),
    ]
    weights = {"table": table(), "heads": table(SIZE, 2, seed=5), "axis": np.array([-1])}
    names = ("start_logits", "end_logits")
    outputs = [_value(name, TensorProto.FLOAT, ["b", "t"]) for name in names]
    _save(folder, nodes, _ids_and_mask("t"), outputs, weights)
    return _assets(folder, {"architectures": ["XForQuestionAnswering"]})


def filler_folder(folder: Path) -> Path:
    """logits of each token = table[ids] @ heads, one for each of the vocabulary."""
    tagger_folder(folder, tuple(VOCABULARY))
    return _assets(folder, {"architectures": ["XForMaskedLM"]})


def decoder_folder(folder: Path, opens: bool = True, shared: bool = False, **config: Any) -> Path:
    """logits of token t = (sum of table[ids] up to t) @ heads, the summands kept in a cache.

    Args:
        opens: whether the tokenizer puts [CLS] before a text; it puts [SEP] behind it.
        shared: the new summands are written into the cache in place, where it has room for them;
            else the cache that comes out is longer than the one that goes in.
    """
    parts = ("key", "value")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        helper.make_node("Unsqueeze", ["h", "one"], ["key"]),
        helper.make_node("Shape", ["input_ids"], ["new"], start=1),
        helper.make_node("Shape", ["attention_mask"], ["total"], start=1),
        helper.make_node("Sub", ["total", "new"], ["past"]),
    ]
    if shared:
        # Each new row's place, as often as the row is long.
        scalars = [helper.make_node("Squeeze", [n], [f"{n}0"]) for n in ("past", "total")]
        nodes += [
            *scalars,
            helper.make_node("Range", ["past0", "total0", "step"], ["places"]),
            helper.make_node("Unsqueeze", ["places", "around"], ["places4"]),
            helper.make_node("Shape", ["key"], ["sizes"]),
            helper.make_node("Expand", ["places4", "sizes"], ["rows"]),
        ]
    for part in parts:
        past, present = f"past_key_values.0.{part}", f"present.0.{part}"
        if shared:
            inputs = [past, "rows", "key"]
            nodes.append(helper.make_node("ScatterElements", inputs, [present], axis=2))
        else:
            nodes.append(helper.make_node("Concat", [past, "key"], [present], axis=2))
    nodes += [
        helper.make_node("CumSum", ["present.0.key", "two"], ["sums4"]),
        helper.make_node("Squeeze", ["sums4", "one"], ["sums"]),
        helper.make_node("Slice", ["sums", "past", "total", "one"], ["recent"]),
        helper.make_node("MatMul", ["recent", "heads"], ["logits"], "/lm_head/MatMul"),
        helper.make_node("Identity", ["attention_mask"], ["mask"]),
    ]
    weights = {
        "table": table(),
        "heads": table(SIZE, len(VOCABULARY), seed=7),
        "one": np.array([1]),
        "two": np.array(2),
        "step": np.array(1),
        "around": np.array([0, 1, 3]),
    }
    cache = ["b", 1, "past", SIZE]
    inputs = [*_ids_and_mask("past + t")] + [
        _value(f"past_key_values.0.{part}", TensorProto.FLOAT, cache) for part in parts
    ]
    outputs = [_value("logits", TensorProto.FLOAT, ["b", "t", len(VOCABULARY)])] + [
        _value(f"present.0.{part}", TensorProto.FLOAT, ["b", 1, "past + t", SIZE]) for part in parts
    ]
    outputs.append(_value("mask", TensorProto.INT64, ["b", "past + t"]))
    metadata = {SHARED_CACHE: "1"} if shared else {}
    _save(folder, nodes, inputs, outputs, weights, metadata)
    return _assets(folder, {"architectures": ["XForCausalLM"]} | config, opens)


def decoder_logits(ids: list[int]) -> np.ndarray:
    """What `decoder_folder`'s model gives for a whole sequence, [tokens, vocabulary]."""
    return np.cumsum(table()[ids], axis=0) @ table(SIZE, len(VOCABULARY), seed=7)


def ids_of(text: str) -> list[int]:
    """Ids of a text of known words, with [CLS] and [SEP] around them."""
    return [1, *(VOCABULARY.index(word) for word in text.split()), 2]


def poison(folder: Path, tensor: str, rows: Any = slice(None), value: float = np.nan) -> Path:
    """Overwrite rows of a weight of one of the folders' models above."""
    model = onnx.load(folder / "model.onnx")
    [found] = [each for each in model.graph.initializer if each.name == tensor]
    weights = numpy_helper.to_array(found).copy()
    weights[rows] = value
    found.CopyFrom(numpy_helper.from_array(weights, tensor))
    onnx.save(model, folder / "model.onnx")
    return folder


def make_bundle(folder: Path, parts: Path, **manifest: Any) -> Path:
    """A bundle with a manifest out of one of the folders above."""
    from edgeprune.runtime.bundle import Bundle, write_bundle

    task = Bundle.open(parts).task
    onnx_folder = parts / "onnx_parts"
    onnx_folder.mkdir()
    for file in parts.glob("model.onnx*"):
        file.rename(onnx_folder / file.name)
    assets = parts / "assets"
    assets.mkdir()
    for file in parts.glob("*.json"):
        file.rename(assets / file.name)
    graphs = {"onnx/model.onnx": onnx_folder / "model.onnx"}
    write_bundle(folder, graphs, assets, {"task": task} | manifest)
    return folder


def _value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _ids_and_mask(mask_length: str) -> list[onnx.ValueInfoProto]:
    return [
        _value("input_ids", TensorProto.INT64, ["b", "t"]),
        _value("attention_mask", TensorProto.INT64, ["b", mask_length]),
    ]


def _save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")


def _assets(folder: Path, config: dict[str, Any], opens: bool = True) -> Path:
    ids = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if opens else "$A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    whole = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 64} | config
    write_json(folder / "config.json", whole)
    special = {"pad_token": "[PAD]", "mask_token": "[UNK]"}
    write_json(folder / "tokenizer_config.json", special)
    return folder


def chatting_folder(folder: Path, template: str, **config: Any) -> Path:
    """`decoder_folder` with a chat template, and a tokenizer that puts nothing around a text, as
    those of chat models."""
    decoder_folder(folder, shared=True, **config)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", {"chat_template": template})
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows, a line each."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def int4_folder(folder: Path) -> Path:
    """encoder_folder's model with its linears as MatMulNBits, in blocks of 32."""
    encoder_folder(folder, depth=2, width=64)
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "MatMul":
            blocks = {"q": np.zeros((64, 2, 16), np.uint8), "s": np.ones(128, np.float32)}
            for name, array in blocks.items():
                tensor = onnx.numpy_helper.from_array(array, f"{node.input[1]}_{name}")
                model.graph.initializer.append(tensor)
            node.op_type, node.domain = "MatMulNBits", "com.microsoft"
            node.input[1:] = [f"{node.input[1]}_q", f"{node.input[1]}_s"]
            for name, value in {"K": 64, "N": 64, "bits": 4, "block_size": 32}.items():
                node.attribute.append(onnx.helper.make_attribute(name, value))
    dense = [tensor for tensor in model.graph.initializer if tensor.name in ("w0", "w1")]
    for tensor in dense:
        model.graph.initializer.remove(tensor)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, folder / "model.onnx")
    onnxruntime.InferenceSession(folder / "model.onnx")  # it takes these blocks, or raises
    return folder
