"""Tensors in files: what stands for integers is read at the values that torch computes of them."""

import pytest
import torch
from safetensors.torch import save_file

from edgeprune.compress.quantize.grouped import round_groups
from edgeprune.compress.quantize.int8 import round_rows
from edgeprune.compress.quantize.scheme import Scheme
from edgeprune.model.tensor_files import CODES, SCALES, ZERO_POINTS, Place, TensorFiles


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [64, 50])
def test_groups_of_codes_are_read_as_their_values(symmetric, columns, tmp_path):
    rounded = round_groups(torch.randn(24, columns), Scheme(4, 16, symmetric))
    parts = {CODES: rounded.codes, SCALES: rounded.scales, ZERO_POINTS: rounded.zero_points}
    file = tmp_path / "codes.safetensors"
    save_file({name: part.contiguous() for name, part in parts.items()}, file)
    files = TensorFiles({"weight": Place(file, integers=True, group=16)})
    assert files.shape("weight") == (24, columns)
    assert torch.equal(torch.from_numpy(files.read("weight")), rounded.dequantize())


def test_rows_of_codes_are_read_as_their_values(tmp_path):
    rounded = round_rows(torch.randn(24, 50))
    file = tmp_path / "codes.safetensors"
    save_file({CODES: rounded.codes, SCALES: rounded.scales}, file)
    files = TensorFiles({"weight": Place(file, integers=True)})
    assert files.dtype("weight") == "F32"
    assert torch.equal(torch.from_numpy(files.read("weight")), rounded.dequantize())


def test_a_list_finds_what_lies_elsewhere_and_moves_with_its_build(tmp_path):
    outside, build = tmp_path / "model.safetensors", tmp_path / "build"
    (build / "stage").mkdir(parents=True)
    (build / "before").mkdir()
    save_file({"one": torch.ones(2)}, outside)
    save_file({"two": torch.zeros(3)}, build / "before/own.safetensors")
    places = {
        "one": Place(outside, "one"),
        "renamed": Place(build / "before/own.safetensors", "two"),
    }
    TensorFiles(places).write_list(build / "stage", build)
    moved = build.rename(tmp_path / "moved")
    files = TensorFiles.listed(moved / "stage")
    assert files.shapes == {"one": (2,), "renamed": (3,)}
    assert files.read("renamed").tolist() == [0, 0, 0]
    assert files.place("renamed").file.is_relative_to(moved)
