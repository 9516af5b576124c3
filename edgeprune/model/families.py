"""One list of families: a row each."""

from dataclasses import replace

from edgeprune.base.errors import UserError
from edgeprune.model.decoder_function import DecoderFunction
from edgeprune.model.encoder_function import DistanceBias, EncoderFunction
from edgeprune.model.family import ConvolutionPaths, Disentangled, ExpertPaths, Family, Fused

_BERT_HEAD = "cls.predictions.decoder"
_BERT_FUNCTION = EncoderFunction(
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    label_head=(("pooler.dense", "tanh"), ("classifier", None)),
    word_head=(
        ("cls.predictions.transform.dense", "hidden_act"),
        ("cls.predictions.transform.LayerNorm", None),
        (_BERT_HEAD, None),
    ),
)
_DEBERTA_FUNCTION = replace(
    _BERT_FUNCTION,
    label_head=(("pooler.dense", "pooler_hidden_act"), ("classifier", None)),
    projection="embeddings.embed_proj",
    projects_first=True,
    written={},
)
_DEBERTA_ASSUMED = {
    "relative_attention": False,
    "position_biased_input": True,
    "pooler_hidden_act": "gelu",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
}
_MODERNBERT_HEAD = (("head.dense", "classifier_activation"), ("head.norm", None))
_MODERNBERT_LABELS = (*_MODERNBERT_HEAD, ("classifier", None))
_DENSE_HEAD = (("classifier.dense", "tanh"), ("classifier.out_proj", None))
_LM_HEAD = "lm_head.decoder"
_LM_HEAD_LAYERS = (("lm_head.dense", "gelu"), ("lm_head.layer_norm", None), (_LM_HEAD, None))


_BERT = Family(
    model_types=("bert",),
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attention="attention.self",
    head_attributes={"num_attention_heads": "heads", "all_head_size": "width"},
    embeddings={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "token_type": "embeddings.token_type_embeddings",
    },
    unread_pooler="pooler",
    ties=True,
    head=_BERT_HEAD,
    encoder=_BERT_FUNCTION,
)


_LLAMA_FUNCTION = DecoderFunction(
    final_norm="norm",
    epsilon="rms_norm_eps",
    root_mean_square=True,
    head_norms=("self_attn.q_norm", "self_attn.k_norm"),
)
_LLAMA = Family(
    model_types=("llama",),
    causal=True,
    has_cache=True,
    layers="layers",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    attention="self_attn",
    head_attributes={"num_key_value_groups": "groups"},
    embeddings={"word": "embed_tokens"},
    attention_norm="input_layernorm",
    feed_forward_norm="post_attention_layernorm",
    rotary={"rope_theta": "rope_theta"},
    decoder=_LLAMA_FUNCTION,
)
_EVERY_LAYER = replace(_LLAMA_FUNCTION, windows="every layer")
_BY_LAYER_TYPE = replace(_LLAMA_FUNCTION, windows="by layer type")


