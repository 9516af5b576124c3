import ctypes
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper, numpy_helper
from scipy.special import erf, expit
from sparse_models import (
    SETS,
    Linear,
    model_of,
    open_sparse,
    open_stock,
    random_linear,
    sparse_model,
    stock_quantizer,
)

from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.kernels import compile as compiling
from edgeprune.kernels import library, register
from edgeprune.kernels.formats import EPILOGUES, FORMATS, WITH_OTHER
from edgeprune.kernels.node import Quantized, make_sparse_linear
from edgeprune.kernels.pack import pack, unpack

ROWS = (1, 7, 16, 33, 64, 128, 200)
UNIT = 133  # two steps of the widest set's quantization, and some values left over
INT8 = [name for name, form in FORMATS.items() if form.dtype == "int8"]


def x_of(rows: int, inputs: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32)


def expected(linear: Linear, x: np.ndarray) -> np.ndarray:
    """The product in float64; for INT8 of the codes that the stock quantizer gives."""
    whole = x.astype(np.float64)
    if linear.scales is not None:
        codes, scale, zero = stock_quantizer(x.shape[1]).run(None, {"x": x})
        whole = (codes.astype(np.float64) - float(zero)) * float(scale)
    return whole @ linear.matrix + linear.bias


def assert_close(linear: Linear, x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> None:
    """Within the rounding of float32 sums: INT8 sums are exact, and only scaled."""
    assert y.shape == wanted.shape
    terms = np.abs(x).astype(np.float64) @ np.abs(linear.matrix) + np.abs(linear.bias)
    steps = 4 if linear.scales is not None else 4 + np.sqrt(len(linear.weight)) * 4
    assert np.all(np.abs(y - wanted) <= steps * np.finfo(np.float32).eps * (terms + np.abs(wanted)))


# Packing ---------------------------------------------------------------------------------------


@st.composite
def packable(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    name = draw(st.sampled_from(sorted(FORMATS)))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    dtype = FORMATS[name].dtype
    elements = st.integers(-128, 127) if dtype == "int8" else st.sampled_from([1.5, -2.0, 1e-40])
    return name, draw(npst.arrays(dtype, shape, elements=elements, fill=st.just(0)))


@given(packable())
def test_packing_loses_nothing(case: tuple[str, np.ndarray]) -> None:
    name, weight = case
    packed = pack(weight, name)
    np.testing.assert_array_equal(unpack(packed), weight)
    assert packed.values.any(axis=(1, 2)).all()  # no block of zeros is stored
    assert np.unpackbits(packed.mask).sum() == len(packed.values)


def test_a_packed_block_is_where_the_format_says() -> None:
    weight = np.zeros((12, 40), np.int8)
    weight[4:8, 16:32] = np.arange(64).reshape(4, 16)
    packed = pack(weight, "int8-4x16")
    assert packed.mask.tolist() == [[0], [0b010], [0]]
    np.testing.assert_array_equal(packed.values, [np.arange(64).reshape(4, 16).T])
    assert packed.sparsity == pytest.approx(8 / 9)


def test_packing_refuses_what_it_cannot_store() -> None:
    with pytest.raises(UserError, match="no sparse format '2:4'"):
        pack(np.zeros((4, 4), np.int8), "2:4")
    with pytest.raises(UserError, match=r"int8-4x1 stores a matrix of int8.*float32 \[4, 4\]"):
        pack(np.zeros((4, 4), np.float32), "int8-4x1")


def test_a_node_refuses_parts_that_do_not_belong_together() -> None:
    linear = random_linear("int8-4x16", 8, 16, 0.5)
    packed = pack(linear.weight, linear.format)
    with pytest.raises(ValueError, match="scales"):
        make_sparse_linear("n", "x", "y", packed)
    with pytest.raises(ValueError, match="epilogue add needs other"):
        make_sparse_linear("n", "x", "y", packed, scales=linear.scales, epilogue="add")
    with pytest.raises(ValueError, match="bias must have 16"):
        make_sparse_linear("n", "x", "y", packed, scales=linear.scales, bias=np.zeros(3))
    plain = random_linear("float32-1x1", 8, 16, 0.5)
    with pytest.raises(ValueError, match="int8 weights"):
        make_sparse_linear("n", Quantized("a", "b", "c"), "y", pack(plain.weight, plain.format))


# Products --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", FORMATS)
def test_products_agree_with_float64(
    name: str, sparsity: float, built: Path, set_name: str
) -> None:
    # 389 inputs make more than one chunk of every unit; 51 columns a ragged group.
    for inputs, outputs in ((389, 51), (64, 32), (1, 1), (5, 17)):
        linear = random_linear(name, inputs, outputs, sparsity)
        session = open_sparse(sparse_model(linear), built, set_name)
        for rows in ROWS:
            x = x_of(rows, inputs)
            assert_close(linear, x, session.run(None, {"x": x})[0], expected(linear, x))


@given(
    name=st.sampled_from(sorted(FORMATS)),
    inputs=st.integers(1, 450),
    outputs=st.integers(1, 300),
    rows=st.integers(1, 80),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_products_of_any_shape(
    name: str, inputs: int, outputs: int, rows: int, sparsity: float, seed: int, built: Path
) -> None:
    linear = random_linear(name, inputs, outputs, sparsity, seed)
    x = x_of(rows, inputs, seed) * np.float32(10.0 ** (seed % 7 - 3)) + np.float32(seed % 3 - 1)
    best = open_sparse(sparse_model(linear), built)
    assert_close(linear, x, best.run(None, {"x": x})[0], expected(linear, x))


def test_more_dimensions_and_no_rows(built: Path) -> None:
    linear = random_linear("int8-4x16", 20, 30, 0.5)
    model = sparse_model(linear)
    for value, width in ((model.graph.input[0], 20), (model.graph.output[0], 30)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, ["a", "b", width]))
    session = open_sparse(model, built)
    x = x_of(6, 20)
    y = session.run(None, {"x": x.reshape(2, 3, 20)})[0]
    assert_close(linear, x, y.reshape(6, 30), expected(linear, x))
    assert session.run(None, {"x": np.zeros((2, 0, 20), np.float32)})[0].shape == (2, 0, 30)


_ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": lambda y, other: y,
    "gelu": lambda y, other: y * (1 + erf(y / np.sqrt(2))) / 2,
    "gelu-tanh": lambda y, other: y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))) / 2,
    "silu-mul": lambda y, other: y * expit(y) * other,
    "add": lambda y, other: y + other,
}


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues_agree_with_float64(epilogue: str, built: Path, set_name: str) -> None:
    """Values from -60 to 60, over one ragged group and a whole one."""
    for name in ("float32-1x16", "float32-1x1"):
        weight = np.zeros((1, 21), np.float32)
        weight[0] = np.linspace(-1, 1, 21)
        linear = Linear(name, weight, None, np.zeros(21, np.float32))
        session = open_sparse(sparse_model(linear, epilogue), built, set_name)
        for rows in (1, 40):
            x = np.linspace(60, 0.01, rows, dtype=np.float32)[:, None]
            feed = {"x": x}
            other = x_of(rows, 21)
            if epilogue in WITH_OTHER:
                feed["other"] = other
            wanted = _ORACLES[epilogue](x.astype(np.float64) @ weight, other.astype(np.float64))
            y = session.run(None, feed)[0]
            np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-6)


