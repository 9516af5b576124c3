"""The result that came back from another machine, read and named as here."""

import pytest
from speeds import make_speed

from edgeprune.base.errors import UserError
from edgeprune.measure.bench.remote import _named_here, _points

SPEED = make_speed("text-generation")


def test_a_result_and_a_sweep_are_read_and_named_as_here() -> None:
    for answer in (SPEED.to_json(), {"sweep": [SPEED.to_json()] * 2}):
        points = [_named_here(point, "pi", ["a", "b"]) for point in _points(answer, "pi")]
        assert len(points) == len(answer.get("sweep", [answer]))
        for point in points:
            assert (point.candidate.name, point.baseline.name, point.remote) == ("a", "b", "pi")
            assert point.measures == SPEED.measures
            assert list(point.to_json())[-1] == "remote"


def test_a_model_alone_keeps_no_baseline() -> None:
    answer = SPEED.to_json()
    del answer["baseline"]
    [point] = _points(answer, "pi")
    named = _named_here(point, "pi", ["a"]).to_json()
    assert named["candidate"]["name"] == "a"
    assert "baseline" not in named


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"sweep": 5}, "pi answered something else than a result"),
        ({"measures": {}}, "pi's answer is damaged .*install the same edgeprune there as here"),
        ({"sweep": [{}]}, "pi's answer is damaged"),
    ],
)
def test_another_answer_is_refused(answer: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        _points(answer, "pi")
