"""Which stages leave a model of their own to be measured."""

import pytest

from edgeprune.measure.stages import measured_stages

ENDS = ["load", "original", "export", "rewrite"]


@pytest.mark.parametrize(
    ("ran", "expected"),
    [
        ([], ["export"]),
        (["quantize"], ["export"]),
        (["cut"], ["export"]),
        (["cut", "recover"], ["cut", "export"]),
        (["prune", "cut", "recover", "quantize"], ["cut", "recover", "export"]),
        (["prune", "recover", "quantize"], ["prune", "recover", "export"]),
        (
            ["vocabulary", "prune", "cut", "sparsify", "recover", "quantize"],
            ["vocabulary", "cut", "sparsify", "recover", "export"],
        ),
    ],
)
def test_every_model_is_measured_once(ran: list[str], expected: list[str]) -> None:
    assert measured_stages([*ENDS, *ran]) == expected
