"""Trace models of 42 kinds and compare each graph with torch.

    python benchmarks/export.py [--only NAME]...

Tiny models with random weights, made from transformers' configurations, of two or three layers.
Each is traced as a build does it and plainly, as its original is; by torch.export where `--way
dynamo` asks for it. A graph is right where every value at an attended token is within 1e-4 of
torch's, for other batches and lengths than were traced:

- texts: four batches, padded on the right;
- decoders: a prompt from an empty cache, padded on the left, then steps of 1, 2 and 1 tokens, for
  three rows and for one; torch reads the whole text anew each time, without a cache;
- encoder-decoders: the encoder, the first tokens, then steps with both caches;
- images and pairs of images and texts: batches of one and of three.

One line of JSON a kind and way in benchmarks/results/export.jsonl; what is there is not run again.
Kinds that a build does not take (encoder-decoders, images, heads that it does not run) are traced
by the same function.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as t
from results_file import add_result, read_results
from torch import Tensor, nn

from edgeprune.base.errors import UserError
from edgeprune.export.faces import (
    BATCH,
    TEXT,
    Attended,
    Axes,
    Convolved,
    Face,
    answering,
    cache_of,
    generating,
    kept,
    reading,
)
from edgeprune.export.trace import trace
from edgeprune.model.families import find_family, known_model_types
from edgeprune.model.plain import make_plain

RESULTS = Path(__file__).parent / "results" / "export.jsonl"
TOLERANCE = 1e-4
VOCABULARY = 131
PADDING = 1

Feed = Mapping[str, Tensor]
Run = Callable[[Feed], Mapping[str, Tensor]]
"""A graph: outputs by name from inputs by name."""


@dataclass(frozen=True)
class Graph:
    """A graph that is traced."""

    name: str
    face: Face


@dataclass(frozen=True)
class Kind:
    """A kind of model."""

    build: Callable[[], nn.Module]
    graphs: Callable[[nn.Module], Sequence[Graph]]
    check: Callable[[nn.Module, Mapping[str, Run]], Iterator[tuple[Tensor, Tensor]]]
    """Pairs of (expected, found)."""


# Texts -----------------------------------------------------------------------------------------


def texts(output: str | tuple[str, ...] = "last_hidden_state", one_a_text: bool = False):
    """Graphs and check of a model that reads texts."""
    outputs = (output,) if isinstance(output, str) else output

    def graphs(module: nn.Module) -> Sequence[Graph]:
        typed = getattr(module.config, "type_vocab_size", 0) > 1
        if len(outputs) == 1:
            return [Graph("model", reading(module, outputs[0], one_a_text, typed))]
        first = reading(module, outputs[0], typed=typed)
        inputs = {name: (values, TEXT) for name, values in first.inputs.items()}
        return [Graph("model", answering(module, inputs, dict.fromkeys(outputs, TEXT)))]

    def check(module: nn.Module, runs: Mapping[str, Run]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, tokens in ((1, 3), (2, 7), (4, 40), (3, 17)):
            mask = torch.ones(rows, tokens, dtype=torch.int64)
            for row in range(1, rows):
                mask[row, -min(row, tokens - 1) :] = 0
            feed = {"input_ids": _ids(mask), "attention_mask": mask}
            answer = module(**feed)
            made = runs["model"](feed | {"token_type_ids": torch.zeros_like(mask)})
            for name in outputs:
                at = ... if one_a_text else mask.bool()
                yield answer[name][at], made[name][at]

    return graphs, check


# Decoders --------------------------------------------------------------------------------------


def decoder_layers(module: nn.Module) -> list[Attended | Convolved]:
    """What each layer keeps, by the configuration."""
    config = module.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["attention"] * config.num_hidden_layers
    return [
        Convolved(config.hidden_size, config.conv_L_cache)
        if kind == "conv"
        else Attended(heads, width)
        for kind in kinds
    ]


def decoder_graphs(module: nn.Module) -> Sequence[Graph]:
    """A decoder with its cache."""
    return [Graph("model", generating(module, "logits", decoder_layers(module)))]


def decoder_check(module: nn.Module, runs: Mapping[str, Run]) -> Iterator[tuple[Tensor, Tensor]]:
    """A padded prompt, then steps of several sizes, against the whole text in one call."""
    layers = decoder_layers(module)
    before, after = (
        [name for place, layer in enumerate(layers) for name in layer.names(place, after=later)]
        for later in (False, True)
    )
    for rows in (3, 1):
        lengths = [9, 1, 2, 1]
        mask = torch.ones(rows, sum(lengths), dtype=torch.int64)
        for row in range(1, rows):
            mask[row, : 2 * row] = 0
        ids, positions = _ids(mask), (mask.cumsum(1) - 1).clamp(min=0)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        whole = module(**given, use_cache=False).logits
        empty = [layer.traced() for layer in layers for _ in layer.names(0, after=False)]
        cache = {
            name: torch.zeros(rows, *each.shape[1:])[:, :, : 0 if each.ndim == 4 else None]
            for name, each in zip(before, empty, strict=True)
        }
        start = 0
        for length in lengths:
            now, start = slice(start, start + length), start + length
            here = {"input_ids": ids[:, now], "position_ids": positions[:, now]}
            made = runs["model"]({**cache, **here, "attention_mask": mask[:, :start]})
            seen = mask[:, now].bool()
            yield whole[:, now][seen], made["logits"][seen]
            cache = {old: made[new] for old, new in zip(before, after, strict=True)}


# Encoder-decoders ------------------------------------------------------------------------------


def crossed(feature: str, sizes: Callable[[Any], tuple[int, ...]] | None = None):
    """Graphs and check of an encoder-decoder, whose encoder reads `feature`.

    Args:
        sizes: of the feature without its rows, where it is no text.
    """

    def source(module: nn.Module, rows: int, tokens: int) -> tuple[Tensor, Tensor | None]:
        if sizes is not None:
            return torch.randn(rows, *sizes(module.config)), None
        mask = torch.ones(rows, tokens, dtype=torch.int64)
        for row in range(1, rows):
            mask[row, -row:] = 0
        return _ids(mask), mask

    def heads(module: nn.Module) -> tuple[int, int, int]:
        config = module.config
        layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
        count = getattr(config, "decoder_attention_heads", None) or config.num_heads
        return layers, count, getattr(config, "d_kv", None) or config.d_model // count

    def graphs(module: nn.Module) -> Sequence[Graph]:
        values, mask = source(module, 2, 7)
        encoder = module.get_encoder()
        inputs = {feature: (values, BATCH if sizes else TEXT)}
        masked = {} if mask is None else {"attention_mask": (mask, TEXT)}
        reads = answering(encoder, inputs | masked, {"last_hidden_state": TEXT})
        with torch.no_grad():
            states = encoder(**{name: each for name, (each, _) in (inputs | masked).items()})[0]
        return [
            Graph("encoder", reads),
            Graph("decoder", _writing(module, states, mask, *heads(module), first=True)),
            Graph("with past", _writing(module, states, mask, *heads(module), first=False)),
        ]

    def check(module: nn.Module, runs: Mapping[str, Run]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, tokens in ((3, 11), (1, 5)):
            values, mask = source(module, rows, tokens)
            masked = {} if mask is None else {"attention_mask": mask}
            states = module.get_encoder()(**{feature: values}, **masked)[0]
            found = runs["encoder"]({feature: values, **masked})["last_hidden_state"]
            at = ... if mask is None else mask.bool()
            yield states[at], found[at]
            ids = torch.randint(5, VOCABULARY, (rows, 7))
            whole = module(**{feature: values}, **masked, decoder_input_ids=ids).logits
            across = {} if mask is None else {"encoder_attention_mask": mask}
            made = runs["decoder"](
                {"input_ids": ids[:, :3], "encoder_hidden_states": states, **across}
            )
            yield whole[:, :3], made["logits"]
            cache = {_past(name): each for name, each in made.items() if name != "logits"}
            for now in (slice(3, 4), slice(4, 6), slice(6, 7)):
                made = runs["with past"]({"input_ids": ids[:, now], **cache, **across})
                yield whole[:, now], made["logits"]
                cache |= {_past(name): each for name, each in made.items() if name != "logits"}

    return graphs, check


def _writing(
    module: nn.Module,
    states: Tensor,
    mask: Tensor | None,
    layers: int,
    heads: int,
    width: int,
    first: bool,
) -> Face:
    """The decoder of an encoder-decoder: its first call, or one with both caches.

    Args:
        states: the encoder's answer that is traced.
    """
    rows, traced, before = len(states), 4, 3
    source: Axes = {**BATCH, 1: "encoder_sequence_length"}
    sides: dict[str, Axes] = {
        "decoder": {**BATCH, 2: "past_sequence_length"},
        "encoder": {**BATCH, 2: "encoder_sequence_length"},
    }
    names = [
        f"{layer}.{side}.{part}"
        for side in sides
        for layer in range(layers)
        for part in ("key", "value")
    ]
    axes: dict[str, Axes] = {"input_ids": TEXT, "logits": TEXT}
    inputs = {"input_ids": torch.full((rows, traced), 7)}
    if mask is not None:
        inputs["encoder_attention_mask"] = mask
        axes["encoder_attention_mask"] = source
    if first:
        inputs["encoder_hidden_states"] = states
        axes["encoder_hidden_states"] = source
    returned = [name for name in names if first or ".decoder." in name]
    for name in names:
        side = sides[name.split(".")[1]]
        axes[f"present.{name}"] = side
        if not first:
            tokens = before if ".decoder." in name else states.shape[1]
            inputs[f"past_key_values.{name}"] = torch.zeros(rows, heads, tokens, width)
            axes[f"past_key_values.{name}"] = side
    attended = [Attended(heads, width)] * layers
    original = module.forward

    def call(*values: Tensor) -> Sequence[Tensor]:
        given = dict(zip(inputs, values, strict=True))
        past = [each for name, each in given.items() if name.startswith("past")]
        half = len(past) // 2
        own, across = (
            cache_of(attended if past else [], part) for part in (past[:half], past[half:])
        )
        cache = t.EncoderDecoderCache(own, across)
        if first:
            encoded = given["encoder_hidden_states"]
        else:  # only its length is read
            _, _, tokens, _ = past[half].shape
            encoded = past[half].new_zeros(past[half].shape[0], tokens, states.shape[-1])
        masked = {} if mask is None else {"attention_mask": given["encoder_attention_mask"]}
        answer = original(
            encoder_outputs=(encoded,),
            decoder_input_ids=given["input_ids"],
            cache=cache,
            use_cache=True,
            **masked,
        )
        return [answer.logits, *kept(own), *(kept(across) if first else [])]

    outputs = ["logits", *(f"present.{name}" for name in returned)]
    return Face(inputs, outputs, {name: axes[name] for name in (*inputs, *outputs)}, call)


def _past(name: str) -> str:
    return name.replace("present", "past_key_values", 1)


# Images ----------------------------------------------------------------------------------------


def images(*outputs: str, texts: bool = False):
    """Graphs and check of a model of images, or of images and as many texts."""

    def feed(module: nn.Module, rows: int) -> dict[str, Tensor]:
        vision = getattr(module.config, "vision_config", module.config)
        made = {"pixel_values": torch.randn(rows, 3, vision.image_size, vision.image_size)}
        if texts:
            mask = torch.ones(rows, 8, dtype=torch.int64)
            mask[1:, -1:] = 0
            made |= {"input_ids": _ids(mask), "attention_mask": mask}
        return made

    def graphs(module: nn.Module) -> Sequence[Graph]:
        text = {"input_ids": TEXT, "attention_mask": TEXT}
        inputs = {n: (each, text.get(n, BATCH)) for n, each in feed(module, 2).items()}
        return [Graph("model", answering(module, inputs, dict.fromkeys(outputs, BATCH)))]

    def check(module: nn.Module, runs: Mapping[str, Run]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in (1, 3):
            given = feed(module, rows)
            answer, made = module(**given), runs["model"](given)
            for name in outputs:
                yield answer[name], made[name]

    return graphs, check


# Kinds -----------------------------------------------------------------------------------------

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 96,
    "pad_token_id": PADDING,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_DISTIL = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 40,
    "max_position_embeddings": 96,
    "pad_token_id": PADDING,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 96,
    "pad_token_id": PADDING,
}
_SEEN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 8,
}
_TOWERS = {
    "text_config": {**_COMMON, "num_hidden_layers": 2, "eos_token_id": 2},
    "vision_config": _SEEN,
}
_ALTERNATING = {
    "sliding_window": 4,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}


def _of(architecture: str, configuration: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        made = getattr(t, configuration)(**settings)
        return getattr(t, architecture)(made)

    return build


_TOKENS = texts("logits")
_LABELS = texts("logits", one_a_text=True)
_DECODER = (decoder_graphs, decoder_check)
_MARKED = {"position_biased_input": False, "relative_attention": True, "type_vocab_size": 0}

KINDS: Mapping[str, Kind] = {
    name: Kind(_of(*made, **settings), *shown)
    for name, (made, settings, shown) in {
        "bert": (("BertModel", "BertConfig"), _COMMON, texts()),
        "bert-cls": (("BertForSequenceClassification", "BertConfig"), _COMMON, _LABELS),
        "bert-ner": (("BertForTokenClassification", "BertConfig"), _COMMON, _TOKENS),
        "bert-qa": (
            ("BertForQuestionAnswering", "BertConfig"),
            _COMMON,
            texts(("start_logits", "end_logits")),
        ),
        "bert-mlm": (("BertForMaskedLM", "BertConfig"), _COMMON, _TOKENS),
        "distilbert-cls": (
            ("DistilBertForSequenceClassification", "DistilBertConfig"),
            _DISTIL,
            _LABELS,
        ),
        "roberta": (("RobertaModel", "RobertaConfig"), {**_COMMON, "type_vocab_size": 1}, texts()),
        "xlmr-cls": (
            ("XLMRobertaForSequenceClassification", "XLMRobertaConfig"),
            {**_COMMON, "type_vocab_size": 1},
            _LABELS,
        ),
        "electra-cls": (
            ("ElectraForSequenceClassification", "ElectraConfig"),
            {**_COMMON, "embedding_size": 16},
            _LABELS,
        ),
        "mpnet": (("MPNetModel", "MPNetConfig"), _COMMON, texts()),
        "albert": (("AlbertModel", "AlbertConfig"), {**_COMMON, "embedding_size": 16}, texts()),
        "deberta-v2-cls": (
            ("DebertaV2ForSequenceClassification", "DebertaV2Config"),
            {**_COMMON, **_MARKED, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
            _LABELS,
        ),
        "modernbert": (
            ("ModernBertModel", "ModernBertConfig"),
            {**_COMMON, "local_attention": 8, "global_attn_every_n_layers": 2},
            texts(),
        ),
        "modernbert-cls": (
            ("ModernBertForSequenceClassification", "ModernBertConfig"),
            {**_COMMON, "local_attention": 8, "global_attn_every_n_layers": 2},
            _LABELS,
        ),
        "qwen2-cls": (("Qwen2ForSequenceClassification", "Qwen2Config"), _GROUPED, _LABELS),
        "qwen3-embedding": (
            ("Qwen3Model", "Qwen3Config"),
            {**_GROUPED, "head_dim": 16},
            texts(),
        ),
        "t5": (("T5ForConditionalGeneration", "T5Config"), _T5, crossed("input_ids")),
        "mt5": (("MT5ForConditionalGeneration", "MT5Config"), _T5, crossed("input_ids")),
        "bart": (("BartForConditionalGeneration", "BartConfig"), _BART, crossed("input_ids")),
        "marian": (
            ("MarianMTModel", "MarianConfig"),
            {**_BART, "decoder_start_token_id": PADDING},
            crossed("input_ids"),
        ),
        "whisper": (
            ("WhisperForConditionalGeneration", "WhisperConfig"),
            {
                **{key: _BART[key] for key in _BART if key != "max_position_embeddings"},
                "num_mel_bins": 8,
                "max_source_positions": 12,
                "max_target_positions": 32,
                "bos_token_id": 2,
                "eos_token_id": 2,
                "decoder_start_token_id": 3,
            },
            crossed("input_features", lambda config: (8, 2 * config.max_source_positions)),
        ),
        "vit-cls": (("ViTForImageClassification", "ViTConfig"), _SEEN, images("logits")),
        "deit-cls": (("DeiTForImageClassification", "DeiTConfig"), _SEEN, images("logits")),
        "clip": (
            ("CLIPModel", "CLIPConfig"),
            {**_TOWERS, "projection_dim": 16},
            images("logits_per_image", "text_embeds", "image_embeds", texts=True),
        ),
        "siglip": (
            ("SiglipModel", "SiglipConfig"),
            _TOWERS,
            images("logits_per_image", "text_embeds", "image_embeds", texts=True),
        ),
        "llama": (("LlamaForCausalLM", "LlamaConfig"), _GROUPED, _DECODER),
        "llama-rope-scaled": (
            ("LlamaForCausalLM", "LlamaConfig"),
            {
                **_GROUPED,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
            },
            _DECODER,
        ),
        "mistral-sliding": (
            ("MistralForCausalLM", "MistralConfig"),
            {**_GROUPED, "sliding_window": 6},
            _DECODER,
        ),
        "qwen2": (("Qwen2ForCausalLM", "Qwen2Config"), _GROUPED, _DECODER),
        "qwen3": (("Qwen3ForCausalLM", "Qwen3Config"), {**_GROUPED, "head_dim": 16}, _DECODER),
        "gemma2": (
            ("Gemma2ForCausalLM", "Gemma2Config"),
            {**_GROUPED, **_ALTERNATING, "head_dim": 8, "query_pre_attn_scalar": 16},
            _DECODER,
        ),
        "gemma3": (
            ("Gemma3ForCausalLM", "Gemma3TextConfig"),
            {**_GROUPED, **_ALTERNATING, "head_dim": 8, "query_pre_attn_scalar": 16},
            _DECODER,
        ),
        "phi3": (("Phi3ForCausalLM", "Phi3Config"), {**_GROUPED, "eos_token_id": 2}, _DECODER),
        "smollm3": (
            ("SmolLM3ForCausalLM", "SmolLM3Config"),
            {**_GROUPED, "no_rope_layer_interval": 2},
            _DECODER,
        ),
        "granite": (
            ("GraniteForCausalLM", "GraniteConfig"),
            {**_GROUPED, "residual_multiplier": 0.3, "logits_scaling": 4.0},
            _DECODER,
        ),
        "olmo2": (("Olmo2ForCausalLM", "Olmo2Config"), {**_GROUPED, "eos_token_id": 2}, _DECODER),
        "lfm2": (
            ("Lfm2ForCausalLM", "Lfm2Config"),
            {**_GROUPED, "layer_types": ["conv", "full_attention", "conv"]},
            _DECODER,
        ),
        "gpt2": (
            ("GPT2LMHeadModel", "GPT2Config"),
            {
                "vocab_size": VOCABULARY,
                "n_embd": 32,
                "n_layer": 3,
                "n_head": 4,
                "n_positions": 96,
                "eos_token_id": 2,
                "bos_token_id": 2,
            },
            _DECODER,
        ),
        "phi": (("PhiForCausalLM", "PhiConfig"), _COMMON, _DECODER),
        "opt": (
            ("OPTForCausalLM", "OPTConfig"),
            {**_COMMON, "ffn_dim": 40, "word_embed_proj_dim": 32},
            _DECODER,
        ),
        "gpt_neox": (("GPTNeoXForCausalLM", "GPTNeoXConfig"), _COMMON, _DECODER),
        "qwen3_moe": (
            ("Qwen3MoeForCausalLM", "Qwen3MoeConfig"),
            {
                **_GROUPED,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "norm_topk_prob": True,
                "head_dim": 8,
            },
            _DECODER,
        ),
    }.items()
}


def _ids(mask: Tensor) -> Tensor:
    """Random tokens where a mask says so, padding elsewhere."""
    return torch.where(mask == 1, torch.randint(5, VOCABULARY, mask.shape), PADDING)


def make(kind: Kind) -> nn.Module:
    """A model with random weights of such sizes that every part of it shows in its answers."""
    torch.manual_seed(0)
    module = kind.build().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            elif "norm" in name.lower():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def measure(kind: Kind, plain: bool, dynamo: bool, folder: Path) -> dict[str, Any]:
    """Trace a kind's graphs and compare them."""
    module, nodes, runs = make(kind), 0, {}
    if (name := module.config.model_type) in known_model_types():  # as a build reads it
        make_plain(module, find_family(name), module.config.num_attention_heads)
    begin = time.process_time()
    for graph in kind.graphs(module):
        path = folder / f"{graph.name}.onnx"
        part = module.get_encoder() if graph.name == "encoder" else module
        trace(part, graph.face, path, plain, dynamo)
        nodes += len(onnx.load(path, load_external_data=False).graph.node)
        runs[graph.name] = _opened(path)
    seconds = time.process_time() - begin
    with torch.no_grad():
        errors = [float((a - b).abs().max()) for a, b in kind.check(make(kind), runs)]
    return {
        "nodes": nodes,
        "cpu_seconds": round(seconds, 2),
        "compared": len(errors),
        "largest_error": max(errors),
        "right": max(errors) < TOLERANCE,
    }