@pytest.fixture(scope="module")
def quantizer() -> onnxruntime.InferenceSession:
    return stock_quantizer(UNIT)


@pytest.fixture(scope="module")
def unit_sessions(built: Path) -> list[onnxruntime.InferenceSession]:
    """A unit matrix, on every instruction set that is here."""
    unit = Linear(
        "int8-4x16", np.eye(UNIT, dtype=np.int8), np.ones(UNIT, np.float32), np.zeros(UNIT)
    )
    there = [name for name in SETS if ctypes.CDLL(str(built)).edgeprune_supports(name.encode())]
    return [open_sparse(sparse_model(unit), built, name) for name in there]


@given(
    x=npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(UNIT)),
        elements=st.one_of(
            st.floats(-1e3, 1e3, width=32),
            st.integers(-510, 510).map(lambda n: n / 2),  # many land half way between two codes
            st.sampled_from([0.0, -0.0, 1e-38, -1e-45, 3e38]),
        ),
    )
)
@settings(max_examples=150)
def test_quantization_is_the_stock_one_bit_for_bit(
    x: np.ndarray,
    unit_sessions: list[onnxruntime.InferenceSession],
    quantizer: onnxruntime.InferenceSession,
) -> None:
    """Through a unit matrix the result is (code - zero point) * scale, a single rounding."""
    codes, scale, zero = quantizer.run(None, {"x": x})
    wanted = (codes.astype(np.int32) - int(zero)).astype(np.float32) * scale
    for session in unit_sessions:
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], wanted)


