"""Parse requests strictly, and refuse them with a status and a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, from_json

from edgeprune.model.tasks import TASKS
from edgeprune.runtime.sampling import Sampling
from edgeprune.text.pairs import Document, document_of

OPENAI = "/v1/"
"""The beginning of the paths in the form of OpenAI's, whose errors have their own form too."""
CHAT, COMPLETIONS = f"{OPENAI}chat/completions", f"{OPENAI}completions"
EMBEDDINGS, MODELS = f"{OPENAI}embeddings", f"{OPENAI}models"
RERANK, RERANK_COHERE = "/rerank", f"{OPENAI}rerank"
PREDICT, ZERO_SHOT = "/predict", "/zero-shot"
PATHS = (
    *(task.path for task in TASKS.values()),
    *(PREDICT, ZERO_SHOT, RERANK, RERANK_COHERE, EMBEDDINGS, CHAT, COMPLETIONS),
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
    """The body of /embed and /tag, and part of others."""

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
        asked = self.model_fields_set & set(Sampling.model_fields)
        return Sampling(**self.model_dump(include=asked))


Body = TypeVar("Body", bound=BaseModel)


def parse(kind: type[Body], body: bytes) -> Body:
    """Parse a request's body as its path requires.

    Raises:
        Refused: 400, saying which field is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        told = _told(error, body)
        raise Refused(400, f"The body is not what this path takes: {told}.") from None


def _told(error: ValidationError, body: bytes) -> str:
    """The first fault: of a value that may have several forms, what each form lacks first."""
    errors = error.errors(include_url=False, include_input=False)
    value = None if errors[0]["type"] == "json_invalid" else from_json(body)
    first = errors[0]["loc"]
    start = next((place for place, form in enumerate(_forms(errors[0], value)) if form), None)
    if start is None:
        return _at(first, errors[0]["msg"])
    by_form: dict[int | str, str] = {}
    for each in errors:
        forms = _forms(each, value)
        if each["loc"][:start] == first[:start] and forms[start]:
            where = [part for part, form in zip(each["loc"], forms, strict=True) if not form]
            by_form.setdefault(each["loc"][start], _at(where, each["msg"]))
    return "; or ".join(dict.fromkeys(by_form.values()))


def _forms(error: ErrorDetails, value: Any) -> list[bool]:
    """Of each part of an error's place whether it names a form of what stands there, and is no part
    of the body."""
    found = []
    for part in error["loc"]:
        inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        form = not inside and not (isinstance(value, Mapping) and part in value)
        value = value if form else value[part]
        found.append(form)
    if error["type"] == "missing":  # the last part is a field that is not there
        found[-1] = False
    return found


def _at(place: Sequence[int | str], what: str) -> str:
    where = ".".join(map(str, place))[:_MAX_ECHO]
    return f"{where}: {what}" if where else what