_GEMMA2_FUNCTION = replace(
    _BY_LAYER_TYPE,
    scales_embeddings=True,
    head_norms=None,
    activation="hidden_activation",
    answer_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    score_size="query_pre_attn_scalar",
    score_cap="attn_logit_softcapping",
    logits_cap="final_logit_softcapping",
    written={"use_bidirectional_attention": False},
)
_GEMMA2 = replace(
    _LLAMA,
    model_types=("gemma2",),
    norm_offset=1.0,
    ties=True,
    feed_forward_norm="pre_feedforward_layernorm",
    window_pattern=(None, 2, -1),
    assumed={
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    decoder=_GEMMA2_FUNCTION,
)


_EXPERTS = ExpertPaths(
    module="mlp",
    router="mlp.gate",
    experts="mlp.experts",
    gate="gate_proj",
    up="up_proj",
    down="down_proj",
    stacked=("gate_up_proj", "down_proj"),
)


FAMILIES: tuple[Family, ...] = (
    _BERT,
    replace(
        _BERT,
        model_types=("electra",),
        head="generator_lm_head",
        encoder=replace(
            _BERT_FUNCTION,
            label_head=(("classifier.dense", "gelu"), ("classifier.out_proj", None)),
            word_head=(
                ("generator_predictions.dense", "gelu"),
                ("generator_predictions.LayerNorm", None),
                ("generator_lm_head", None),
            ),
            projection="embeddings_project",
        ),
    ),
    replace(
        _BERT,
        model_types=("roberta", "xlm-roberta"),
        position_offset=2,
        padded_positions=True,
        head=_LM_HEAD,
        encoder=replace(
            _BERT_FUNCTION,
            label_head=_DENSE_HEAD,
            word_head=_LM_HEAD_LAYERS,
        ),
    ),
    Family(
        model_types=("distilbert",),
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        attention="attention",
        head_attributes={"n_heads": "heads", "dim": "width"},
        embeddings={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
        },
        ties=True,
        head="vocab_projector",
        encoder=EncoderFunction(
            norms=("sa_layer_norm", "output_layer_norm"),
            label_head=(("pre_classifier", "relu"), ("classifier", None)),
            word_head=(
                ("vocab_transform", "activation"),
                ("vocab_layer_norm", None),
                ("vocab_projector", None),
            ),
            activation="activation",
            epsilon=None,
        ),
    ),
    Family(
        model_types=("mpnet",),
        layers="encoder.layer",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        up="intermediate.dense",
        down="output.dense",
        attention="attention.attn",
        head_attributes={"num_attention_heads": "heads", "all_head_size": "width"},
        embeddings={
            "word": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
        },
        head_bias=("attention", "position_bias"),
        unread_pooler="pooler",
        position_offset=2,
        ties=True,
        head=_LM_HEAD,
        encoder=EncoderFunction(
            norms=("attention.LayerNorm", "output.LayerNorm"),
            label_head=_DENSE_HEAD,
            word_head=_LM_HEAD_LAYERS,
            distance_bias=DistanceBias("encoder.relative_attention_bias", buckets=32, furthest=128),
        ),
    ),
    replace(
        _BERT,
        model_types=("albert",),
        layers="encoder.albert_layer_groups.0.albert_layers",
        query="attention.query",
        key="attention.key",
        value="attention.value",
        output="attention.dense",
        up="ffn",
        down="ffn_output",
        attention="attention",
        layer_count="inner_group_num",
        repeats="num_hidden_layers",
        known_only={"num_hidden_groups": 1},
        assumed={
            "num_hidden_groups": 1,
            "inner_group_num": 1,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-12,
        },
        head="predictions.decoder",
        encoder=replace(
            _BERT_FUNCTION,
            norms=("attention.LayerNorm", "full_layer_layer_norm"),
            label_head=(("pooler", "tanh"), ("classifier", None)),
            word_head=(
                ("predictions.dense", "hidden_act"),
                ("predictions.LayerNorm", None),
                ("predictions.decoder", None),
            ),
            projection="encoder.embedding_hidden_mapping_in",
        ),
    ),
    replace(
        _BERT,
        model_types=("deberta-v2",),
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        head_attributes={"num_attention_heads": "heads"},
        optional_tables={"position": "position_biased_input"},
        unread_pooler=None,
        disentangled=Disentangled(
            key="attention.self.pos_key_proj",
            query="attention.self.pos_query_proj",
            buckets="position_buckets",
            shared="share_att_key",
            norms="norm_rel_ebd",
        ),
        known_only={"relative_attention": True, "conv_kernel_size": 0},
        assumed={**_DEBERTA_ASSUMED, "conv_kernel_size": 0},
        encoder=_DEBERTA_FUNCTION,
    ),
    replace(
        _BERT,
        model_types=("deberta",),
        query="attention.self.in_proj.query",
        key="attention.self.in_proj.key",
        value="attention.self.in_proj.value",
        head_attributes={"num_attention_heads": "heads"},
        fused=(Fused("attention.self.in_proj", interleaved=True),),
        in_files={".q_bias": ".in_proj.query.bias", ".v_bias": ".in_proj.value.bias"},
        optional_tables={"position": "position_biased_input"},
        unread_pooler=None,
        disentangled=Disentangled(key="attention.self.pos_proj", query="attention.self.pos_q_proj"),
        known_only={"relative_attention": True, "talking_head": False},
        assumed={**_DEBERTA_ASSUMED, "talking_head": False},
        encoder=_DEBERTA_FUNCTION,
    ),
    Family(
        model_types=("modernbert",),
        layers="layers",
        query="attn.Wqkv.query",
        key="attn.Wqkv.key",
        value="attn.Wqkv.value",
        output="attn.Wo",
        gate="mlp.Wi.gate",
        up="mlp.Wi.up",
        down="mlp.Wo",
        attention="attn",
        head_attributes={},
        embeddings={"word": "embeddings.tok_embeddings"},
        attention_norm="attn_norm",
        feed_forward_norm="mlp_norm",
        unnormed_first=True,
        fused=(Fused("attn.Wqkv"), Fused("mlp.Wi", ("gate", "up"))),
        rotary={"rope_theta": "global_rope_theta", "window_theta": "local_rope_theta"},
        stretches=False,
        window_pattern=("global_attn_every_n_layers", 3, 0),
        assumed={
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "local_attention": 128,
            "norm_eps": 1e-5,
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "classifier_pooling": "cls",
            "pad_token_id": 50283,
        },
        ties=True,
        head="decoder",
        decoder=DecoderFunction(
            final_norm="final_norm",
            epsilon="norm_eps",
            activation="hidden_activation",
            embedding_norm="embeddings.norm",
            windows="by layer type",
            window="local_attention",
            label_head=_MODERNBERT_LABELS,
            token_head=_MODERNBERT_LABELS,
            word_head=(*_MODERNBERT_HEAD, ("decoder", None)),
            span_head=_MODERNBERT_LABELS,
            label_pooling="classifier_pooling",
        ),
    ),
    replace(_LLAMA, in_gguf=True),
    replace(_LLAMA, model_types=("mistral",), in_gguf=True, decoder=_EVERY_LAYER),
    replace(_LLAMA, model_types=("qwen2", "qwen3"), in_gguf=True, decoder=_BY_LAYER_TYPE),
    replace(
        _LLAMA,
        model_types=("gemma",),
        norm_offset=1.0,
        ties=True,
        decoder=replace(_LLAMA_FUNCTION, scales_embeddings=True, takes_positions=False),
    ),
    _GEMMA2,
    replace(
        _GEMMA2,
        model_types=("gemma3_text",),
        rotary={"rope_theta": "rope_theta", "window_theta": "rope_local_base_freq"},
        window_pattern=("sliding_window_pattern", 6, -1),
        unheeded=("attn_logit_softcapping",),
        bidirectional="use_bidirectional_attention",
        assumed={
            **_GEMMA2.assumed,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        decoder=replace(_GEMMA2_FUNCTION, head_norms=_LLAMA_FUNCTION.head_norms, written={}),
    ),
    replace(
        _LLAMA,
        model_types=("olmo2",),
        attention_norm=None,
        feed_forward_norm=None,
        decoder=replace(
            _LLAMA_FUNCTION,
            norms_all_heads=True,
            answer_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        ),
    ),
    replace(
        _LLAMA,
        model_types=("phi3",),
        query="self_attn.qkv_proj.query",
        key="self_attn.qkv_proj.key",
        value="self_attn.qkv_proj.value",
        gate="mlp.gate_up_proj.gate",
        up="mlp.gate_up_proj.up",
        fused=(Fused("self_attn.qkv_proj"), Fused("mlp.gate_up_proj", ("gate", "up"))),
        # By it a layer tells its queries from its keys.
        head_attributes={"num_key_value_groups": "groups", "config.num_attention_heads": "heads"},
        rotary={
            "rope_theta": "rope_theta",
            "partial_rotary_factor": "partial_rotary_factor",
            "original_max_position_embeddings": "original_max_position_embeddings",
        },
        decoder=_EVERY_LAYER,
    ),
    replace(
        _LLAMA,
        model_types=("smollm3",),
        ties=True,
        decoder=replace(_BY_LAYER_TYPE, turned_layers="no_rope_layers"),
    ),
    replace(
        _LLAMA,
        model_types=("granite",),
        decoder=replace(
            _LLAMA_FUNCTION,
            embedding_factor="embedding_multiplier",
            score_factor="attention_multiplier",
            sum_factor="residual_multiplier",
            logit_divisor="logits_scaling",
        ),
    ),
    replace(
        _LLAMA,
        model_types=("mixtral",),
        decoder=_EVERY_LAYER,
        experts=_EXPERTS,
        in_files={
            ".block_sparse_moe.": ".mlp.",
            ".w1.": ".gate_proj.",
            ".w3.": ".up_proj.",
            ".w2.": ".down_proj.",
        },
    ),
    replace(
        _LLAMA,
        model_types=("qwen2_moe", "qwen3_moe"),
        decoder=_EVERY_LAYER,
        experts=replace(
            _EXPERTS,
            shared="mlp.shared_expert",
            shared_gate="mlp.shared_expert_gate",
            normalized="norm_topk_prob",
        ),
    ),
    replace(
        _LLAMA,
        model_types=("lfm2",),
        output="self_attn.out_proj",
        gate="feed_forward.w1",
        up="feed_forward.w3",
        down="feed_forward.w2",
        attention_norm="operator_norm",
        feed_forward_norm="ffn_norm",
        convolution=ConvolutionPaths("conv.in_proj", "conv.conv", "conv.out_proj"),
        rounds_channels="block_auto_adjust_ff_dim",
        ties=True,
        decoder=None,
    ),
    Family(
        model_types=("gpt2",),
        causal=True,
        has_cache=True,
        layers="h",
        query="attn.c_attn.query",
        key="attn.c_attn.key",
        value="attn.c_attn.value",
        output="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
        attention="attn",
        head_attributes={},
        embeddings={"word": "wte", "position": "wpe"},
        attention_norm="ln_1",
        feed_forward_norm="ln_2",
        fused=(Fused("attn.c_attn"),),
        depth_scaled="scale_attn_by_inverse_layer_idx",
        transposed=True,
        ties=True,
        decoder=DecoderFunction(
            final_norm="ln_f",
            epsilon="layer_norm_epsilon",
            activation="activation_function",
            scales_scores="scale_attn_weights",
            written={"add_cross_attention": False, "scale_attn_by_inverse_layer_idx": False},
        ),
    ),
    Family(
        model_types=("opt",),
        causal=True,
        has_cache=True,
        layers="decoder.layers",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.out_proj",
        up="fc1",
        down="fc2",
        attention="self_attn",
        head_attributes={},
        embeddings={"word": "decoder.embed_tokens", "position": "decoder.embed_positions"},
        position_rows=2,
        attention_norm="self_attn_layer_norm",
        feed_forward_norm="final_layer_norm",
        norms_first="do_layer_norm_before",
        ties=True,
        decoder=DecoderFunction(
            final_norm="decoder.final_layer_norm",
            epsilon=1e-5,
            activation="activation_function",
            projections=("decoder.project_in", "decoder.project_out"),
            without_final_norm="_remove_final_layer_norm",
        ),
    ),
    Family(
        model_types=("gpt_neox",),
        causal=True,
        has_cache=True,
        layers="layers",
        query="attention.query_key_value.query",
        key="attention.query_key_value.key",
        value="attention.query_key_value.value",
        output="attention.dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        attention="attention",
        head_attributes={},
        embeddings={"word": "embed_in"},
        attention_norm="input_layernorm",
        feed_forward_norm="post_attention_layernorm",
        fused=(Fused("attention.query_key_value", interleaved=True),),
        in_files={"embed_out.": "lm_head."},
        rotary={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
        turned_share=0.25,
        decoder=DecoderFunction(
            final_norm="final_layer_norm",
            epsilon="layer_norm_eps",
            parallel="use_parallel_residual",
        ),
    ),
    Family(
        model_types=("phi",),
        causal=True,
        has_cache=True,
        layers="layers",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.dense",
        up="mlp.fc1",
        down="mlp.fc2",
        attention="self_attn",
        head_attributes={"num_key_value_groups": "groups"},
        # One norm is read by attention and feed-forward both, so that neither may change it.
        embeddings={"word": "embed_tokens"},
        rotary={
            "rope_theta": "rope_theta",
            "partial_rotary_factor": "partial_rotary_factor",
        },
        turned_share=0.5,
        decoder=DecoderFunction(
            final_norm="final_layernorm",
            epsilon="layer_norm_eps",
            parallel=True,
            shared_norm="input_layernorm",
            head_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        ),
    ),
)


BASE_PREFIXES = (
    *("", "bert.", "roberta.", "electra.", "distilbert.", "mpnet.", "deberta.", "albert."),
    *("model.", "transformer.", "gpt_neox."),
)


UNTYPED_TOKENIZERS = (
    *("tokenizersbackend", "pretrainedtokenizer", "albert", "bertgeneration", "bigbird"),
    *("camembert", "distilbert", "mpnet", "rembert", "roberta", "xlmroberta"),
)
"""The beginnings of the classes of tokenizers, or of their models' types, by which transformers 5
tells a model nothing of token types."""


_MORE_THAN_TEXT = {
    "gemma3": (
        "A model of type 'gemma3' reads images beside text, which is not built here: take its text "
        "part with transformers (whole = Gemma3ForConditionalGeneration.from_pretrained(MODEL); "
        "part = Gemma3ForCausalLM(whole.config.text_config); part.model, part.lm_head = "
        "whole.model.language_model, whole.lm_head; part.save_pretrained(FOLDER)), and give that "
        "folder with the tokenizer's files in it."
    ),
}
"""Why models are refused of which a part could be built, and how to come by it."""


def known_model_types() -> list[str]:
    """Every `model_type` that the list of families describes."""
    return sorted(name for family in FAMILIES for name in family.model_types)


def gguf_model_types() -> list[str]:
    """Every architecture whose GGUF files can be read."""
    return sorted(name for family in FAMILIES if family.in_gguf for name in family.model_types)


def find_family(model_type: str) -> Family:
    """The family of a configuration's `model_type`.

    Raises:
        UserError: no family is known by that name.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    if model_type in _MORE_THAN_TEXT:
        raise UserError(_MORE_THAN_TEXT[model_type])
    raise UserError(
        f"Models of type {model_type!r} are not known here; "
        f"these are: {', '.join(known_model_types())}."
    )
