"""Labels by name and by number."""

import pytest

from edgeprune.base.errors import UserError
from edgeprune.text.labels import label_names, label_numbers


def test_a_label_of_many_is_told_with_the_nearest(tmp_path):
    names = [f"label {number}" for number in range(76)] + ["Refund_not_showing_up"]
    with pytest.raises(UserError) as error:
        label_numbers(["refund_not_showing_up"], names, "a.csv")
    assert str(error.value) == (
        "a.csv: the label 'refund_not_showing_up' is none of the model's 77: "
        "Refund_not_showing_up, label 0, label 1, label 2, label 3 and 72 more; or 0 to 76."
    )


@pytest.mark.parametrize("kind", [int, str, float])
def test_names_that_are_numerals_are_never_mixed_with_numbers(kind):
    """Stars, of which the first is number 0: JSON and CSV say the same."""
    stars = ["1", "2", "3"]
    if kind is not float:
        assert label_numbers([kind(star) for star in (3, 1, 2, 2)], stars, "a") == [2, 0, 1, 1]
    assert label_numbers([kind(number) for number in (2, 0, 1)], stars, "a") == [2, 0, 1]
    with pytest.raises(UserError, match="is none of the model's 3"):
        label_numbers([kind(number) for number in (0, 1, 2, 3)], stars, "a")
    assert label_numbers(["bad", kind(1)], ["bad", "good"], "a") == [0, 1]


def test_a_models_own_names_of_its_labels():
    named = {"id2label": {"1": "good", "0": "bad"}}
    assert label_names(named) == label_names(named | {"num_labels": 7}) == ["bad", "good"]
    assert label_names({}) == ["LABEL_0", "LABEL_1"]
    assert label_names({"num_labels": 3})[2] == "LABEL_2"
