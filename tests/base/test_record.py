"""What the base of every record promises: the JSON is what was given, and it reads as it was."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from edgeprune.base.errors import UserError
from edgeprune.base.record import Ends, Many, Record


class Inner(Record):
    value: float
    low: float | None = None
    names: Many[str] = ()
    ends: Ends | None = None


class Outer(Record):
    second: Inner | None = None
    first: Inner
    by_name: dict[str, Inner] = Field(default={})


class Whole(Outer):
    writes_defaults: ClassVar[bool] = True


FOUND = Outer(
    first=Inner(value=0.1, low=None, names=("b", "a"), ends=(0.0, 1.0)),
    by_name={"z": Inner(value=1 / 3), "a": Inner(value=2.0)},
)


def test_what_was_not_given_is_not_written_and_none_that_was_given_is() -> None:
    assert json.dumps(FOUND.to_json()) == json.dumps(
        {
            "first": {"value": 0.1, "low": None, "names": ["b", "a"], "ends": [0.0, 1.0]},
            "by_name": {"z": {"value": 1 / 3}, "a": {"value": 2.0}},
        }
    )
    assert Whole(first=Inner(value=1.0)).to_json() == {
        "second": None,
        "first": {"value": 1.0},
        "by_name": {},
    }


def test_what_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    FOUND.write(file)
    read = Outer.read(file, "measure anew")
    assert read == FOUND
    assert type(read.first) is type(FOUND.first)
    assert json.dumps(read.to_json()) == json.dumps(FOUND.to_json())
    assert Outer.from_json({**FOUND.to_json(), "of a newer version": 1}, file, "") == FOUND


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({}, "first: Field required"),
        ({"first": {"value": "1"}}, "first.value: "),
        ({"first": {"value": True}}, "first.value: "),
        ({"first": {"value": 1.0, "names": [1]}}, "first.names.0: "),
        ({"first": {"value": 1.0, "ends": [1.0]}}, "first.ends.1: "),
        ({"first": {"value": math.inf}}, "first.value: "),
        ({"first": 5}, "first: "),
        ({"first": {"value": 1.0}, "by_name": {"a": None}}, "by_name.a: "),
    ],
)
def test_what_is_damaged_is_refused_by_its_place(
    content: dict[str, Any], place: str, tmp_path: Path
) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        Outer.read(file, "measure anew")
    assert str(refused.value).startswith(f"{file} is damaged ({place}")
    assert str(refused.value).endswith("): measure anew.")


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValidationError):
        FOUND.first = Inner(value=2.0)  # type: ignore[misc]