def _opened(path: Path) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = [value.name for value in session.get_inputs()]
    given = [value.name for value in session.get_outputs()]

    def run(feed: Feed) -> Mapping[str, Tensor]:
        made = session.run(None, {name: np.ascontiguousarray(feed[name]) for name in taken})
        return {name: torch.from_numpy(each) for name, each in zip(given, made, strict=True)}

    return run


WAYS = {
    "build": {"plain": False, "dynamo": False},
    "plain": {"plain": True, "dynamo": False},
    "dynamo": {"plain": False, "dynamo": True},
}


def main() -> None:
    """Run what has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=KINDS, help="a kind, not all")
    parser.add_argument("--way", action="append", choices=WAYS, help="not build and plain")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    t.logging.set_verbosity_error()
    versions = {"torch": torch.__version__, "transformers": t.__version__}
    for name in given.only or KINDS:
        for way in given.way or ("build", "plain"):
            label = f"{name}: {way}"
            if label in read_results(given.results):
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = measure(KINDS[name], **WAYS[way], folder=Path(folder))
                except UserError as error:
                    found = {"right": False, "refused": str(error)}
                except Exception as error:  # of many kinds: the runtime's own have no base class
                    found = {"right": False, "failed": str(error).splitlines()[0]}
            print(label, found, flush=True)
            add_result(given.results, {"name": label, **found, **versions})


if __name__ == "__main__":
    main()
