from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from quant_models import (
    Fused,
    QuantLinear,
    finished,
    normed,
    quant_expected,
    quant_model,
    random_norm,
    random_quant,
)
from sparse_models import open_sparse, open_stock

from edgeprune.base.errors import UserError
from edgeprune.kernels.formats import QUANT_EPILOGUES, QUANT_FORMATS, WITH_RESIDUAL
from edgeprune.kernels.node import Norm, make_quant_linear
from edgeprune.kernels.pack import alternate_halves, pack_codes, unpack_codes
from edgeprune.targets import detect

FORMATS = sorted(QUANT_FORMATS)
ROWS = (1, 2, 3, 8, 15, 64, 65)


def x_of(rows: int, inputs: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32)


@st.composite
def quantized(draw: st.DrawFn) -> QuantLinear:
    name, seed = draw(st.sampled_from(FORMATS)), draw(st.integers(0, 2**32 - 1))
    return random_quant(name, draw(st.integers(1, 300)), draw(st.integers(1, 50)), seed)


# Packing ---------------------------------------------------------------------------------------


@given(quantized())
def test_packing_loses_nothing(linear: QuantLinear) -> None:
    packed = pack_codes(linear.codes, linear.multipliers, linear.format)
    codes, multipliers = unpack_codes(packed)
    np.testing.assert_array_equal(codes, linear.codes)
    if linear.multipliers is None:
        assert multipliers is None
    else:
        np.testing.assert_array_equal(multipliers, linear.multipliers)
    assert packed.bytes == packed.format.bytes(packed.K, packed.N)


def test_a_packed_code_is_where_the_format_says() -> None:
    """Input 5 of 40, column 17 of 20: unit 1, so the high half of the first vector of strip 1."""
    codes = np.zeros((40, 20), np.int8)
    codes[5, 17] = 7
    ones = np.ones((2, 20), np.int8)
    packed = pack_codes(codes, ones, "int4-g32")
    assert packed.codes.shape == (2, 8, 64)
    [[strip, vector, byte]] = np.argwhere(packed.codes != 0x88)
    assert (strip, vector, byte, packed.codes[strip, vector, byte]) == (1, 0, 4 * 1 + 1, 0xF8)
    packed = pack_codes(codes, None, "int8")
    [[strip, vector, byte]] = np.argwhere(packed.codes != 0x80)
    assert (strip, vector, byte, packed.codes[strip, vector, byte]) == (1, 1, 4 * 1 + 1, 0x87)


def test_int4_in_groups_of_32_has_four_and_a_quarter_bits() -> None:
    assert QUANT_FORMATS["int4-g32"].bytes(1024, 512) * 8 / (1024 * 512) == 4.25


