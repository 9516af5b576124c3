"""The tensors of a model's files as plain linears' weights, each a part of what is stored.

What plain.py does with modules, told of files: nothing is read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from edgeprune.model.family import Family, Shape
from edgeprune.model.settings import num_heads, query_rows
from edgeprune.model.tensor_files import Part, Place, TensorFiles


def taken_apart(family: Family, config: Mapping[str, Any], tensors: TensorFiles) -> TensorFiles:
    """Tensors by the names that they have in a model of `family` once it is read.

    Args:
        config: the contents of its config.json.
    """
    places: dict[str, Place] = {}
    for stored in tensors:
        name = stored
        for part, called in family.in_files.items():
            name = name.replace(part, called)
        for own, taken in _parts(family, config, name, tensors.shape(stored)):
            file = tensors.place(stored).file
            places[own] = Place(file, stored, taken if taken != Part() else None)
    return TensorFiles(places)


def _parts(
    family: Family, config: Mapping[str, Any], name: str, shape: Shape
) -> Iterator[tuple[str, Part]]:
    """The plain tensors of which one that is stored is made, by name."""
    path, _, kind = name.rpartition(".")
    if family.experts is not None and len(shape) == 3:
        yield from _of_stack(family, name, shape)
        return
    fused = next((each for each in family.fused if path.endswith(f".{each.path}")), None)
    places = (family.output, family.up, family.down, *(each.path for each in family.fused))
    inside = path.endswith(tuple(f".{place}" for place in places))
    turned = family.transposed and kind == "weight" and inside
    if fused is None or kind not in ("weight", "bias") or not shape:
        yield name, Part(turned=turned)
        return
    heads = num_heads(config) if fused.interleaved else 1
    begin = 0
    for part, count in fused.sizes(shape[-1 if turned else 0], query_rows(config)).items():
        end = begin + count // heads
        yield f"{path}.{part}.{kind}", Part(turned=turned, heads=heads, rows=(begin, end))
        begin = end


def _of_stack(family: Family, name: str, shape: Shape) -> Iterator[tuple[str, Part]]:
    """Experts' weights (experts, outputs, inputs), gate and up one after the other."""
    paths = family.experts
    assert paths is not None
    path, _, last = name.rpartition(".")
    half = shape[1] // 2
    rows = {
        paths.stacked[0]: {paths.gate: (0, half), paths.up: (half, shape[1])},
        paths.stacked[1]: {paths.down: (0, shape[1])},
    }
    for number in range(shape[0]):
        for part, ends in rows.get(last, {}).items():
            yield f"{path}.{number}.{part}.weight", Part(number=number, rows=ends)