@given(step=st.floats(2**-13, 2**13, width=32))
@settings(max_examples=60)
def test_values_half_way_between_codes_round_as_the_stock_ones(
    step: float,
    unit_sessions: list[onnxruntime.InferenceSession],
    quantizer: onnxruntime.InferenceSession,
) -> None:
    """(k + 1/2) steps for every code k: here a product with 1 / scale rounds the other way."""
    x = np.zeros(7 * UNIT, np.float32)
    x[:255] = (np.arange(255) + 0.5) * step
    x[255] = 255 * step
    x = x.reshape(7, UNIT)
    codes, scale, zero = quantizer.run(None, {"x": x})
    wanted = (codes.astype(np.int32) - int(zero)).astype(np.float32) * scale
    for session in unit_sessions:
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], wanted)


@pytest.mark.parametrize("name", INT8)
def test_one_quantization_serves_several_linears(name: str, built: Path, set_name: str) -> None:
    linear = random_linear(name, 101, 77, 0.6)
    alone = open_sparse(sparse_model(linear), built, set_name)
    shared = open_sparse(sparse_model(linear, way="shared"), built, set_name)
    for rows in (1, 33):
        x = x_of(rows, 101) + 0.3
        np.testing.assert_array_equal(alone.run(None, {"x": x})[0], shared.run(None, {"x": x})[0])


@pytest.mark.parametrize("name", INT8)
def test_a_scale_for_each_row(name: str, built: Path, set_name: str) -> None:
    """Rows of very different sizes, against float64 of the codes that their own scales give."""
    linear = random_linear(name, 101, 77, 0.6)
    session = open_sparse(sparse_model(linear, way="rows"), built, set_name)
    for rows in ROWS:
        x = x_of(rows, 101) * np.logspace(-3, 3, rows, dtype=np.float32)[:, None]
        scales = np.abs(x).max(1, keepdims=True) * np.float32(1 / 127)
        codes = np.rint(x / scales).astype(np.float64)
        wanted = (codes * scales) @ linear.matrix + linear.bias
        assert_close(linear, x, session.run(None, {"x": x})[0], wanted)


def test_scales_of_other_rows_are_refused(built: Path) -> None:
    model = sparse_model(random_linear("int8-4x16", 18, 40, 0.3), way="rows")
    for node in model.graph.node:
        if node.op_type == "ReduceMax":
            node.attribute[0].ints[0] = 0
    with pytest.raises(Exception, match="a scale of x for each of its rows"):
        open_sparse(model, built).run(None, {"x": x_of(3, 18)})


# Where the library is not ----------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("name", FORMATS)
def test_a_stock_runtime_folds_the_function_to_one_product(
    name: str, sparsity: float, built: Path, tmp_path: Path
) -> None:
    linear = random_linear(name, 101, 77, sparsity)
    model = sparse_model(linear)
    stock = open_stock(model, tmp_path / "optimized.onnx")
    kept = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kept == (["DynamicQuantizeMatMul"] if linear.scales is not None else ["Gemm"])
    sparse = open_sparse(model, built)
    for rows in (1, 33):
        x = x_of(rows, 101)
        y = stock.run(None, {"x": x})[0]
        assert_close(linear, x, y, expected(linear, x))
        np.testing.assert_allclose(sparse.run(None, {"x": x})[0], y, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("way", ["plain", "shared", "rows"])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_every_function_answers_as_its_operator(epilogue: str, way: str, built: Path) -> None:
    for name in ["int8-4x16", "float32-1x16"] if way == "plain" else INT8:
        linear = random_linear(name, 60, 40, 0.5)
        model = sparse_model(linear, epilogue, way)
        feed = {"x": x_of(9, 60)}
        if epilogue in WITH_OTHER:
            feed["other"] = x_of(9, 40, seed=2)
        stock = open_stock(model).run(None, feed)[0]
        np.testing.assert_allclose(
            open_sparse(model, built).run(None, feed)[0], stock, rtol=1e-5, atol=5e-6
        )


# Tensors that lie ------------------------------------------------------------------------------


def change(model: onnx.ModelProto, part: str, value: np.ndarray) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name == f"linear/{part}":
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


def initial(model: onnx.ModelProto, part: str) -> np.ndarray:
    [tensor] = [t for t in model.graph.initializer if t.name == f"linear/{part}"]
    return numpy_helper.to_array(tensor).copy()


def with_last_bit(model: onnx.ModelProto) -> onnx.ModelProto:
    mask = initial(model, "mask")
    mask[0, -1] |= 0x80
    return change(model, "mask", mask)


def with_attribute(name: str, value: int) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def changed(model: onnx.ModelProto) -> onnx.ModelProto:
        for entry in model.graph.node[0].attribute:
            if entry.name == name:
                entry.i = value
        return model

    return changed


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (with_last_bit, "the mask names 1 blocks beyond input 18"),
        (
            lambda m: change(m, "values", initial(m, "values")[:-1]),
            r"the mask names (\d+) blocks and there are values for (\d+)",
        ),
        (
            lambda m: change(m, "values", np.repeat(initial(m, "values"), 2, 0)),
            r"the mask names (\d+) blocks and there are values for (\d+)",
        ),
        (
            lambda m: change(m, "values", initial(m, "values")[:, :, :0]),
            "the values must be blocks",
        ),
        (lambda m: change(m, "values", initial(m, "values").ravel()), "the values must be blocks"),
        (lambda m: change(m, "mask", initial(m, "mask")[:-1]), r"the mask must be uint8 \["),
        (lambda m: change(m, "mask", initial(m, "mask").ravel()), r"the mask must be uint8 \["),
        (lambda m: change(m, "bias", np.zeros(7, np.float32)), r"the bias must be float32 \[40\]"),
        (with_attribute("K", 4000), r"the mask must be uint8 \["),
        (with_attribute("K", -1), "K -1 and N 40 must be from 1"),
        (with_attribute("N", 2**62), "must be from 1 to"),
    ],
    ids=[
        "mask beyond the inputs",
        "a block too few",
        "blocks twice",
        "empty blocks",
        "flat values",
        "mask too short",
        "flat mask",
        "bias too short",
        "K too great",
        "K below 0",
        "N too great",
    ],
)
def test_hostile_tensors_are_refused_at_load(
    name: str,
    damage: Callable[[onnx.ModelProto], onnx.ModelProto],
    sentence: str,
    built: Path,
) -> None:
    linear = random_linear(name, 18, 40, 0.3)
    model = damage(sparse_model(linear))
    with pytest.raises(Exception, match=f"edgeprune::SparseLinear.*{sentence}"):
        open_sparse(model, built)