@pytest.mark.parametrize(
    ("codes", "multipliers", "name", "sentence"),
    [
        (np.zeros((4, 4), np.int8), np.ones((1, 4), np.int8), "int3", "no quantized format 'int3'"),
        (np.zeros((4, 4)), np.ones((1, 4), np.int8), "int4-g32", "this is float64"),
        (np.zeros((40, 4), np.int8), np.ones((1, 4), np.int8), "int4-g32", r"int8 \[2, 4\]"),
        (np.full((4, 4), 8, np.int8), np.ones((1, 4), np.int8), "int4-g32", "from -8 to 7"),
        (np.zeros((4, 4), np.int8), np.full((1, 4), -16, np.int8), "int4-g32", "from -15 to 15"),
        (np.zeros((4, 4), np.int8), None, "int4-g32", "there are none"),
        (np.zeros((4, 4), np.int8), np.ones((1, 4), np.int8), "int8", "no multipliers"),
        (np.zeros((131_072, 1), np.int8), None, "int8", "32 bits"),
        (np.zeros((140_000, 1), np.int8), np.full((4375, 1), 15, np.int8), "int4-g32", "32 bits"),
    ],
)
def test_packing_refuses_what_it_cannot_store(
    codes: np.ndarray, multipliers: np.ndarray | None, name: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        pack_codes(codes, multipliers, name)


@given(quantized().filter(lambda linear: linear.codes.shape[1] % 2 == 0))
def test_halves_stand_strip_beside_strip(linear: QuantLinear) -> None:
    packed = pack_codes(linear.codes, linear.multipliers, linear.format)
    stored = alternate_halves(packed)
    for part, half in enumerate(np.split(np.arange(packed.N), 2)):
        multipliers = None if linear.multipliers is None else linear.multipliers[:, half]
        alone = pack_codes(linear.codes[:, half], multipliers, linear.format)
        np.testing.assert_array_equal(stored.codes[part::2], alone.codes)
        if stored.multipliers is not None:
            np.testing.assert_array_equal(stored.multipliers[part::2], alone.multipliers)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"bias": np.zeros(3)}, "bias must have 15"),
        ({"norm": random_norm("rms", 7)}, "the norm's weight must have 8"),
        ({"norm": Norm("rms", np.ones(8), 1e-5, np.ones(8))}, "no bias"),
        ({"norm": Norm("batch", np.ones(8), 1e-5)}, "no norm 'batch'"),
        ({"epilogue": "tanh"}, "no epilogue 'tanh'"),
        ({"epilogue": "add-layer", "other": "o"}, "no epilogue 'add-layer'"),
        ({"epilogue": "add"}, "needs other"),
        ({"epilogue": "gelu", "other": "o"}, "takes no other"),
        ({"epilogue": "silu-gate"}, "as many columns of gates as of values, not 15"),
        ({"norm_after": random_norm("layer", 15)}, "follows an addition"),
        (
            {"epilogue": "add", "other": "o", "norm_after": random_norm("rms", 15)},
            "follows an addition",
        ),
    ],
)
def test_a_node_refuses_parts_that_do_not_belong_together(
    more: dict[str, Any], sentence: str
) -> None:
    linear = random_quant("int4-g32", 8, 15)
    packed = pack_codes(linear.codes, linear.multipliers, linear.format)
    with pytest.raises(ValueError, match=sentence):
        make_quant_linear("n", "x", "y", packed, linear.scales, **more)


# Products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_products_are_the_integers_bit_for_bit(name: str, built: Path, set_name: str) -> None:
    """On every set, so they agree with each other; ragged groups, blocks, units and strips."""
    for inputs, outputs in ((389, 51), (256, 32), (1, 1), (33, 17), (130, 16)):
        linear = random_quant(name, inputs, outputs)
        session = open_sparse(quant_model(linear), built, set_name)
        for rows in ROWS:
            x = x_of(rows, inputs) * np.logspace(-3, 3, rows, dtype=np.float32)[:, None]
            np.testing.assert_array_equal(session.run(None, {"x": x})[0], quant_expected(linear, x))


