"""Kept answers: those of the teacher itself, once each, whatever became of the file."""

import itertools

import numpy as np
import pytest
import torch
from calibration_batches import make_batches
from tiny_models import VOCABULARY, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.distil.answers import Answers
from edgeprune.compress.distil.settings import DistilSettings
from edgeprune.compress.distil.train import distil, kept_answers
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch

PLAIN = {"precision": "float32", "hidden_weight": 0}


@pytest.fixture(params=["bert", "classifier"])
def teacher(request, tmp_path) -> Model:
    return make_model(request.param, tmp_path / "teacher", unequal=False, seed=2)


def opened(teacher: Model, folder, megabytes: int = 1) -> Answers:
    return Answers(folder, teacher, objective_of(teacher), megabytes)


def wanted(teacher: Model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return objective_of(teacher).wanted(teacher.run(batch), batch)


def batch_of(*texts: list[int]) -> Batch:
    ids = np.ones((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return Batch(ids, mask)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2**-10, atol=1e-5)


def test_each_text_is_computed_once_whatever_its_batch(teacher, tmp_path):
    answers = opened(teacher, tmp_path / "kept")
    first = batch_of([5, 6, 7], [8, 9], [10, 11, 12, 13])
    close(answers.of(first), wanted(teacher, first))
    assert answers.computed == 3
    again = batch_of([10, 11, 12, 13], [5, 6, 7])
    close(answers.of(again), wanted(teacher, again))
    assert answers.computed == 3
    some = batch_of([8, 9], [9, 8], [5, 6, 7])  # the same tokens in another order are another text
    close(answers.of(some), wanted(teacher, some))
    assert answers.computed == 3 + 8
    # Another training finds them, and knows the file by its first batch.
    other = opened(teacher, tmp_path / "kept")
    other.of(first)
    close(other.of(some), wanted(teacher, some))
    assert other.computed == 3


def test_token_types_make_another_text(tmp_path):
    teacher = make_model("classifier", tmp_path / "teacher", unequal=False, seed=2)
    answers = opened(teacher, tmp_path / "kept")
    plain = batch_of([5, 6, 7, 8])
    pair = Batch(plain.input_ids, plain.attention_mask, None, np.array([[0, 0, 1, 1]]))
    for batch in (plain, pair, plain, pair):
        close(answers.of(batch), wanted(teacher, batch))
    assert not torch.allclose(answers.of(plain), answers.of(pair))


def test_damaged_rows_are_computed_again(teacher, tmp_path):
    batch = batch_of(*([5 + row, 6, 7] for row in range(20)))
    opened(teacher, tmp_path).of(batch)
    [file] = tmp_path.glob("*.answers")
    content = bytearray(file.read_bytes())
    values = np.flatnonzero(np.frombuffer(content, np.uint8, offset=4096)) + 4096
    for place in values[::7].tolist():
        content[place] ^= 0x55
    file.write_bytes(content)
    answers = opened(teacher, tmp_path)
    answers.of(batch_of([9, 9]))  # opens the file
    close(answers.of(batch), wanted(teacher, batch))
    assert answers.computed > 1


@pytest.mark.parametrize("how", ["short", "foreign", "empty"])
def test_a_file_that_is_not_whole_is_made_anew(how, teacher, tmp_path):
    batch = make_batches(False)[0]
    opened(teacher, tmp_path).of(batch)
    [file] = tmp_path.glob("*.answers")
    content = file.read_bytes()
    file.write_bytes({"short": content[:-1], "foreign": b"x" + content[1:], "empty": b""}[how])
    close(opened(teacher, tmp_path).of(batch), wanted(teacher, batch))
    assert [each.stat().st_size for each in tmp_path.iterdir() if each.is_file()] == [len(content)]


def test_teachers_do_not_share_a_file(tmp_path):
    teachers = [
        make_model("bert", tmp_path / str(seed), unequal=False, seed=seed) for seed in (1, 2)
    ]
    batch = make_batches(False)[0]
    for teacher in (*teachers, *teachers):
        close(opened(teacher, tmp_path / "kept").of(batch), wanted(teacher, batch))
    assert len(list((tmp_path / "kept").glob("*.answers"))) == 2


def test_the_file_takes_no_more_than_it_may_and_what_has_no_room_is_right(teacher, tmp_path):
    answers = opened(teacher, tmp_path, 0)  # room for the fewest rows
    rng = np.random.default_rng(0)
    batches = [batch_of(*rng.integers(5, VOCABULARY, (8, 6)).tolist()) for _ in range(4)]
    for batch in (*batches, *batches):
        close(answers.of(batch), wanted(teacher, batch))
    assert 32 < answers.computed < 64
    [file] = tmp_path.glob("*.answers")
    assert file.stat().st_size < 4096 + 8 * (12 + 2 * 64)


def test_a_folder_that_cannot_be_written_is_told(teacher, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot be kept in .*answers_megabytes to 0"):
        opened(teacher, tmp_path / "file").of(make_batches(False)[0])


def test_training_by_kept_answers_is_training(tmp_path):
    """The same steps as with the teacher run along, but for the rounding of its answers."""
    original = make_model("bert", tmp_path / "o", unequal=False, seed=2)
    settings = DistilSettings(steps=6, checks=2, learning_rate=1e-3, **PLAIN)
    found = []
    for answers in (None, kept_answers(original, settings, tmp_path)):
        student = make_model("bert", tmp_path / "s", unequal=False, seed=1)
        batches = itertools.cycle(make_batches(False))
        did = distil(
            student, original, batches, make_batches(False, 9), settings, "t", answers=answers
        )
        found.append([row["held_out"] for row in did["checks"]])
    assert found[1] == pytest.approx(found[0], rel=2e-3)
    assert list((tmp_path / "answers").glob("*.answers"))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"hidden_weight": 1}),
        ("bert", {"answers_megabytes": 0}),
        ("llama", {}),
        ("bert-tagger", {}),
    ],
)
def test_nothing_is_kept_where_it_cannot_be(family, settings, tmp_path):
    original = make_model(family, tmp_path / "o", unequal=False)
    assert kept_answers(original, DistilSettings(**{**PLAIN, **settings}), tmp_path) is None


def test_the_place_of_the_answers_is_not_in_a_recipe(tmp_path):
    settings = DistilSettings(answers=tmp_path)
    assert settings.model_dump_json() == DistilSettings().model_dump_json()
    assert settings.model_copy(update={"steps": 3}).answers == tmp_path
