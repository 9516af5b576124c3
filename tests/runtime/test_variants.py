"""Which of a bundle's graphs a processor takes, and what manifests may say of them."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import encoder_folder

from edgeprune import UserError, load
from edgeprune.cli import main
from edgeprune.runtime.bundle import MANIFEST, Bundle, write_bundle
from edgeprune.runtime.variants import Variant, fastest, fastest_here, older
from edgeprune.targets import TARGETS, find

VNNI, AVX2, PI = find("x86-avx512-vnni"), find("x86-avx2"), find("pi5")
SHAPE = (384, 1536, 12)


def variant(name: str, weights: str = "int8", hub: str | None = None, **more) -> Variant:
    linears = () if weights == "float32" else ((weights, *SHAPE),)
    bits = {"int8_bits": 8} if weights == "int8" else {}
    return Variant(name, f"onnx/{name}.onnx", hub, linears=linears, **{**bits, **more})


INT8 = variant("vnni", hub="avx512_vnni")
ARM = variant("arm64", hub="arm64")
PORTABLE = variant("quantized", hub="avx2", int8_bits=7)
INT4 = variant("int4", "int4-32", hub="avx2")
FLOAT = variant("float32", "float32")
ALL = (INT8, ARM, PORTABLE, INT4, FLOAT)


def chosen(variants, here, works=("encoder",), processor=None) -> str:
    return fastest(variants, works, here, processor).name


def test_an_encoder_takes_the_int8_that_was_made_for_the_processor():
    assert [chosen(ALL, here) for here in (VNNI, AVX2, PI)] == ["vnni", "quantized", "arm64"]


def test_what_would_saturate_is_not_taken_however_fast_it_was():
    fast = variant("fast", processor="a chip", ratios={"encoder": (8.9, 9.1)})
    slow = variant("slow", "float32", processor="a chip", ratios={"encoder": (0.9, 1.1)})
    assert chosen((fast, slow), AVX2, processor="a chip") == "slow"
    assert chosen((fast, slow), VNNI, processor="a chip") == "fast"
    assert chosen((fast,), AVX2) == "fast"  # a single graph is opened as ever


def test_a_measurement_counts_on_its_own_processor_alone():
    measured = {"processor": "a chip"}
    first = variant("first", hub="avx512_vnni", **measured, ratios={"encoder": (1.9, 2.1)})
    second = variant("second", "float32", **measured, ratios={"encoder": (2.9, 3.1)})
    assert chosen((first, second), VNNI, processor="a chip") == "second"
    for other in ("another", None):
        assert chosen((first, second), VNNI, processor=other) == "first"


def test_a_measurement_that_tells_nothing_apart_decides_nothing():
    int8 = variant("int8", hub="avx512_vnni", processor="a", ratios={"encoder": (0.5, 13.8)})
    plain = variant("plain", "float32", processor="a", ratios={"encoder": (0.9, 1.1)})
    assert chosen((plain, int8), VNNI, processor="a") == "int8"
    never = variant("never", "float32")  # nor does it speak for what was not measured
    assert chosen((never, plain), VNNI, processor="a") == "plain"


def test_both_works_of_a_decoder_count_alike():
    """Geometric means: 4 and 1 are less than 2.5 and 2.5."""
    four, one, between = (4.0, 4.0), (1.0, 1.0), (2.5, 2.5)
    prompts = variant("prompts", processor="a", ratios={"prompt": four, "decode": one})
    both = variant("both", processor="a", ratios={"prompt": between, "decode": between})
    assert chosen((prompts, both), VNNI, ("prompt", "decode"), "a") == "both"
    assert chosen((prompts, both), VNNI, ("prompt",), "a") == "prompts"


def test_the_target_s_table_decides_between_formats_that_it_has():
    """By hand: the sum that the table that ships gives for the linears of each."""
    inputs, outputs, count = SHAPE
    for rows, works in ((128, ("encoder",)), (1, ("decode",))):
        times = {
            form: count * VNNI.format_times.microseconds(form, inputs, outputs, rows)
            for form in ("int8", "int4-32")
        }
        expected = "vnni" if times["int8"] < times["int4-32"] else "int4"
        assert chosen((INT4, INT8), VNNI, works) == expected
        assert INT8.predicted(VNNI.format_times, works) == pytest.approx(times["int8"])


def test_without_a_table_a_decoder_takes_what_its_target_decodes_fastest():
    assert not PI.format_times.points
    assert chosen((INT4, ARM, FLOAT), PI, ("prompt", "decode")) == "arm64"
    assert chosen((FLOAT, INT4), PI, ("prompt", "decode")) == "int4"


RATIOS = st.floats(0.1, 20)


@given(
    st.lists(st.tuples(st.sampled_from([None, 7, 8]), RATIOS), min_size=1, max_size=6),
    st.sampled_from(TARGETS),
)
def test_the_fastest_that_is_right_wins_whatever_the_order(rows, here):
    made = [
        variant(str(place), int8_bits=bits, processor="a", ratios={"encoder": (ratio, ratio)})
        for place, (bits, ratio) in enumerate(rows)
    ]
    right = [ratio for bits, ratio in rows if bits is None or bits <= here.weight_bits]
    expected = max(right) if right else rows[0][1]
    assert fastest(made, ("encoder",), here, "a").ratios["encoder"][0] == expected


def test_all_of_arm_have_the_same_choices_so_one_file_serves_them():
    arm = [target for target in TARGETS if target.hub == "arm64"]
    assert {target.name for target in arm} == {"arm", "arm-dotprod", "arm-i8mm"}
    choices = ("weight_bits", "decode_weights", "skip_layer_norm_harmful")
    assert len({tuple(getattr(each, name) for name in choices) for each in arm}) == 1
    assert find("pi4").flags == ()  # a Cortex-A72 has no dot products
    assert find("pi5").flags == ("asimddp",)


def test_an_older_runtime_takes_what_it_opens(monkeypatch):
    new = variant("new", hub="avx512_vnni", minimum_onnxruntime="99.0.0")
    old = variant("old", "float32", minimum_onnxruntime="1.17.0")
    assert older("1.16.3", old)
    assert not older("1.17.0", old)
    assert fastest_here((new, old), ("encoder",)).name == "old"
    assert fastest_here((new,), ("encoder",)).name == "new"


# Bundles -----------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path) -> Path:
    """Two graphs that differ in depth, the second measured the faster on every processor."""
    parts = {depth: encoder_folder(tmp_path / str(depth), depth=depth) for depth in (1, 3)}
    files = {1: "onnx/model.onnx", 3: "onnx/model_qint8_arm64.onnx"}
    variants = [
        {"name": "float32", "file": files[1]},
        {"name": "arm64", "file": files[3], "linears": [["int8", 8, 8, 3]], "stages": []},
    ]
    manifest = {"task": "feature-extraction", "stages": [{"name": "measure"}], "variants": variants}
    graphs = {files[depth]: folder / "model.onnx" for depth, folder in parts.items()}
    assets = parts[1] / "assets"
    assets.mkdir()
    for file in parts[1].glob("*.json"):
        shutil.copy(file, assets)
    return write_bundle(tmp_path / "bundle", graphs, assets, manifest).folder


def altered(bundle: Path, change) -> Path:
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    return bundle


def test_a_graph_is_named_or_chosen(bundle):
    depths = {name: Bundle.open(bundle, name) for name in ("float32", "arm64")}
    for name, depth in (("float32", 1), ("arm64", 3)):
        opened = depths[name]
        assert opened.variant == name
        assert opened.outline.operators["MatMul"] == depth
        assert opened.variants == ("float32", "arm64")
    assert depths["float32"].graph_sha256 != depths["arm64"].graph_sha256
    assert depths["float32"].stages == [{"name": "measure"}]
    assert depths["arm64"].stages == []
    assert Bundle.open(bundle).variant == "arm64"  # INT8 before float32
    assert load(bundle, variant="float32").bundle.variant == "float32"


def test_every_command_takes_a_variant(bundle, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text1": "a dog", "text2": "a cat", "score": 1}\n' * 3)
    quick = ["--tokens", "8", "--time-limit", "0.1", "--launches", "1"]
    sts = ["--task", "sts", "--data", str(tmp_path / "texts.jsonl")]
    for command, more in (
        ("run", ["a dog"]),
        ("bench", quick),
        ("inspect", []),
        ("evaluate", sts),
        ("check", ["--save", str(tmp_path / "saved.json"), *quick]),
        ("serve", []),
    ):
        result = CliRunner().invoke(main, [command, str(bundle), *more, "--variant", "none-such"])
        assert result.exit_code == 2, (command, result.output)
        assert "no variant 'none-such': name one of float32, arm64" in result.stderr
    told = CliRunner().invoke(main, ["inspect", str(bundle), "--variant", "float32", "--json", "-"])
    assert json.loads(told.stdout)["variant"] == "float32"
    timed = CliRunner().invoke(main, ["bench", str(bundle), "--variant", "arm64", *quick])
    assert timed.exit_code == 0, timed.stderr
    assert "its variant arm64, of float32, arm64" in " ".join(timed.stdout.split())


def test_the_gate_compares_like_with_like(bundle, tmp_path):
    """A saved baseline of one graph is compared with that graph, though another is faster here."""
    saved = tmp_path / "saved.json"
    quick = ["--tokens", "8", "--time-limit", "0.1", "--launches", "1"]
    first = ["check", str(bundle), "--variant", "float32", "--save", str(saved), *quick]
    result = CliRunner().invoke(main, first)
    assert result.exit_code == 0, result.stderr
    assert json.loads(saved.read_text())["variant"] == "float32"
    again = ["check", str(bundle), "--against", str(saved), "--json", "-", *quick]
    told = json.loads(CliRunner().invoke(main, again).stdout)
    assert told["candidate"]["variant"] == "float32"
    counted = {side: told[side]["operators"]["written"] for side in ("candidate", "baseline")}
    assert counted["candidate"] == counted["baseline"]


def test_a_folder_with_one_graph_has_no_variants(tmp_path):
    folder = encoder_folder(tmp_path / "plain")
    assert Bundle.open(folder).variant == ""
    with pytest.raises(UserError, match=r"one graph and no variants: leave --variant out"):
        Bundle.open(folder, "arm64")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["variants"][0].update(file="../model.onnx"), "none of its files"),
        (lambda found: found["variants"][0].pop("name"), "damaged where it names the variants"),
        (lambda found: found["variants"][1].update(linears=[[1]]), "damaged where it names"),
        (lambda found: found.update(variants=3), "damaged where it names"),
        (lambda found: found["variants"].append("arm64"), "damaged where it names"),
        (lambda found: found["variants"][0].update(bytes=[1]), "damaged where it names"),
        (lambda found: found["variants"][0].update(bytes=-1), "damaged where it names"),
        (lambda found: found["variants"][0].update(int8_bits=float("inf")), "damaged where it"),
        (
            lambda found: found["variants"][0].update(linears=[["int8", 1, 1, float("inf")]]),
            "damaged where it names",
        ),
        (lambda found: found["variants"][0].update(measured=[1]), "damaged where it names"),
    ],
    ids=[
        *("outside", "nameless", "shapes", "no list", "no object"),
        *("bytes in a list", "fewer than no bytes", "bits without end", "linears without end"),
        "no measurement",
    ],
)
def test_a_damaged_manifest_is_refused(bundle, change, said):
    with pytest.raises(UserError, match=said):
        Bundle.open(altered(bundle, change))


def test_a_variant_s_altered_file_is_found(bundle):
    path = bundle / "onnx/model_qint8_arm64.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="was altered"):
        Bundle.open(bundle, "float32").verify()