@pytest.mark.parametrize("name", FORMATS)
def test_the_largest_sums_are_exact(name: str, built: Path, set_name: str) -> None:
    """Codes and multipliers at their extremes, over as many inputs as 32 bits hold."""
    form = QUANT_FORMATS[name]
    inputs = 139_000 if form.group else 131_071
    codes = np.full((inputs, 2), form.lowest, np.int8)
    multipliers = None
    if form.group:
        multipliers = np.full((-(-inputs // form.group), 2), 15, np.int8)
        multipliers[:, 1] = -15
    vectors = np.ones(2, np.float32), np.zeros(2, np.float32)
    linear = QuantLinear(name, codes, multipliers, *vectors)
    session = open_sparse(quant_model(linear), built, set_name)
    for rows in (2, 16):
        x = np.ones((rows, inputs), np.float32)
        x[1::2] *= -1
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], quant_expected(linear, x))


@given(linear=quantized(), rows=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_products_of_any_shape(linear: QuantLinear, rows: int, seed: int, built: Path) -> None:
    x = x_of(rows, len(linear.codes), seed) * np.float32(10.0 ** (seed % 60 - 40))
    best = open_sparse(quant_model(linear), built)
    np.testing.assert_array_equal(best.run(None, {"x": x})[0], quant_expected(linear, x))


@given(linear=quantized(), cut=st.integers(1, 20))
@settings(max_examples=20)
def test_a_row_does_not_depend_on_the_rows_beside_it(
    linear: QuantLinear, cut: int, built: Path
) -> None:
    x = x_of(21, len(linear.codes))
    session = open_sparse(quant_model(linear), built)
    parts = [session.run(None, {"x": part})[0] for part in (x[:cut], x[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), session.run(None, {"x": x})[0])


def test_quantization_rounds_halves_to_even(built: Path, set_name: str) -> None:
    """(k + 1/2) steps for many k, where a product with 1 / scale rounds the other way."""
    unit = QuantLinear(
        "int8",
        np.eye(133, dtype=np.int8),
        None,
        np.ones(133, np.float32),
        np.zeros(133, np.float32),
    )
    session = open_sparse(quant_model(unit), built, set_name)
    for step in (1.0, 0.1, 3e-7, 1e-38):
        x = ((np.arange(133) - 66.5) * step).astype(np.float32)
        x[0] = 127 * step
        np.testing.assert_array_equal(
            session.run(None, {"x": x[None]})[0], quant_expected(unit, x[None])
        )


def test_rows_of_zeros_and_of_the_smallest_numbers(built: Path, set_name: str) -> None:
    linear = random_quant("int4-g32", 40, 20)
    x = np.zeros((4, 40), np.float32)
    x[1, 3], x[2, :5], x[3] = 1e-45, 2.7e-43, -3e38
    y = open_sparse(quant_model(linear), built, set_name).run(None, {"x": x})[0]
    np.testing.assert_array_equal(y, quant_expected(linear, x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_gives_nan_and_no_other_row_does(
    bad: float, built: Path, set_name: str
) -> None:
    linear = random_quant("int8", 70, 20)
    x = x_of(3, 70)
    x[1, 69] = bad
    y = open_sparse(quant_model(linear), built, set_name).run(None, {"x": x})[0]
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], quant_expected(linear, x[[0, 2]]))


def test_more_dimensions_and_no_rows(built: Path) -> None:
    linear = random_quant("int4-g128", 20, 30)
    model = quant_model(linear)
    for value, width in ((model.graph.input[0], 20), (model.graph.output[0], 30)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, ["a", "b", width]))
    session = open_sparse(model, built)
    x = x_of(6, 20)
    y = session.run(None, {"x": x.reshape(2, 3, 20)})[0]
    np.testing.assert_array_equal(y.reshape(6, 30), quant_expected(linear, x))
    assert session.run(None, {"x": np.zeros((2, 0, 20), np.float32)})[0].shape == (2, 0, 30)


# Norms and epilogues ---------------------------------------------------------------------------

ENDS = [*QUANT_EPILOGUES]
NORMS = [None, "rms", "layer"]


def fused_of(norm: str | None, end: str, inputs: int, outputs: int) -> Fused:
    return Fused(
        random_norm(norm, inputs) if norm else None,
        end.removesuffix("-layer"),
        random_norm("layer", outputs) if end == "add-layer" else None,
    )


def feed_of(fused: Fused, x: np.ndarray, outputs: int) -> dict[str, np.ndarray]:
    return {"x": x} | (
        {"other": x_of(len(x), outputs, 2)} if fused.epilogue in WITH_RESIDUAL else {}
    )


def unit_linear(inputs: int, outputs: int) -> QuantLinear:
    """Column n is input n % inputs."""
    codes = np.zeros((inputs, outputs), np.int8)
    codes[np.arange(outputs) % inputs, np.arange(outputs)] = 1
    return QuantLinear(
        "int8", codes, None, np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    )


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", FORMATS)
def test_epilogues_agree_with_float64(name: str, end: str, built: Path, set_name: str) -> None:
    """Few rows and many, whole strips and ragged ones, products from about -60 to 60."""
    for inputs, outputs in ((70, 64), (33, 42)):
        linear = random_quant(name, inputs, outputs)
        linear.scales *= np.float32(60 / np.abs(quant_expected(linear, x_of(20, inputs))).max())
        fused = fused_of(None, end, inputs, outputs)
        session = open_sparse(quant_model(linear, fused), built, set_name)
        for rows in (1, 5, 20):
            x = x_of(rows, inputs)
            feed = feed_of(fused, x, outputs)
            wanted = finished(fused, quant_expected(linear, x), feed.get("other"))
            y = session.run(None, feed)[0]
            np.testing.assert_allclose(y, wanted, rtol=3e-6, atol=3e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_norm_of_x_agrees_with_float64(kind: str, built: Path, set_name: str) -> None:
    """Through a unit matrix the result is the norm, but for half a step of its 127."""
    for inputs in (1, 31, 133):
        norm = random_norm(kind, inputs)
        linear = unit_linear(inputs, inputs)
        session = open_sparse(quant_model(linear, Fused(norm)), built, set_name)
        x = 3 * x_of(5, inputs) + 1
        wanted = normed(norm, x)
        step = np.abs(wanted).max(1, keepdims=True) / 127
        assert np.all(np.abs(session.run(None, {"x": x})[0] - wanted) <= 0.5001 * step)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_are_the_same_on_every_set(kind: str, built: Path, set_name: str) -> None:
    """And so the whole result, where nothing but sums follows."""
    linear = random_quant("int4-g32", 389, 50)
    fused = fused_of(kind, "add-layer", 389, 50)
    model, feed = quant_model(linear, fused), feed_of(fused, x_of(20, 389), 50)
    plain = open_sparse(model, built, "plain").run(None, feed)[0]
    np.testing.assert_array_equal(open_sparse(model, built, set_name).run(None, feed)[0], plain)


@given(
    linear=quantized().filter(lambda linear: linear.codes.shape[1] % 2 == 0),
    norm=st.sampled_from(NORMS),
    end=st.sampled_from(ENDS),
    cut=st.integers(1, 20),
)
@settings(max_examples=40)
def test_a_row_of_any_fusion_does_not_depend_on_the_rows_beside_it(
    linear: QuantLinear, norm: str | None, end: str, cut: int, built: Path
) -> None:
    inputs, outputs = linear.codes.shape
    fused = fused_of(norm, end, inputs, outputs)
    one, two = (open_sparse(quant_model(linear, fused), built, threads=n) for n in (1, 2))
    feed = feed_of(fused, x_of(21, inputs), outputs)
    parts = [
        one.run(None, {name: value[rows] for name, value in feed.items()})[0]
        for rows in (slice(cut), slice(cut, None))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), two.run(None, feed)[0])


# Where the library is not ----------------------------------------------------------------------


VNNI_OR_NOT = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not detect().vnni, reason="needs VNNI")),
]