def test_hostile_scales_are_refused(built: Path) -> None:
    model = sparse_model(random_linear("int8-4x16", 18, 40, 0.3))
    with pytest.raises(Exception, match=r"the scales must be float32 \[40\]"):
        open_sparse(change(model, "scales", np.ones(39, np.float32)), built)


def test_weights_that_are_not_constant_are_refused(built: Path) -> None:
    model = sparse_model(random_linear("int8-4x16", 18, 40, 0.3))
    [bias] = [t for t in model.graph.initializer if t.name == "linear/bias"]
    model.graph.initializer.remove(bias)
    model.graph.input.append(helper.make_tensor_value_info("linear/bias", 1, [40]))
    with pytest.raises(Exception, match="the bias must be an initializer"):
        open_sparse(model, built)


def test_inputs_of_another_shape_are_refused_when_run(built: Path) -> None:
    linear = random_linear("float32-1x16", 18, 40, 0.3)
    model = sparse_model(linear, "add")
    for value in model.graph.input:
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, ["a", "b"]))
    session = open_sparse(model, built)
    with pytest.raises(Exception, match="x must end with a dimension of 18"):
        session.run(None, {"x": x_of(2, 17), "other": x_of(2, 40)})
    with pytest.raises(Exception, match="other must have the result's shape"):
        session.run(None, {"x": x_of(2, 18), "other": x_of(1, 40)})


# Threads, memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_two_threads_give_what_one_gives(name: str, built: Path) -> None:
    """Enough rows, and enough columns for few rows, to be shared out."""
    linear = random_linear(name, 700, 1000, 0.3)
    model = sparse_model(linear, "gelu")
    one, two = (open_sparse(model, built, threads=threads) for threads in (1, 2))
    for rows in (1, 20, 300):
        x = x_of(rows, 700)
        np.testing.assert_array_equal(one.run(None, {"x": x})[0], two.run(None, {"x": x})[0])


