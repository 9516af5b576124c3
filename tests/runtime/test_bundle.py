import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    classifier_folder,
    decoder_folder,
    encoder_folder,
    make_bundle,
    write_json,
)

from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder
from edgeprune.model.pooling import Pooling
from edgeprune.model.projection import UnitLength
from edgeprune.runtime.bundle import MANIFEST, Bundle, write_bundle
from edgeprune.runtime.onnx_file import read_outline


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", encoder_folder(tmp_path / "parts"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | changes)


def test_the_manifest_lists_every_file_with_its_hash(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    held = {name: data for name, data in contents(bundle).items() if name != MANIFEST}
    assert set(held) == {
        "onnx/model.onnx",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert manifest["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in held.items()
    }
    assert manifest["format_version"] == 1
    assert manifest["minimum_onnxruntime"] == "1.17.0"
    onnxruntime.InferenceSession(bundle / "onnx/model.onnx")
    opened = Bundle.open(bundle)
    opened.verify()
    assert opened.task == "feature-extraction"
    assert opened.model_bytes == len(held["onnx/model.onnx"])


def test_external_data_comes_along(tmp_path: Path) -> None:
    parts = encoder_folder(tmp_path / "parts", width=64)
    model = onnx.load(parts / "model.onnx")
    (parts / "model.onnx").unlink()
    onnx.save(
        model,
        parts / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    folder = make_bundle(tmp_path / "bundle", parts)
    opened = Bundle.open(folder)
    assert [path.name for path in opened.data_paths] == ["model.onnx_data"]
    files = [folder / "onnx/model.onnx", folder / "onnx/model.onnx_data"]
    assert opened.model_bytes == sum(len(file.read_bytes()) for file in files)
    (folder / "onnx/model.onnx_data").unlink()
    with pytest.raises(UserError, match=r"model\.onnx_data is missing"):
        Bundle.open(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"model\.onnx_data, which is missing"):
        Bundle.open(folder)


def test_a_missing_truncated_or_altered_file_is_named(bundle: Path) -> None:
    whole = (bundle / "config.json").read_bytes()
    (bundle / "config.json").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        Bundle.open(bundle)
    (bundle / "config.json").write_bytes(whole[:-2] + b" }")
    opened = Bundle.open(bundle)
    with pytest.raises(UserError, match=r"config\.json was altered"):
        opened.verify()
    (bundle / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "chat_templates/tools.jinja",
        "generation_config.json",
        "1_Pooling/config.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "vocabulary.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "onnx/model.onnx_data",
        "onnx/model_quantized.onnx",
        "model.safetensors",
        "modeling_custom.py",
        ".hidden",
        "readme.md",
        "docs/README.md",
        ".cache/other",
    ],
)
def test_a_file_that_was_added_is_named(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("{}")
    opened = Bundle.open(bundle)
    with pytest.raises(UserError, match=rf"{re.escape(name)} is not of this bundle"):
        opened.verify()
    (bundle / name).unlink()
    opened.verify()


def test_a_file_that_the_manifest_leaves_out_is_named(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["files"]["config.json"]
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(UserError, match=r"config\.json is not of this bundle"):
        Bundle.open(bundle).verify()


def test_what_changes_no_answer_may_be_there(bundle: Path) -> None:
    for name in (
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        "report.html",
        ".gitattributes",
        ".git/objects/ab/cd",
        ".cache/huggingface/download/config.json.metadata",
    ):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("anything")
    (bundle / "empty").mkdir()
    Bundle.open(bundle).verify()


def test_links_of_a_bundle_stay_in_it_or_are_the_hubs(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(bundle, outside)
    (bundle / "config.json").unlink()
    (bundle / "config.json").symlink_to(outside / "config.json")
    with pytest.raises(UserError, match=r"config\.json is a link that leaves the bundle"):
        Bundle.open(bundle).verify()
    (bundle / "config.json").unlink()
    shutil.copy(outside / "config.json", bundle / "config.json")
    (bundle / "1_Pooling").symlink_to(outside, target_is_directory=True)
    with pytest.raises(UserError, match="1_Pooling is not of this bundle"):
        Bundle.open(bundle).verify()
    # A snapshot of the hub's cache: each file a link to its blob.
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    for number, name in enumerate(contents(outside)):
        shutil.copy(outside / name, blobs / str(number))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / str(number))
    Bundle.open(snapshot).verify()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format_version": 2}, "newer edgeprune"),
        ({"format_version": "one"}, "no format_version"),
        ({"task": "image-classification"}, "names no task"),
        ({"files": {"../secret": {"bytes": 1, "sha256": ""}}}, "outside the bundle"),
        ({"files": {"config.json": {"bytes": "1"}}}, "does not list its files"),
        ({"files": []}, "does not list its files"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    bundle: Path, changes: dict[str, object], sentence: str
) -> None:
    edit_manifest(bundle, **changes)
    with pytest.raises(UserError, match=sentence):
        Bundle.open(bundle)


def test_a_manifest_that_is_no_json_is_refused(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(b"\xff{")
    with pytest.raises(UserError, match="not valid JSON"):
        Bundle.open(bundle)


def with_external_location(folder: Path, location: str) -> None:
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "location", ["../weights", "/etc/passwd", "a/../../b", "C:\\weights", "\\\\host\\x", "..\\x"]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    parts = encoder_folder(tmp_path / "inner" / "parts")
    (parts / "weights").write_bytes(b"")
    with_external_location(parts, location)
    with pytest.raises(UserError, match="outside its own folder"):
        Bundle.open(parts)


def test_links_are_followed_only_as_the_hubs_cache_has_them(tmp_path: Path) -> None:
    parts = encoder_folder(tmp_path / "parts")
    with_external_location(parts, "data")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "1").write_bytes(b"\0" * 10_000)
    (parts / "data").symlink_to(blobs / "1")
    with pytest.raises(UserError, match="outside its own folder"):
        Bundle.open(parts)
    shutil.move(parts / "model.onnx", blobs / "2")
    (parts / "model.onnx").symlink_to(blobs / "2")
    assert Bundle.open(parts).data_paths == (parts / "data",)


def graph_of(folder: Path) -> dict[str, Path]:
    return {"onnx/model.onnx": folder / "model.onnx"}


def test_a_full_disk_leaves_the_old_bundle_and_no_crumbs(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = encoder_folder(tmp_path / "parts2", depth=2)
    before, real, calls = contents(bundle), shutil.copyfile, []

    def copyfile(source: Path, target: Path) -> object:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(UserError, match="disk is full"):
        write_bundle(bundle, graph_of(parts), parts, {"task": "feature-extraction"})
    assert len(calls) == 3
    assert contents(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "parts", "parts2"}


def test_a_rename_that_fails_puts_the_old_bundle_back(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = encoder_folder(tmp_path / "parts2", depth=2)
    before, real = contents(bundle), Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError):
        write_bundle(bundle, graph_of(parts), parts, {"task": "feature-extraction"})
    assert contents(bundle) == before


def test_a_bundle_replaces_a_bundle_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    parts = encoder_folder(tmp_path / "deeper", depth=3)
    deeper = make_bundle(bundle, parts)
    assert Bundle.open(deeper).outline.operators["MatMul"] == 3
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("irreplaceable")
    graphs = graph_of(parts / "onnx_parts")
    with pytest.raises(UserError, match="other than a bundle"):
        write_bundle(other, graphs, parts / "assets", {"task": "feature-extraction"})
    assert contents(other) == {"chapter.txt": b"irreplaceable"}


def test_an_incomplete_part_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    parts = encoder_folder(tmp_path / "parts")
    (parts / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx is missing"):
        write_bundle(tmp_path / "out", graph_of(parts), parts, {"task": "feature-extraction"})
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_plain_folder_opens_and_its_graph_says_the_task(tmp_path: Path) -> None:
    assert Bundle.open(encoder_folder(tmp_path / "e")).task == "feature-extraction"
    assert Bundle.open(classifier_folder(tmp_path / "c")).task == "text-classification"
    assert Bundle.open(decoder_folder(tmp_path / "d")).task == "text-generation"
    with pytest.raises(UserError, match="no folder"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no ONNX model"):
        Bundle.open(tmp_path)


def test_what_lies_beside_a_bundle_names_it(bundle: Path) -> None:
    for file in ("onnx/model.onnx", "config.json"):
        with pytest.raises(UserError, match=f"is a file: name its bundle, the folder {bundle}\\."):
            Bundle.open(bundle / file)
    with pytest.raises(UserError, match=f"It is what a build left: name {bundle}\\."):
        Bundle.open(bundle.parent)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode": "mean"}, ("mean",)),
        ({"pooling_mode": ["cls"]}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True}, ("max", "lasttoken")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),  # as that library has it
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "median"}, None),
    ],
)
def test_pooling_is_read_as_both_ages_of_sentence_transformers_write_it(
    tmp_path: Path, config: dict[str, object], expected: tuple[str, ...] | None
) -> None:
    folder = encoder_folder(tmp_path / "e")
    assert Bundle.open(folder).pooling is None
    names = ("models.Transformer", "models.Pooling", "sentence_transformer.modules.Normalize")
    modules = [{"type": f"sentence_transformers.{name}", "path": "1_Pooling"} for name in names]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", config)
    opened = Bundle.open(folder)
    assert opened.steps == (UnitLength(),)
    if expected:
        assert opened.pooling == Pooling(expected)
    else:
        with pytest.raises(UserError, match="does not run"):
            _ = opened.pooling


def test_a_module_that_would_be_left_out_is_refused(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "e")
    write_json(folder / "modules.json", [{"type": "sentence_transformers.models.LSTM"}])
    with pytest.raises(UserError, match="LSTM module"):
        _ = Bundle.open(folder).pooling


def test_the_shortest_stated_maximum_counts(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "e", max_position_embeddings=512)
    assert Bundle.open(folder).max_length == 512
    write_json(folder / "tokenizer_config.json", {"model_max_length": 1e30})
    assert Bundle.open(folder).max_length == 512
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 256})
    assert Bundle.open(folder).max_length == 256


