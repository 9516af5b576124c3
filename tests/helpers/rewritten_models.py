"""Tiny models, each exported and rewritten once for the tests of a module."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_models import make_model

from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.rewrite.run import PassReport, rewrite
from edgeprune.export.trace import export_onnx
from edgeprune.model.model import Model
from edgeprune.targets import find

VNNI = find("x86-avx512-vnni")


@dataclass
class Rewritten:
    """A model of unequal layers, its plain export and the rewritten graph."""

    model: Model
    quantized: Quantized | None
    plain: Path
    path: Path
    reports: list[PassReport]


def rewriter(
    folders: pytest.TempPathFactory,
    batch: dict[str, torch.Tensor],
    formats: QuantizeSettings | None = None,
) -> Callable[[str], Rewritten]:
    """A function that rewrites each family once; in float without `formats`."""

    @functools.cache
    def make(family: str) -> Rewritten:
        folder = folders.mktemp(family)
        model = make_model(family, folder / "hf")
        quantized = formats and quantize_model(model, [], formats, VNNI)
        plain, path = export_onnx(model, folder), folder / "out.onnx"
        batches = [{name: value.numpy() for name, value in batch.items()}]
        reports = rewrite(plain, path, model.anatomy, quantized, batches, VNNI)
        return Rewritten(model, quantized, plain, path, reports)

    return make