def test_eight_callers_of_one_session_agree_with_one(built: Path) -> None:
    linear = random_linear("int8-4x1", 300, 200, 0.5)
    session = open_sparse(sparse_model(linear), built, threads=2)
    feeds = [{"x": x_of(1 + 13 * place, 300, seed=place)} for place in range(8)]
    alone = [session.run(None, feed)[0] for feed in feeds]

    def often(place: int) -> list[np.ndarray]:
        return [session.run(None, feeds[place])[0] for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for place, results in enumerate(pool.map(often, range(8))):
            for result in results:
                np.testing.assert_array_equal(result, alone[place])


def test_a_second_call_allocates_nothing_in_the_library(built: Path) -> None:
    """By the process's memory: 300 more calls of a warm session leave it where it was."""
    session = open_sparse(sparse_model(random_linear("float32-1x1", 500, 500, 0.5)), built)
    feed = {"x": x_of(100, 500)}
    for _ in range(20):
        session.run(None, feed)
    before = psutil.Process().memory_info().rss
    for _ in range(300):
        session.run(None, feed)
    assert psutil.Process().memory_info().rss - before < 500_000


@pytest.mark.slow
def test_a_thousand_sessions_leak_nothing(built: Path) -> None:
    models = [sparse_model(random_linear(name, 400, 400, 0.5)) for name in FORMATS]
    hostile = with_last_bit(sparse_model(random_linear("int8-4x1", 18, 400, 0.5)))
    x = x_of(20, 400)

    def cycle(times: int) -> None:
        for place in range(times):
            open_sparse(models[place % len(models)], built, threads=2).run(None, {"x": x})
            with pytest.raises(Exception, match="beyond input"):
                open_sparse(hostile, built)

    cycle(100)
    before = psutil.Process().memory_info().rss
    cycle(1000)
    # A leaked session would hold its weights: 100 kB at least, 100 MB in all.
    assert psutil.Process().memory_info().rss - before < 8_000_000


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined"])
def test_sanitizers_find_nothing(sanitizer: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "helpers" / "sanitize_kernels.py"
    done = subprocess.run(
        [sys.executable, str(script), sanitizer, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


# Loading and telling ---------------------------------------------------------------------------


def test_register_makes_the_operators_known(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", built)
    options = onnxruntime.SessionOptions()
    register(options)
    linear = random_linear("int8-4x16", 20, 30, 0.5)
    model = sparse_model(linear)
    del model.functions[:]  # nothing but the operator can run it
    x = x_of(3, 20)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    assert_close(linear, x, session.run(None, {"x": x})[0], expected(linear, x))


def test_register_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(UserError, match=r"not installed.*python -m edgeprune\.kernels\.compile"):
        register(onnxruntime.SessionOptions())
    (tmp_path / "none.so").write_bytes(b"no library")
    with pytest.raises(UserError, match="cannot load"):
        register(onnxruntime.SessionOptions())


def test_a_set_that_the_processor_lacks_is_refused(built: Path) -> None:
    model = sparse_model(random_linear("int8-4x16", 8, 16, 0.5))
    with pytest.raises(Exception, match="EDGEPRUNE_KERNELS names an instruction set"):
        open_sparse(model, built, "sse1")


def test_inspect_tells_of_the_system(
    built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "LIBRARY", built)
    library._loaded.cache_clear()
    monkeypatch.setenv(library.CHOICE, "plain")
    shown = CliRunner().invoke(main, ["inspect", "--system"])
    assert shown.exit_code == 0
    assert [line.split()[1] for line in shown.stdout.splitlines() if line[:4] == "runs"] == [
        "plain"
    ]
    monkeypatch.setenv(library.CHOICE, "sse1")
    assert (
        "EDGEPRUNE_KERNELS=sse1 is not" in CliRunner().invoke(main, ["inspect", "--system"]).stdout
    )
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    shown = CliRunner().invoke(main, ["inspect", "--system"])
    assert "not installed: install a C++ compiler" in " ".join(shown.stdout.split())
    for arguments in (["inspect"], ["inspect", str(tmp_path), "--system"]):
        assert CliRunner().invoke(main, arguments).exit_code == 2


def test_compiling_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "out.so"
    with pytest.raises(compiling.CannotCompile, match="no-such-compiler is not installed"):
        compiling.compile_library(target, compiler="no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(compiling.CannotCompile, match=r"no C\+\+ compiler is installed"):
        compiling.compile_library(target)
    with pytest.raises(compiling.CannotCompile, match="on riscv64"):
        compiling.compile_library(target, architecture="riscv64")
    assert not target.exists()


def test_the_unused_imports_of_a_device_stay_out() -> None:
    """Packing and loading need numpy, onnx and the runtime alone."""
    code = "import sys, edgeprune.kernels.node, edgeprune.kernels.library; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "transformers"} & set(loaded.stdout.split())


def test_a_model_of_two_linears_shares_a_function(built: Path) -> None:
    linear = random_linear("int8-4x16", 16, 16, 0.5)
    packed = pack(linear.weight, linear.format)
    nodes, initializers = [], []
    for name, source, target in (("first", "x", "h"), ("second", "h", "y")):
        node, tensors = make_sparse_linear(name, source, target, packed, scales=linear.scales)
        nodes.append(node)
        initializers.extend(tensors)
    model = model_of(nodes, initializers, 16, 16)
    assert [function.name for function in model.functions] == ["SparseLinearInt8"]
    x = x_of(5, 16)
    y = open_stock(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(open_sparse(model, built).run(None, {"x": x})[0], y, rtol=1e-5)
