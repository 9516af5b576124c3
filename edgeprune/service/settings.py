"""The service's address, batching and limits."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from edgeprune.base.settings import Settings
from edgeprune.runtime.batches import CALL_TOKENS


class ServiceSettings(Settings):
    """Each limit keeps a client, or a crowd of them, from exhausting the device's memory."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0 for the whole network"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one and prints it")
    allowed_host: tuple[Annotated[str, Field(pattern=r"^[^\s:/]+$")], ...] = Field(
        default=(),
        description="names that clients may call the service by, in addition to its addresses, "
        "localhost and the machine's own name",
    )
    allowed_origin: tuple[Annotated[str, Field(pattern=r"^https?://[^\s/*]+$")], ...] = Field(
        default=(),
        description="origins of web pages that may call the service from a browser, such as "
        "https://example.org; none by default",
    )
    token_file: Path | None = Field(
        default=None,
        description="file with the token that every request but those for /health must bear; none "
        "by default",
    )
    served_name: str = Field(
        default="",
        description="the name by which OpenAI's clients ask for the model; its folder's by default",
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, description="for the matrix products; all cores by default"
    )
    max_batch: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="texts in one call of the model; by default one if the graph would let them "
        "change each other's results",
    )
    max_batch_tokens: int = Field(
        default=CALL_TOKENS, ge=1, le=1_048_576, description="tokens in one call, padding included"
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0.0,
        le=10_000.0,
        description="how long an idle model waits for more texts",
    )
    max_waiting: int = Field(
        default=256, ge=1, le=100_000, description="queued texts; beyond it the answer is 503"
    )
    max_concurrent: int = Field(
        default=64, ge=1, le=10_000, description="concurrent requests; beyond it the answer is 503"
    )
    max_per_client: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="concurrent requests from one address; beyond it the answer is 429. No limit "
        "by default: behind a proxy all clients have its address",
    )
    max_connections: int = Field(
        default=512,
        ge=2,
        le=100_000,
        validate_default=True,
        description="open connections; beyond it the longest idle one is closed",
    )
    max_body_bytes: int = Field(
        default=512 * 1024, ge=1, le=1 << 30, description="bytes of a request's body"
    )
    max_texts: int = Field(default=64, ge=1, le=100_000, description="texts of a request")
    max_tokens: int = Field(
        default=2048,
        ge=1,
        le=1_048_576,
        description="tokens of a text or a prompt; the model's own maximum also applies",
    )
    max_new_tokens: int = Field(
        default=1024, ge=1, le=1_048_576, description="tokens that one request may generate"
    )
    kept_conversations: int = Field(
        default=4,
        ge=0,
        le=10_000,
        description="caches of generated texts that are kept, so that what goes on from one of "
        "them is not read again; each holds up to a prompt and its answer",
    )
    head_seconds: float = Field(
        default=10.0, gt=0.0, le=3600.0, description="for a request's head to arrive"
    )
    body_seconds: float = Field(
        default=10.0, gt=0.0, le=3600.0, description="for a request's body to arrive"
    )
    answer_seconds: float = Field(
        default=30.0, gt=0.0, le=3600.0, description="for an answer, or its first words"
    )
    generate_seconds: float = Field(
        default=300.0, gt=0.0, le=86_400.0, description="for a complete generated answer"
    )
    stop_seconds: int = Field(
        default=30, ge=1, le=86_400, description="for running requests to end at a shutdown"
    )

    @field_validator("max_connections")
    @classmethod
    def _leaves_places(cls, connections: int, info: ValidationInfo) -> int:
        """Keep a connection free for /health, however many requests are being answered."""
        if connections <= info.data.get("max_concurrent", 0):
            raise ValueError(f"must be above max_concurrent, {info.data['max_concurrent']}")
        return connections