@pytest.mark.parametrize("vnni", VNNI_OR_NOT)
@given(linear=quantized(), rows=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_a_stock_runtime_answers_the_same_bits(
    vnni: bool, linear: QuantLinear, rows: int, seed: int, built: Path
) -> None:
    model = quant_model(linear, vnni=vnni)
    x = x_of(rows, len(linear.codes), seed) * np.float32(10.0 ** (seed % 30 - 20))
    x[0] = 0
    x[rows // 2, 0] = (1, np.nan, np.inf)[seed % 3]
    ours, theirs = (
        session.run(None, {"x": x})[0] for session in (open_sparse(model, built), open_stock(model))
    )
    # What is not finite has no code: such a row has no result, and of one with a NaN, which its
    # largest value passes over, a stock runtime makes something up.
    finite = np.isfinite(x).all(1)
    np.testing.assert_array_equal(theirs[finite], ours[finite])
    assert not np.isfinite(ours[~finite]).any()
    assert not np.isfinite(theirs[np.isinf(x).any(1)]).any()


@pytest.mark.parametrize("vnni", VNNI_OR_NOT)
@pytest.mark.parametrize("name", FORMATS)
def test_a_stock_runtime_folds_the_function_to_one_product(
    name: str, vnni: bool, tmp_path: Path
) -> None:
    linear = random_quant(name, 101, 77)
    open_stock(quant_model(linear, vnni=vnni), tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    kept = [node.op_type for node in graph.node]
    products = ["MatMulIntegerToFloat"] if vnni else ["MatMulInteger", "Cast", "Mul"]
    quantized = ["Abs", "ReduceMax", "Div", "Div", "QuantizeLinear"]
    assert kept == [*quantized, *products, "Mul", "Add"]
    [weight] = [t for t in graph.initializer if list(t.dims) == [101, 77]]
    assert weight.data_type == (onnx.TensorProto.INT8 if vnni else onnx.TensorProto.UINT8)
    stored = numpy_helper.to_array(weight).astype(np.int64)
    np.testing.assert_array_equal(stored - (0 if vnni else 128), linear.whole)


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("end", ENDS)
def test_every_function_answers_as_its_operator(
    end: str, norm: str | None, opset: int, built: Path
) -> None:
    """INT8 rounding amplifies a last bit of a norm to a step of one code."""
    for name, vnni in (("int4-g32", False), ("int8", detect().vnni)):
        linear = random_quant(name, 60, 40)
        fused = fused_of(norm, end, 60, 40)
        model = quant_model(linear, fused, opset, vnni)
        feed = feed_of(fused, x_of(9, 60), 40)
        y, stock = (s.run(None, feed)[0] for s in (open_sparse(model, built), open_stock(model)))
        steps = 2e-2 if norm else 1e-5
        np.testing.assert_allclose(y, stock, rtol=1e-5, atol=steps * np.abs(stock).max())
        assert np.median(np.abs(y - stock)) <= 1e-5 * np.abs(stock).max()


def test_a_layer_norm_needs_its_operator_set() -> None:
    linear = random_quant("int8", 60, 40)
    with pytest.raises(ValueError, match="need operator set 17, and this is 16"):
        quant_model(linear, Fused(random_norm("layer", 60)), 16)


# Tensors that lie ------------------------------------------------------------------------------

Damage = Callable[[onnx.ModelProto], onnx.ModelProto]


def changed(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(model: onnx.ModelProto) -> onnx.ModelProto:
        [tensor] = [t for t in model.graph.initializer if t.name == f"linear/{part}"]
        value = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return model

    return damage


def with_attribute(name: str, value: float) -> Damage:
    def damage(model: onnx.ModelProto) -> onnx.ModelProto:
        [entry] = [a for a in model.graph.node[0].attribute if a.name == name]
        if entry.type == onnx.AttributeProto.FLOAT:
            entry.f = value
        else:
            entry.i = int(value)
        return model

    return damage


def one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """The last number is another."""

    def change(array: np.ndarray) -> np.ndarray:
        array.flat[-1] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (changed("codes", lambda a: a[:-1]), r"the codes must be uint8 \[3, \d+, 64\]"),
        (changed("codes", lambda a: a[:, :-1]), r"the codes must be uint8 \[3, \d+, 64\]"),
        (changed("codes", np.ravel), r"the codes must be uint8 \["),
        (changed("codes", lambda a: a[:0]), r"the codes must be uint8 \["),
        (changed("scales", lambda a: a[:-1]), r"the scales must be float32 \[40\]"),
        (changed("scales", one(np.nan)), r"the scales must be finite: float32 \[40\]"),
        (changed("bias", one(np.inf)), r"the bias must be finite: float32 \[40\]"),
        (changed("bias", np.atleast_2d), r"the bias must be float32 \[40\]"),
        (with_attribute("K", 4000), r"the codes must be uint8 \["),
        (with_attribute("K", 0), "K 0 and N 40 must be from 1"),
        (with_attribute("N", 2**62), "must be from 1 to"),
    ],
    ids=[
        "a strip too few",
        "a vector too few",
        "flat codes",
        "no codes",
        "scales too short",
        "a scale of NaN",
        "an infinite bias",
        "a square bias",
        "K too great",
        "no inputs",
        "N too great",
    ],
)
@pytest.mark.parametrize("name", ["int4-g32", "int8"])
def test_hostile_tensors_are_refused_at_load(
    name: str, damage: Damage, sentence: str, built: Path
) -> None:
    model = damage(quant_model(random_quant(name, 50, 40)))
    with pytest.raises(Exception, match=f"edgeprune::QuantLinear.*{sentence}"):
        open_sparse(model, built)


OF_GROUPS = [
    (changed("multipliers", lambda a: a[:, :0]), r"the multipliers must be int8 \[3, \d, 16\]"),
    (changed("multipliers", one(16)), "column 47 has 16"),
    (changed("multipliers", one(-128)), "column 47 has -128"),
    (with_attribute("group", 0), "group must be 32 or 128, not 0"),
]


@pytest.mark.parametrize(
    ("damage", "sentence"), OF_GROUPS, ids=["none", "too great", "too low", "no group"]
)
@pytest.mark.parametrize("name", [name for name in FORMATS if QUANT_FORMATS[name].group])
def test_hostile_multipliers_are_refused_at_load(
    name: str, damage: Damage, sentence: str, built: Path
) -> None:
    model = damage(quant_model(random_quant(name, 50, 40)))
    with pytest.raises(Exception, match=f"edgeprune::QuantLinear.*{sentence}"):
        open_sparse(model, built)


FUSED = Fused(random_norm("layer", 50), "add", random_norm("layer", 40))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (changed("norm_weight", lambda a: a[:-1]), r"the norm's weight must be float32 \[50\]"),
        (changed("norm_bias", one(np.nan)), r"the norm's bias must be finite: float32 \[50\]"),
        (
            changed("after_weight", one(np.inf)),
            r"the norm after the product's weight must be finite: float32 \[40\]",
        ),
        (
            changed("after_bias", lambda a: a[:0]),
            r"the norm after the product's bias must be float32 \[40\]",
        ),
        (with_attribute("epsilon", -1.0), "the norm's epsilon must be finite and not below 0"),
        (with_attribute("epsilon_after", np.nan), "the norm after the product's epsilon must be"),
    ],
)
def test_hostile_norms_are_refused_at_load(damage: Damage, sentence: str, built: Path) -> None:
    model = damage(quant_model(random_quant("int8", 50, 40), FUSED))
    with pytest.raises(Exception, match=f"LayerNormQuantLinearInt8AddLayerNorm.*{sentence}"):
        open_sparse(model, built)


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_gated_tensors_are_refused_at_load(name: str, built: Path) -> None:
    """N counts the columns of the result, and there are strips for two parts."""
    model = quant_model(random_quant(name, 50, 80), Fused(epilogue="silu-gate"))
    for damage, sentence in (
        (with_attribute("N", 80), r"the codes must be uint8 \[10, \d+, 64\]"),
        (changed("codes", lambda a: a[:-1]), r"the codes must be uint8 \[6, \d+, 64\]"),
        (changed("scales", lambda a: a[:40]), r"the scales must be float32 \[80\]"),
    ):
        damaged = onnx.ModelProto()
        damaged.CopyFrom(model)
        with pytest.raises(Exception, match=f"SiluGate.*{sentence}"):
            open_sparse(damage(damaged), built)