def nested_model() -> onnx.ModelProto:
    """An If whose branches hold nodes and tensors of their own, and a sparse initializer."""
    branches = {}
    for name, operator in (("then_branch", "Exp"), ("else_branch", "Neg")):
        value = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2])
        node = helper.make_node(operator, [f"{name}_w"], [f"{name}_out"])
        weight = numpy_helper.from_array(np.ones(2, np.float32), f"{name}_w")
        branches[name] = helper.make_graph([node], name, [], [value], [weight])
    nodes = [
        helper.make_node("If", ["flag"], ["y"], **branches),
        helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.ones(3, np.float32))
        ),
        helper.make_node("Add", ["y", "y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "nested",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])],
    )
    return helper.make_model(graph)


def test_the_outline_agrees_with_the_onnx_library(tmp_path: Path) -> None:
    model = nested_model()
    branch = model.graph.node[0].attribute[0].g
    onnx.external_data_helper.set_external_data(branch.initializer[0], "deep/data.bin")
    constant = model.graph.node[1].attribute[0].t
    onnx.external_data_helper.set_external_data(constant, "flat.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    outline = read_outline(path)
    assert outline.operators == Counter(["If", "Exp", "Neg", "Constant", "Add"])
    assert outline.inputs == {"flag": 0}
    assert outline.outputs == {"z": 1}
    assert outline.external_files == {"deep/data.bin", "flat.bin"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_truncated_or_broken_file_is_no_more_than_a_users_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole = nested_model().SerializeToString()
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"{os.getpid()}.onnx"
    path.write_bytes(broken)
    with contextlib.suppress(UserError):  # anything else that is raised fails the test
        assert read_outline(path).outputs


def test_paths_within_a_folder_are_taken() -> None:
    assert not leaves_folder("model.onnx_data")
    assert not leaves_folder("sub/model.onnx_data")
    assert not leaves_folder("..data")
