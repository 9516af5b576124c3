"""The reasons for a regression, where they are known: one operator, one layer, one tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.measure.bench.record import Profile, Spent
from edgeprune.measure.bench.worker import by_operator
from edgeprune.measure.check import explain
from edgeprune.measure.check.figures import Quality
from edgeprune.measure.inspect.record import Layer

TIMES = st.dictionaries(st.sampled_from("ABCDEFGH"), st.floats(0.01, 10), min_size=1)


def profile(operators: dict[str, float], layers: dict[str, float] | None = None) -> Profile:
    whole = sum(operators.values())
    return Profile(
        run_ms=whole,
        operators={name: Spent(share=ms / whole, ms=ms, count=2) for name, ms in operators.items()},
        outside_share=0.0,
        layers=layers or {},
    )


@given(TIMES, st.sampled_from("ABCDEFGH"), st.integers(0, 5), st.floats(1, 50))
def test_what_grew_alone_is_named_alone(times, kind, layer, more):
    """One operator in one layer became slower, and everything else stayed as it was."""
    layers = dict.fromkeys(map(str, range(6)), 1.0)
    before = profile(times, layers)
    slow = {**times, kind: times.get(kind, 0.0) + more}
    after = profile(slow, {**layers, str(layer): 1.0 + more})
    calls = "" if kind in times else " (2 calls, not 0)"
    assert explain.slower(after, before) == [
        f"by operator, of {more:+.3f} ms in a profiled call: {kind} {more:+.3f} ms{calls}",
        f"by layer: layer {layer} {more:+.3f} ms",
    ]


def test_a_profile_that_shows_nothing_says_so():
    same = profile({"MatMul": 1.0})
    assert explain.slower(same, same) == [
        "profiled once more, a call took 1.000 ms where it took 1.000: no operator accounts for it"
    ]


def test_the_layer_of_an_operator_is_read_from_its_name():
    names = ["/encoder/layer.0/Add", "/encoder/layer.11/out/MatMul", "Gelu_token_0", "/h.0/Add"]
    events = [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 90, "args": {}}]
    events += [
        {
            "cat": "Node",
            "name": f"{name}_kernel_time",
            "ts": 1,
            "dur": 1000 * 10**place,
            "args": {"op_name": "Add"},
        }
        for place, name in enumerate(names)
    ]
    assert by_operator(events, 1)["layers"] == {"0": 1001.0, "11": 10.0, "": 100.0}


def layer(name: str, bits: int, shape: tuple[int, int] = (4, 8)) -> Layer:
    count = shape[0] * shape[1] * bits // 8 * 1000
    return Layer(name=name, kind="linear", operator="MatMul", shape=shape, bits=bits, bytes=count)


def test_the_tensors_that_grew_are_named_with_what_became_of_them():
    before = [layer("a", 8), layer("b", 8), layer("c", 8), layer("gone", 32)]
    after = [layer("a", 8), layer("b", 32), layer("c", 8, (4, 9)), layer("d", 8)]
    assert explain.grown(after, before) == [
        "by tensor: b +96.0 kB (32 bits, not 8), d +32.0 kB (new) and c +4.0 kB (4 x 9, not 4 x 8)"
    ]
    assert explain.grown(before[:3], after) == []


def test_the_classes_and_the_tensors_that_lost_are_named():
    def quality(**classes: float) -> Quality:
        return Quality(
            task="classification", data="d", digest="", values={"accuracy": 1.0}, classes=classes
        )

    told = explain.worse_classes(quality(a=80.0, b=90.0, c=70.0), quality(a=90.0, b=90.0, c=71.0))
    assert told == ["F1 of 2 classes fell, most of a (90 to 80) and c (71 to 70)"]
    assert explain.worse_classes(quality(a=1.0), quality()) == []
    told = explain.worse_tensors({"x": 0.02, "y": 0.01}, {"x": 0.01, "y": 0.01})
    assert told == ["rounding changes these tensors more: x (2.00%, not 1.00%)"]


@pytest.mark.parametrize("manifest", [{}, {"stages": None}, {"stages": [1, {"errors": {"a": 2}}]}])
def test_a_manifest_that_tells_nothing_explains_nothing(manifest):
    assert explain._rounding(manifest) == {}
