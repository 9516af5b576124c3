"""The contents of a model's folder, as tables for people."""

import re
from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.base import words
from edgeprune.base.names import Name
from edgeprune.measure.inspect.record import Layer, OnnxFolder, SafetensorsFolder


def inspect_table(found: OnnxFolder | SafetensorsFolder) -> RenderableType:
    """Show the findings of `describe`, at 80 columns: layers of like name and shape share a row."""
    parts: list[RenderableType] = []
    if isinstance(found, OnnxFolder):
        rows = [(layer.name, layer.shape, _stored(layer), layer.bytes) for layer in found.layers]
        if found.manifest:
            parts.append(_manifest_lines(found.manifest))
    else:
        rows = [
            (name.removesuffix(".weight"), tensor.shape, tensor.dtype, tensor.bytes)
            for name, tensor in found.tensors.items()
        ]
    table = Table(title="layers", box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading, justify in (("layer", "left"), ("shape", "right"), ("stored", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("blocks", justify="right", overflow="fold")
    table.add_column("MB", justify="right")
    for (name, shape, stored), (blocks, size) in _grouped(rows).items():
        shape_text = " x ".join(map(str, shape))
        shown = f"{size / 1e6:,.2f}" if size else "shared"
        table.add_row(Name(name), shape_text, stored, _ranges(blocks), shown)
    parts.append(table)
    sizes = Table(title="bytes", box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    sizes.add_column("kind")
    sizes.add_column("MB", justify="right")
    for kind, size in found.bytes.items():
        sizes.add_row(kind, f"{size / 1e6:,.2f}")
    sizes.add_row("all", f"{found.model_bytes / 1e6:,.2f}", style="bold")
    parts.append(sizes)
    if isinstance(found, OnnxFolder) and found.operators:
        counts = ", ".join(f"{count} {name}" for name, count in found.operators.items())
        parts.append(Text(f"operators: {counts}", style="dim"))
    if isinstance(found, OnnxFolder) and found.kernels:
        runs = f"run by edgeprune.kernels, {found.kernels.chosen}"
        dense = f"run as dense INT8, without the operator library: {found.kernels.missing}"
        parts.append(Text(f"sparse linears: {runs if found.kernels.library else dense}"))
    return Group(*parts)


def _grouped(
    rows: Iterable[tuple[str, Iterable[int], str, int]],
) -> dict[tuple[str, tuple[int, ...], str], tuple[list[int], int]]:
    """Rows that differ only in the number of their block, together: its numbers, their bytes."""
    groups: dict[tuple[str, tuple[int, ...], str], tuple[list[int], int]] = {}
    for name, shape, stored, size in rows:
        block = re.search(r"(?<=\.)\d+(?=\.)", name)
        if block:
            name = f"{name[: block.start()]}*{name[block.end() :]}"
        key = (name, tuple(shape), stored)
        blocks, total = groups.get(key, ([], 0))
        groups[key] = ([*blocks, int(block[0])] if block else blocks, total + size)
    return groups


def _ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _stored(layer: Layer) -> str:
    group = f" in {layer.group}s" if layer.group else ""
    block = f", {layer.block} blocks" if layer.block else ""
    return f"{'float' if layer.bits > 8 else 'int'}{layer.bits}{group}{block}"


def _manifest_lines(manifest: dict[str, Any]) -> RenderableType:
    source = manifest.get("source")
    recipe = manifest.get("recipe")
    stages = manifest.get("stages") or []
    lines = [
        f"task: {manifest['task']}",
        f"made by edgeprune {manifest.get('edgeprune')}, opens in ONNX Runtime "
        f"{manifest.get('minimum_onnxruntime')} and newer",
        f"files: {len(manifest['files'])}, all as the manifest says",
    ]
    for each in manifest.get("variants") or []:
        lines.append(f"variant {each['name']}: {each['file']}, {words.size(each['bytes'])}")
    if source:
        lines.append(f"source: {_brief(source)}")
    if recipe:
        lines.append(f"recipe: {_brief(recipe)}")
    if stages:
        lines.append(f"stages: {', '.join(map(_brief, stages))}")
    return Text("\n".join(lines))


def _brief(value: Any) -> str:
    """The name of what a part of the manifest tells of, or its plain values."""
    if not isinstance(value, dict):
        return str(value)
    plain = {key: item for key, item in value.items() if isinstance(item, str | int | float)}
    return str(plain.get("name") or ", ".join(f"{key} {item}" for key, item in plain.items()))
