import ctypes
import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
from attention_models import (
    TYPES,
    Attending,
    Shape,
    attention_model,
    expected,
    loose,
    random_rows,
    step,
    tables,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from sparse_models import SETS, open_sparse, open_stock

from edgeprune.kernels.attention import make_row_attention

SHAPES = {
    "grouped": Shape(9, 3, 64, turned=64),
    "one head": Shape(1, 1, 8, turned=8),
    "ragged heads": Shape(10, 2, 20, turned=12, packed=True),
    "large heads": Shape(2, 2, 128, turned=128, scale=0.05),
    "odd heads": Shape(4, 1, 7, turned=2),
    "not turned": Shape(6, 2, 32),
    "window": Shape(4, 2, 16, turned=16, window=37),
    "window of one": Shape(4, 2, 16, turned=16, window=1),
    "softcap": Shape(4, 4, 24, turned=24, softcap=5.0, scale=0.7),
    "bias": Shape(4, 2, 16, turned=16, bias=True),
    "bias, softcap and window": Shape(4, 2, 16, softcap=3.0, bias=True, window=70),
}


def bias_of(shape: Shape, batch: int, tokens: int, seed: int = 3) -> np.ndarray | None:
    if not shape.bias:
        return None
    bias = np.random.default_rng(seed).standard_normal((batch, 1, tokens, tokens))
    bias[:, :, :, tokens // 3 : tokens // 2] = np.finfo(np.float32).min
    return bias.astype(np.float32)


def tolerance(shape: Shape) -> float:
    """float32 sums against float64 ones of normal numbers: a score's error grows with its terms."""
    return 3e-6 + 5e-7 * (shape.scale or shape.size**-0.5) * shape.size


def close(found: np.ndarray, wanted: np.ndarray, shape: Shape) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max(initial=0) < tolerance(shape)


def stored_well(
    attending: Attending, key: np.ndarray, value: np.ndarray, row: int | None = None
) -> tuple[np.ndarray, ...]:
    """What the cache holds of whole sequences, of all or of a row's, within a step of its type."""
    rows = slice(None) if row is None else slice(row, row + 1)
    found = tuple(x[rows, : key.shape[1]] for x in attending.stored())
    for x, wanted in zip(found, written(attending.shape, key, value), strict=bool(found)):
        assert (np.abs(x - wanted) <= step(wanted, attending.shape.cache)).all()
    return found


# Products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_products_are_those_of_float64(name: str, built: Path, set_name: str) -> None:
    shape = SHAPES[name]
    session = open_sparse(attention_model(shape), built, set_name)
    for tokens in (1, 5, 64, 150):
        rows, bias = random_rows(shape, 2, tokens), bias_of(shape, 2, tokens)
        wanted = expected(shape, *rows, bias=bias)
        close(Attending(session, shape, 2).feed(*rows, bias=bias), wanted, shape)


@pytest.mark.parametrize("name", ["grouped", "ragged heads", "bias", "softcap"])
def test_products_without_a_cache(name: str, built: Path, set_name: str) -> None:
    """Causal, and an encoder's, where all tokens see each other."""
    for causal in (True, False):
        shape = replace(SHAPES[name], cached=False, causal=causal)
        rows, bias = random_rows(shape, 2, 70), bias_of(shape, 2, 70)
        session = open_sparse(attention_model(shape), built, set_name)
        wanted = expected(shape, *rows, bias=bias)
        close(Attending(session, shape, 2).feed(*rows, bias=bias), wanted, shape)
        lengths = [70, 41]
        wanted = expected(shape, *rows, bias=bias, lengths=lengths)
        close(Attending(session, shape, 2).feed(*rows, bias=bias, lengths=lengths), wanted, shape)


@pytest.mark.parametrize("cache", ["float32", "float16", "int8"])
def test_products_over_every_cache(cache: str, built: Path, set_name: str) -> None:
    """A prompt of two lengths, then five steps, in a buffer with room and in one that grows."""
    for size in (64, 24, 7):
        shape = Shape(6, 2, size, turned=size // 2 * 2, cache=cache)
        lengths, steps = [90, 61], 5
        rows = random_rows(shape, 2, 90 + steps)
        session = open_sparse(attention_model(shape), built, set_name)
        for room in (0, 100):
            attending = Attending(session, shape, 2, room)
            prompt = [x[:, :90] for x in rows]
            found = attending.feed(*prompt, lengths=lengths)
            stored = attending.stored()
            close(found, expected(shape, *prompt, lengths=lengths, stored=stored), shape)
            for place in range(steps):
                found = attending.feed(*(x[:, 90 + place :][:, :1] for x in rows))
                for b, length in enumerate(lengths):
                    one = [x[b : b + 1, np.r_[:length, 90 : 91 + place]] for x in rows]
                    stored = stored_well(attending, *one[1:], row=b)
                    close(found[b, 0], expected(shape, *one, stored=stored)[0, -1], shape)


def test_grouped_query_attention_gives_the_same(built: Path) -> None:
    """The runtime's own operator, whose place this one takes: windows, caps, masks and lengths."""
    for name in ("grouped", "bias", "bias, softcap and window", "softcap", "window"):
        shape = SHAPES[name]
        shape = replace(shape, size=shape.size // 16 * 16 or 16)
        shape = replace(shape, turned=shape.size if shape.turned else 0)
        model = attention_model(shape)
        session = open_sparse(model, built)
        node = model.graph.node[0]
        node.op_type, node.domain = "GroupQueryAttention", "com.microsoft"
        [causal] = [a for a in node.attribute if a.name == "causal"]
        node.attribute.remove(causal)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        rows, bias = random_rows(shape, 1, 130), bias_of(shape, 1, 130)
        results = []
        for one in (session, open_stock(model)):
            attending = Attending(one, shape)
            mask = None if bias is None else bias[:, :, :100, :100]
            prompt = attending.feed(*(x[:, :100] for x in rows), bias=mask)
            mask = None if bias is None else bias[:, :, 100:, :130]
            results.append([prompt, attending.feed(*(x[:, 100:] for x in rows), bias=mask)])
            results[-1] += attending.cache
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * tolerance(shape))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    size, key_heads = draw(st.integers(1, 70)), draw(st.integers(1, 3))
    return Shape(
        key_heads * draw(st.integers(1, 5)),
        key_heads,
        size,
        turned=2 * draw(st.integers(0, size // 2)),
        scale=draw(st.sampled_from([0.0, 0.3])),
        softcap=draw(st.sampled_from([0.0, 2.0])),
        window=draw(st.sampled_from([-1, 1, 10, 64, 90])),
        cache=draw(st.sampled_from(["float32", "float16", "int8"])),
        packed=draw(st.booleans()),
        bias=draw(st.booleans()),
    )


@given(
    shape=shapes(), tokens=st.integers(1, 140), batch=st.integers(1, 3), seed=st.integers(0, 999)
)
@settings(max_examples=40)
def test_products_of_any_shape(
    shape: Shape, tokens: int, batch: int, seed: int, built: Path
) -> None:
    rows, bias = random_rows(shape, batch, tokens, seed), bias_of(shape, batch, tokens, seed)
    attending = Attending(open_sparse(attention_model(shape), built), shape, batch)
    found = attending.feed(*rows, bias=bias)
    stored = stored_well(attending, *rows[1:])
    close(found, expected(shape, *rows, bias=bias, stored=stored), shape)


# One order of summation ------------------------------------------------------------------------


def fed_in_parts(
    session: onnxruntime.InferenceSession,
    shape: Shape,
    rows: list[np.ndarray],
    bias: np.ndarray | None,
    parts: Iterable[int],
    room: int = 0,
) -> np.ndarray:
    """The context of a sequence whose tokens come in parts."""
    attending = Attending(session, shape, len(rows[0]), room)
    found, start = [], 0
    for count in parts:
        end = start + count
        mask = None if bias is None else np.ascontiguousarray(bias[:, :, start:end, :end])
        found.append(attending.feed(*(x[:, start:end] for x in rows), bias=mask))
        start = end
    assert start == rows[0].shape[1]
    return np.concatenate(found, 1)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("cache", ["float32", "float16", "int8"])
def test_rows_are_the_same_products_however_they_come(
    name: str, cache: str, built: Path, set_name: str
) -> None:
    """Alone, 2 to 8 at once, in a prompt cut in two, in place or by copies: to the bit."""
    shape = replace(SHAPES[name], cache=cache)
    rows, bias = random_rows(shape, 1, 168), bias_of(shape, 1, 168)
    session = open_sparse(attention_model(shape), built, set_name)
    whole = fed_in_parts(session, shape, rows, bias, [168])
    for parts in ([1] * 168, [2] * 84, [3] * 56, [4] * 42, [8] * 21, [63, 105], [130, 5, 33]):
        found = fed_in_parts(session, shape, rows, bias, parts, room=200 if len(parts) > 2 else 0)
        np.testing.assert_array_equal(found, whole)


@given(shape=shapes(), cuts=st.sets(st.integers(1, 119), max_size=6), seed=st.integers(0, 999))
@settings(max_examples=40)
def test_a_prompt_cut_anywhere_gives_the_same(
    shape: Shape, cuts: set[int], seed: int, built: Path
) -> None:
    rows, bias = random_rows(shape, 2, 120, seed), bias_of(shape, 2, 120, seed)
    session = open_sparse(attention_model(shape), built)
    ends = [0, *sorted(cuts), 120]
    parts = [end - start for start, end in itertools.pairwise(ends)]
    np.testing.assert_array_equal(
        fed_in_parts(session, shape, rows, bias, parts),
        fed_in_parts(session, shape, rows, bias, [120]),
    )


@pytest.mark.parametrize("cache", ["float32", "float16", "int8"])
def test_two_threads_and_any_batch_give_what_one_gives(cache: str, built: Path) -> None:
    shape = replace(SHAPES["grouped"], cache=cache)
    one, two = (open_sparse(attention_model(shape), built, threads=threads) for threads in (1, 2))
    for tokens in (1, 9, 300):
        rows = random_rows(shape, 3, tokens + 100)
        lengths = [tokens, tokens - tokens // 3, 1]
        prompt = [x[:, :tokens] for x in rows]
        attendings = [Attending(session, shape, 3, room=500) for session in (one, two)]
        for attending in attendings:
            together = [attending.feed(*prompt, lengths=lengths)]
            together.append(attending.feed(*(x[:, tokens:] for x in rows)))
            for b, length in enumerate(lengths):
                alone = Attending(one, shape)
                first = alone.feed(*(x[b : b + 1, :length] for x in rows))
                np.testing.assert_array_equal(first[0], together[0][b, :length])
                second = alone.feed(*(x[b : b + 1, tokens:] for x in rows))
                np.testing.assert_array_equal(second[0], together[1][b])


def test_sets_with_a_fused_multiply_add_give_the_same_bits(built: Path) -> None:
    library = ctypes.CDLL(str(built))
    found = {}
    shape = replace(SHAPES["bias, softcap and window"], turned=16)
    rows, bias = random_rows(shape, 1, 150), bias_of(shape, 1, 150)
    for name in SETS:
        if library.edgeprune_supports(name.encode()):
            session = open_sparse(attention_model(shape), built, name)
            found[name] = Attending(session, shape).feed(*rows, bias=bias)
    plain = found.pop("plain")
    if not found:
        pytest.skip("this processor has no other set")
    first, *others = found.values()
    for other in others:
        np.testing.assert_array_equal(other, first)
    np.testing.assert_allclose(plain, first, rtol=0, atol=tolerance(shape))


def test_eight_callers_of_one_session_agree_with_one(built: Path) -> None:
    shape = SHAPES["grouped"]
    session = open_sparse(attention_model(shape), built, threads=2)
    given_rows = [random_rows(shape, 1, 3 + 40 * place, seed=place) for place in range(8)]
    wanted = [Attending(session, shape).feed(*rows) for rows in given_rows]

    def often(place: int) -> list[np.ndarray]:
        return [Attending(session, shape).feed(*given_rows[place]) for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        for place, results in enumerate(pool.map(often, range(8))):
            for result in results:
                np.testing.assert_array_equal(result, wanted[place])


# Numbers that are not finite ---------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["float32", "float16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_with_numbers_that_are_not_finite_reach_only_who_sees_them(
    bad: float, cache: str, built: Path, set_name: str
) -> None:
    shape = Shape(4, 2, 16, turned=16, window=31, cache=cache)
    session = open_sparse(attention_model(shape), built, set_name)
    rows = random_rows(shape, 1, 120)
    whole = Attending(session, shape).feed(*rows)
    sees = np.arange(120)
    for part, seen in (
        (0, sees == 50),
        (1, (sees >= 50) & (sees <= 80)),
        (2, (sees >= 50) & (sees <= 80)),
    ):
        broken = [x.copy() for x in rows]
        broken[part][0, 50, 3] = bad
        found = Attending(session, shape).feed(*broken)
        heads = slice(0, 16 * (1 if part == 0 else 2))  # the query's own, or its group's
        if np.isnan(bad) or part != 1:  # a score of minus infinity is a weight of 0
            assert not np.isfinite(found[0, seen, heads]).all(-1).any()
        np.testing.assert_array_equal(found[0, ~seen], whole[0, ~seen])


def test_a_row_of_masked_keys_alone_weighs_them_alike(built: Path) -> None:
    """As softmax of the most negative numbers does: a padded row stays finite."""
    shape = replace(SHAPES["bias"], turned=0)
    rows = random_rows(shape, 1, 20)
    bias = np.full((1, 1, 20, 20), np.finfo(np.float32).min, np.float32)
    found = Attending(open_sparse(attention_model(shape), built), shape).feed(*rows, bias=bias)
    value = rows[2].reshape(20, 2, 16).repeat(2, 1).astype(np.float64)
    means = np.cumsum(value, 0) / np.arange(1, 21)[:, None, None]
    close(found[0], means.reshape(20, -1), shape)


# Calls that lie ----------------------------------------------------------------------------------

Feeds = dict[str, np.ndarray]


def good_feeds(cache: str = "float32") -> Feeds:
    """Two sequences of 3 new tokens after 5, in a past with room for 9."""
    heads, kind = (2, 2, 9), TYPES[cache]
    shape = replace(SHAPES["bias"], cache=cache)
    feeds = dict(zip(("query", "key", "value"), random_rows(shape, 2, 3), strict=True))
    feeds |= {f"past_{i}": np.zeros((*heads, 16), kind) for i in range(2)}
    if cache == "int8":
        feeds |= {f"past_{i}": np.zeros(heads, np.float32) for i in (2, 3)}
    feeds["last"], feeds["total"] = np.array([7, 6], np.int32), np.array([8], np.int32)
    feeds["cos"], feeds["sin"] = (np.ones((8, 8), np.float32) for _ in range(2))
    feeds["bias"] = np.zeros((2, 1, 3, 8), np.float32)
    return feeds


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("query", np.zeros((2, 3, 63)), r"query must be \[batch, tokens, 4 heads"),
        ("query", np.zeros((2, 3, 0)), r"query must be \[batch, tokens, 4 heads"),
        ("query", np.zeros((2, 3, 4 * 1025)), "of at most 1024 numbers"),
        ("query", np.zeros((3, 3, 64)), r"key and value must be \[3, 3, 32\]"),
        ("key", np.zeros((2, 2, 32)), r"key and value must be \[2, 3, 32\]"),
        ("value", np.zeros((2, 3, 31)), r"key and value must be \[2, 3, 32\]"),
        ("past_0", np.zeros((2, 2, 9, 15)), r"past_key and past_value must be \[2, 2, room, 16\]"),
        ("past_1", np.zeros((2, 2, 8, 16)), r"past_key and past_value must be \[2, 2, room, 16\]"),
        ("total", np.array([13], np.int32), "13 needs a past of 10 tokens"),
        ("total", np.array([2], np.int32), "2 is less than the 3 new tokens"),
        ("total", np.array([-(2**31)], np.int32), "is less than the 3 new tokens"),
        ("total", np.array([2**31 - 1], np.int32), "needs a past of 2147483644 tokens"),
        ("total", np.array([8, 8], np.int32), "must be one number"),
        ("last", np.array([7], np.int32), r"seqlens_k must be \[2\]"),
        ("last", np.array([7, 8], np.int32), "seqlens_k 8 of sequence 1 must be from 2 to 7"),
        ("last", np.array([1, 7], np.int32), "seqlens_k 1 of sequence 0 must be from 2 to 7"),
        ("last", np.array([-(2**31), 7], np.int32), "must be from 2 to 7"),
        ("cos", np.ones((7, 8)), r"cos must be \[at least 8 positions, 1 to 8\]"),
        ("cos", np.ones((9, 9)), r"cos must be \[at least 8 positions, 1 to 8\]"),
        ("sin", np.ones((8, 7)), "sin must have the shape of cos"),
        ("bias", np.zeros((2, 1, 3, 7)), r"attention_bias must be \[2 or 1, 4 or 1, 3 or 1, 8\]"),
        ("bias", np.zeros((3, 1, 3, 8)), r"attention_bias must be \[2 or 1, 4 or 1, 3 or 1, 8\]"),
        ("bias", np.zeros(8), r"attention_bias must be \["),
    ],
)
def test_hostile_calls_are_refused(
    name: str, value: np.ndarray, sentence: str, built: Path
) -> None:
    session = open_sparse(loose(attention_model(SHAPES["bias"])), built)
    feeds = good_feeds()
    assert session.run(None, feeds)[0].shape == (2, 3, 64)
    feeds[name] = value.astype(np.int32 if name in ("last", "total") else np.float32)
    with pytest.raises(Exception, match=f"edgeprune::RowAttention: .*{sentence}"):
        session.run(None, feeds)


def test_hostile_scales_are_refused(built: Path) -> None:
    model = loose(attention_model(replace(SHAPES["bias"], cache="int8")))
    feeds = good_feeds("int8")
    session = open_sparse(model, built)
    assert session.run(None, feeds)[3].shape == (2, 2, 9)
    for place in (2, 3):
        wrong = feeds | {f"past_{place}": np.zeros((2, 2, 8), np.float32)}
        with pytest.raises(
            Exception, match=r"past_key_scale and past_value_scale must be \[2, 2, room"
        ):
            session.run(None, wrong)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_heads": 0}, "num_heads 0 must be a multiple of kv_num_heads 2"),
        ({"num_heads": 5}, "num_heads 5 must be a multiple"),
        ({"num_heads": 2**62}, "and at most 65536"),
        ({"kv_num_heads": -1}, "kv_num_heads -1"),
        ({"num_heads": 4.0}, "the attribute num_heads must be an integer"),
        ({"scale": 1}, "the attribute scale must be a float"),
        ({"scale": float("nan")}, "scale and softcap must be finite"),
        ({"softcap": -1.0}, "softcap not negative"),
        ({"local_window_size": -2}, "local_window_size must be positive, or -1"),
        ({"local_window_size": 0}, "local_window_size must be positive, or -1"),
        ({"causal": 0, "local_window_size": 3}, "give the window as attention_bias"),
        ({"smooth_softmax": 1}, "are not supported"),
        ({"rotary_interleaved": 1}, "are not supported"),
    ],
)
def test_hostile_attributes_are_refused_at_load(
    change: dict[str, float], sentence: str, built: Path
) -> None:
    model = attention_model(SHAPES["bias"])
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name not in change]
    del node.attribute[:]
    node.attribute.extend(kept + [helper.make_attribute(n, v) for n, v in change.items()])
    with pytest.raises(Exception, match=f"edgeprune::RowAttention: .*{sentence}"):
        open_sparse(model, built)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ({2}, "key and value are given together"),
        ({4}, "past_key and past_value are given together"),
        ({6}, "a past needs causal 1 and total_sequence_length"),
        ({8}, "do_rotary 1 needs cos and sin"),
        ({3, 4}, "8 needs a past of 5 tokens"),
    ],
)
def test_hostile_nodes_without_an_input_are_refused(
    missing: set[int], sentence: str, built: Path
) -> None:
    model = loose(attention_model(SHAPES["bias"]))
    node = model.graph.node[0]
    inputs = ["" if place in missing else name for place, name in enumerate(node.input)]
    del node.input[:]
    node.input.extend(inputs)
    with pytest.raises(Exception, match=f"edgeprune::RowAttention: .*{sentence}"):
        open_sparse(model, built).run(None, good_feeds())