def test_sums_that_can_exceed_32_bits_are_refused(built: Path) -> None:
    ones = QuantLinear(
        "int4-g128",
        np.ones((140_000, 1), np.int8),
        np.ones((1094, 1), np.int8),
        np.ones(1, np.float32),
        np.zeros(1, np.float32),
    )
    model = changed("multipliers", lambda a: a * 15)(quant_model(ones))
    with pytest.raises(Exception, match="sums of column 0 can exceed 32 bits"):
        open_sparse(model, built)
    int8 = quant_model(random_quant("int8", 131_071, 1))
    longer = changed("codes", lambda a: a)(with_attribute("K", 131_072)(int8))
    with pytest.raises(Exception, match="sums of 131072 inputs can exceed 32 bits"):
        open_sparse(longer, built)


def test_weights_that_are_not_constant_are_refused(built: Path) -> None:
    model = quant_model(random_quant("int4-g32", 18, 40))
    [codes] = [t for t in model.graph.initializer if t.name == "linear/codes"]
    model.graph.initializer.remove(codes)
    model.graph.input.append(helper.make_tensor_value_info("linear/codes", 2, [3, 4, 64]))
    with pytest.raises(Exception, match="the codes must be an initializer"):
        open_sparse(model, built)


def test_inputs_of_another_shape_are_refused_when_run(built: Path) -> None:
    model = quant_model(random_quant("int4-g32", 18, 40))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, ["a", "b"]))
    with pytest.raises(Exception, match="x must end with a dimension of 18"):
        open_sparse(model, built).run(None, {"x": x_of(2, 17)})
    for outputs, end in ((40, "add"), (40, "add-layer")):
        model = quant_model(random_quant("int8", 18, 40), fused_of(None, end, 18, outputs))
        for value in model.graph.input:
            value.CopyFrom(helper.make_tensor_value_info(value.name, 1, ["a", "b"]))
        with pytest.raises(Exception, match="other must have the result's shape"):
            open_sparse(model, built).run(None, {"x": x_of(2, 18), "other": x_of(1, 40)})


