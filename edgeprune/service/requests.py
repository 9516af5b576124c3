"""Parse requests strictly, and refuse them with a status and a sentence."""

from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeprune.model.tasks import TASKS
from edgeprune.runtime.generate import Sampling
from edgeprune.text.pairs import Document, document_of

OPENAI = "/v1/"
"""The beginning of the paths in the form of OpenAI's, whose errors have their own form too."""
EMBEDDINGS, MODELS = f"{OPENAI}embeddings", f"{OPENAI}models"
RERANK, RERANK_COHERE = "/rerank", f"{OPENAI}rerank"
PREDICT, ZERO_SHOT = "/predict", "/zero-shot"
PATHS = (
    *(task.path for task in TASKS.values()),
    *(PREDICT, ZERO_SHOT, RERANK, RERANK_COHERE, EMBEDDINGS),
)
"""The paths of all tasks, and theirs in other services' forms; a bundle answers on its task's."""

_MAX_ECHO = 80


class Refused(Exception):
    """A refusal: an HTTP `status`, a sentence for the client, and a code where OpenAI has one."""

    def __init__(self, status: int, sentence: str, code: str | None = None) -> None:
        super().__init__(sentence)
        self.status, self.code = status, code


class Stopping(Refused):
    """The service accepts nothing more and refuses what is queued."""

    def __init__(self) -> None:
        super().__init__(503, "The service is stopping: try again later.")


class Texts(BaseModel):
    """The body of /embed and /tag."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: list[str] = Field(min_length=1)


class Pair(BaseModel):
    """Two texts that are read together, or one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    text_pair: str | None = None


class Documents(BaseModel):
    """The body of /classify."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: list[str | Pair] = Field(min_length=1)

    @property
    def documents(self) -> list[Document]:
        """The texts and pairs."""
        return [
            each if isinstance(each, str) else document_of(each.model_dump(), "the body")
            for each in self.texts
        ]


class Message(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: str
    content: str


class Generation(Sampling):
    """The body of /generate: a chat or plain text to continue, and how to sample."""

    model_config = ConfigDict(strict=True)

    messages: list[Message] | None = None
    prompt: str | None = None
    stream: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages or prompt")
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump(include=set(Sampling.model_fields)))


Body = TypeVar("Body", bound=BaseModel)


def parse(kind: type[Body], body: bytes) -> Body:
    """Parse a request's body as its path requires.

    Raises:
        Refused: 400, saying which field is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:_MAX_ECHO]
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise Refused(400, f"The body is not what this path takes: {what}.") from None
