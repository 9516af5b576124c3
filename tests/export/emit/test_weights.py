"""Weights read lazily are what safetensors reads, in every floating point type."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgeprune.base.errors import UserError
from edgeprune.export.emit.weights import Weights


def _tensors():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 5, generator=generator)
    return {
        "bfloat16": matrix.bfloat16(),
        "float16": matrix.half(),
        "float32": matrix,
        "float64": matrix.double(),
        "vector": matrix[0].clone(),
        "integers": torch.arange(3),
    }


@pytest.fixture
def weights(tmp_path):
    tensors = _tensors()
    halves = (dict(list(tensors.items())[:3]), dict(list(tensors.items())[3:]))
    files = [tmp_path / f"{place}.safetensors" for place in range(2)]
    for file, half in zip(files, halves, strict=True):
        save_file(half, file)
    return Weights.of(files)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float64", "vector"])
def test_values_are_those_of_the_file_in_float32(name, weights):
    expected = _tensors()[name].float().numpy()
    assert name in weights
    assert weights.shapes[name] == expected.shape
    for transposed in (False, True):
        tensor = weights.tensor(name, transposed)
        wanted = expected.T if transposed else expected
        assert tuple(tensor.shape) == wanted.shape
        assert tensor.numpy().dtype == np.float32
        np.testing.assert_array_equal(tensor.numpy(), wanted)
        assert tensor.tobytes() == np.ascontiguousarray(wanted).tobytes()
        assert tensor.nbytes == wanted.nbytes


def test_what_holds_no_numbers_of_that_kind_is_a_sentence(weights):
    assert "missing" not in weights
    with pytest.raises(UserError, match="holds integers as I64"):
        weights.read("integers")
