"""config.json, read at one door: what the house takes from it has the right type and range.

Nothing here knows a family's settings from another's: a name that one of them uses means the same
in all. What is not named below is transformers' own business.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeprune.base.errors import UserError
from edgeprune.base.files import load_json, read_json
from edgeprune.model.families import find_family, known_model_types
from edgeprune.model.rope import check_rope, named_longrope, without_rope_parameters
from edgeprune.model.settings import stated, with_assumed

_Count = Annotated[int, Field(ge=1, lt=2**31)]
_Token = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Distances = Annotated[int, Field(ge=-1, lt=2**31)]
"""-1, as 0, stands for what else the settings say."""
_Window = Annotated[int, Field(ge=0, lt=2**31)]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Labels = dict[Annotated[str, Field(pattern=r"^[0-9]+$")], str | int]
_Rope = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
_NAMING_CODE = (
    *("config.json", "tokenizer_config.json", "generation_config.json"),
    *("processor_config.json", "preprocessor_config.json"),
)


class _Checked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class RopeScaling(_Checked):
    """The scaling of rotary positions."""

    rope_type: _Rope = "default"
    type: _Rope = "default"
    factor: _Positive = 1.0
    original_max_position_embeddings: _Count | None = None
    short_factor: list[_Positive] | None = None
    long_factor: list[_Positive] | None = None
    attention_factor: _Positive | None = None


class ModelConfig(_Checked):
    """The settings of a config.json that edgeprune reads; each of them may be missing."""

    model_type: str = ""
    architectures: list[str] | None = None
    # Sizes, by every name that families give them.
    hidden_size: _Count | None = None
    dim: _Count | None = None
    n_embd: _Count | None = None
    num_attention_heads: _Count | None = None
    n_heads: _Count | None = None
    n_head: _Count | None = None
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    num_hidden_layers: _Count | None = None
    n_layers: _Count | None = None
    n_layer: _Count | None = None
    inner_group_num: _Count | None = None
    num_hidden_groups: _Count | None = None
    intermediate_size: _Count | None = None
    hidden_dim: _Count | None = None
    ffn_dim: _Count | None = None
    n_inner: _Count | None = None
    max_position_embeddings: _Count | None = None
    n_positions: _Count | None = None
    vocab_size: _Count | None = None
    type_vocab_size: _Window | None = None
    # Experts.
    num_experts: _Count | None = None
    num_local_experts: _Count | None = None
    num_experts_per_tok: _Count | None = None
    decoder_sparse_step: _Count | None = None
    mlp_only_layers: list[int] | None = None
    norm_topk_prob: bool | None = None
    # Positions and attention.
    rope_theta: _Positive | None = None
    rotary_emb_base: _Positive | None = None
    rope_local_base_freq: _Positive | None = None
    global_rope_theta: _Positive | None = None
    local_rope_theta: _Positive | None = None
    partial_rotary_factor: _Share | None = None
    rotary_pct: _Share | None = None
    rope_scaling: RopeScaling | None = None
    rope_parameters: dict[str, Any] | None = None
    original_max_position_embeddings: _Count | None = None
    sliding_window: _Window | None = None
    use_sliding_window: bool | None = None
    layer_types: list[str] | None = None
    no_rope_layers: list[int] | None = None
    conv_L_cache: _Count | None = None
    embedding_multiplier: _Positive | None = None
    attention_multiplier: _Positive | None = None
    residual_multiplier: _Positive | None = None
    logits_scaling: _Positive | None = None
    sliding_window_pattern: _Count | None = None
    local_attention: _Count | None = None
    global_attn_every_n_layers: _Count | None = None
    relative_attention: bool | None = None
    position_biased_input: bool | None = None
    pos_att_type: str | list[str] | None = None
    max_relative_positions: _Distances | None = None
    position_buckets: _Distances | None = None
    share_att_key: bool | None = None
    norm_rel_ebd: str | None = None
    talking_head: bool | None = None
    conv_kernel_size: _Window | None = None
    use_bidirectional_attention: bool | None = None
    query_pre_attn_scalar: _Positive | None = None
    attn_logit_softcapping: _Positive | None = None
    final_logit_softcapping: _Positive | None = None
    scale_attn_by_inverse_layer_idx: bool | None = None
    # Norms and activations.
    hidden_act: str | None = None
    hidden_activation: str | None = None
    activation_function: str | None = None
    do_layer_norm_before: bool | None = None
    layer_norm_eps: _Positive | None = None
    layer_norm_epsilon: _Positive | None = None
    rms_norm_eps: _Positive | None = None
    norm_eps: _Positive | None = None
    pooler_hidden_act: str | None = None
    classifier_activation: str | None = None
    classifier_pooling: str | None = None
    # Tokens and labels.
    tie_word_embeddings: bool | None = None
    pad_token_id: _Token | None = None
    eos_token_id: _Token | list[_Token] | None = None
    id2label: _Labels | None = None
    num_labels: _Count | None = None
    problem_type: str | None = None

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        config = self.model_dump(exclude_none=True)
        (_, width), (_, heads) = (
            stated(config, "hidden_size"),
            stated(config, "num_attention_heads"),
        )
        if width and heads and not self.head_dim and width % heads:
            raise ValueError(f"a width of {width} is not divisible by {heads} attention heads")
        if heads and self.num_key_value_heads and heads % self.num_key_value_heads:
            raise ValueError(
                f"{heads} attention heads cannot share {self.num_key_value_heads} key-value heads"
            )
        return self


def check_types(config: dict[str, Any], file: Path) -> None:
    """Refuse a setting of the wrong type or out of range.

    Raises:
        UserError: naming the file and the setting.
    """
    try:
        ModelConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        # What is behind the name of a setting may be the name of a type.
        path = ".".join(str(part) for part in first["loc"][:1]) or "its sizes"
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" (it is {first['input']!r:.60})"
        raise UserError(f"{file}: {path}: {message[0].lower()}{message[1:]}{given}.") from None


def refuse_code(folder: Path) -> None:
    """Refuse a folder whose settings name code of its own (`auto_map`), which would define what
    the model is and is never run, and say whether the model can do without.

    Raises:
        UserError: naming the file and the code.
    """
    for name in _NAMING_CODE:
        settings = load_json(folder / name) if (folder / name).is_file() else None
        if isinstance(settings, dict) and settings.get("auto_map"):
            raise UserError(
                f"{folder / name} names code to be run with the model (auto_map: "
                f"{settings['auto_map']!r:.120}), and a model's code is never run: "
                f"{_without_code(folder)}."
            )


def _without_code(folder: Path) -> str:
    file = folder / "config.json"
    config = load_json(file) if file.is_file() else None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind in known_model_types():
        return f"remove auto_map, for models of type {kind} are known here without it"
    return "this model cannot be used, for its type is not among those that are known here"


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model's folder, in the words of transformers 4.

    Raises:
        UserError: it cannot be read, has a setting of the wrong type, is of an unknown family, or
            the folder wants its own code to be run.
    """
    refuse_code(folder)
    file = folder / "config.json"
    config = read_json(file)
    if isinstance(config.get("pad_token_id"), int) and config["pad_token_id"] < 0:
        config["pad_token_id"] = None  # as the first Llamas wrote it
    named_longrope(config)
    check_types(config, file)
    if config.get("per_layer_config"):
        raise UserError(
            f"{file}: per_layer_config states settings layer by layer, which no type of model that "
            "is read here has."
        )
    family = find_family(config.get("model_type", ""))
    for name in family.unheeded:
        if config.get(name) is not None:
            raise UserError(
                f"{file}: {name} is {config[name]}, which transformers leaves out by default in "
                "this type of model, so that it is not known what the model is: set it to null if "
                "it was trained without."
            )
    config = with_assumed(without_rope_parameters(config, family, file), family)
    check_types(config, file)
    for name, known in family.known_only.items():
        if config.get(name) != known:
            raise UserError(
                f"{file}: {name} is {config.get(name)}, and of models of type "
                f"{config['model_type']} only those are known here of which it is {known}: take "
                "another model."
            )
    check_rope(config, family, file)
    return config