def test_hostile_presents_in_half_of_the_memory_are_refused(built: Path) -> None:
    session = open_sparse(loose(attention_model(SHAPES["bias"])), built)
    binding = session.io_binding()
    held = {n: onnxruntime.OrtValue.ortvalue_from_numpy(v) for n, v in good_feeds().items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y")
    binding.bind_ortvalue_output("present_0", held["past_0"])
    binding.bind_output("present_1")
    with pytest.raises(Exception, match="either every present is in its past's memory"):
        session.run_with_iobinding(binding)


def test_no_tokens_and_no_sequences(built: Path) -> None:
    shape = Shape(4, 2, 16, turned=16)
    session = open_sparse(attention_model(shape), built)
    rows = random_rows(shape, 2, 6)
    attending = Attending(session, shape, 2)
    attending.feed(*rows)
    before = attending.cache
    assert attending.feed(*(x[:, :0] for x in rows)).shape == (2, 0, 64)
    for kept, held in zip(attending.cache, before, strict=True):
        np.testing.assert_array_equal(kept, held)
    nobody = [x[:0] for x in rows]
    found = session.run(
        ["y"],
        dict(zip(("query", "key", "value"), nobody, strict=True))
        | {f"past_{i}": np.zeros((0, 2, 0, 16), np.float32) for i in range(2)}
        | {"last": np.zeros(0, np.int32), "total": np.array([6], np.int32)}
        | dict(zip(("cos", "sin"), tables(shape), strict=True)),
    )
    assert found[0].shape == (0, 6, 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cache": "int4"}, "no cache of 'int4'"),
        ({"past": ["a"]}, "has 2 tensors"),
        ({"past": ["a", "b"], "present": ["c", "d"]}, "a past needs"),
        ({"key": "k"}, "key and value are given together"),
    ],
)
def test_a_node_refuses_what_contradicts_itself(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_row_attention("n", "q", "y", num_heads=2, kv_num_heads=1, **change)


@pytest.mark.slow
def test_a_thousand_sessions_leak_nothing(built: Path) -> None:
    shapes_ = [replace(SHAPES["grouped"], cache=cache) for cache in TYPES]
    models = [loose(attention_model(shape)) for shape in shapes_]
    rows = random_rows(shapes_[0], 1, 40)

    def cycle(times: int) -> None:
        for place in range(times):
            session = open_sparse(models[place % 3], built, threads=2)
            attending = Attending(session, shapes_[place % 3])
            attending.feed(*rows)
            with pytest.raises(Exception, match=r"query must be"):
                attending.feed(rows[0][..., :-1], *rows[1:])

    cycle(100)
    before = psutil.Process().memory_info().rss
    cycle(1000)
    assert psutil.Process().memory_info().rss - before < 8_000_000