# Threads, memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_two_threads_give_what_one_gives(name: str, built: Path) -> None:
    linear = random_quant(name, 700, 1000)
    one, two = (open_sparse(quant_model(linear), built, threads=threads) for threads in (1, 2))
    for rows in (1, 20, 300):
        x = x_of(rows, 700)
        np.testing.assert_array_equal(one.run(None, {"x": x})[0], two.run(None, {"x": x})[0])


def test_eight_callers_of_one_session_agree_with_one(built: Path) -> None:
    linear = random_quant("int4-g32", 300, 200)
    session = open_sparse(quant_model(linear), built, threads=2)
    feeds = [{"x": x_of(1 + 13 * place, 300, seed=place)} for place in range(8)]

    def often(place: int) -> list[np.ndarray]:
        return [session.run(None, feeds[place])[0] for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for place, results in enumerate(pool.map(often, range(8))):
            wanted = quant_expected(linear, feeds[place]["x"])
            for result in results:
                np.testing.assert_array_equal(result, wanted)


@pytest.mark.slow
def test_a_thousand_sessions_leak_nothing(built: Path) -> None:
    models = [quant_model(random_quant(name, 400, 400)) for name in FORMATS]
    hostile = changed("multipliers", one(16))(quant_model(random_quant("int4-g32", 400, 400)))
    x = x_of(20, 400)

    def cycle(times: int) -> None:
        for place in range(times):
            open_sparse(models[place % len(models)], built, threads=2).run(None, {"x": x})
            with pytest.raises(Exception, match="has 16"):
                open_sparse(hostile, built)

    cycle(100)
    before = psutil.Process().memory_info().rss
    cycle(1000)
    assert psutil.Process().memory_info().rss - before < 8_000_000
