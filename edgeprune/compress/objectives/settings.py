"""The weights of the losses that training minimizes. No torch here."""

from pydantic import Field

from edgeprune.base.settings import Settings


class LossWeights(Settings):
    """The parts of an objective's loss; each task reads its own."""

    embedding_weight: float = Field(
        10.0, ge=0, description="Encoders: weight of 1 - cosine to the original's embedding."
    )
    similarity_weight: float = Field(
        50.0, ge=0, description="Encoders: weight of the squared error of similarities in a batch."
    )
    hidden_weight: float = Field(
        1.0, ge=0, description="Encoders: weight of the hidden states' squared error, every layer."
    )
    logits_weight: float = Field(
        1.0,
        ge=0,
        description="Classifiers and decoders: weight of the divergence from the "
        "original's predictions.",
    )
    label_weight: float = Field(
        0.0,
        ge=0,
        description="Classifiers and decoders: weight of the text's own labels or next tokens.",
    )
    temperature: float = Field(
        1.0, gt=0, description="Temperature at which predictions are compared."
    )
