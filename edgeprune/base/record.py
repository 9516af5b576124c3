"""Measurements and what stages did, as classes that write and read their own JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from edgeprune.base.files import check, read_json, replace_file

Entry = TypeVar("Entry")
# JSON has lists alone, which a strict tuple would refuse; their entries are as strict as ever.
Many = Annotated[tuple[Entry, ...], Field(strict=False)]
Ends = Annotated[tuple[float, float], Field(strict=False)]
"""Both ends of an interval."""


class Record(BaseModel):
    """Values that do not change, each written under its own name.

    Types are checked and never converted, and every number is finite. Keys that are not known,
    which a newer version may have written, are passed over. A field with a default that was not
    given is not written, so that a record which was read is written as it was.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=()
    )
    writes_defaults: ClassVar[bool] = False
    """Whether fields that were not given are written as well, with their defaults."""

    @model_serializer(mode="wrap")
    def _given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        if self.writes_defaults:
            return found
        return {name: value for name, value in found.items() if name in self.model_fields_set}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The record of plain Python values, which become those of JSON: tuples are lists there."""
        return cls.model_validate_json(json.dumps(values))

    @classmethod
    def from_json(cls, content: Any, file: Path, remedy: str) -> Self:
        """The record that JSON values are.

        Args:
            file: where they were read, to name where they are damaged.
            remedy: what to do about that, as a sentence's end.

        Raises:
            UserError: they are not such a record; the sentence names the place.
        """
        return check(cls, content, file, remedy)

    @classmethod
    def read(cls, file: Path, remedy: str) -> Self:
        """The record in a JSON file.

        Raises:
            UserError: the file is not JSON, or is damaged.
        """
        return cls.from_json(read_json(file), file, remedy)

    def write(self, file: Path) -> None:
        """Write a JSON file, whole or not at all.

        Raises:
            UserError: what stands there cannot be replaced.
        """
        replace_file(file, json.dumps(self.to_json(), indent=1) + "\n")
