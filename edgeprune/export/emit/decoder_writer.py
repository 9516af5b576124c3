"""Parts that only decoders have: norms of two kinds, bounds and factors."""

from collections.abc import Mapping

import numpy as np

from edgeprune.export.emit.weights import Weights
from edgeprune.export.emit.writer import Sizes, Writer, path_of
from edgeprune.model.decoders import Norms


class DecoderWriter(Writer):
    """Writes the modules of a decoder's files."""

    def __init__(
        self,
        weights: Weights,
        inputs: Mapping[str, Sizes],
        caches: Mapping[str, Sizes],
        outputs: Mapping[str, Sizes],
        plain_sums: bool,
    ) -> None:
        """
        Args:
            caches: inputs that are floats.
            plain_sums: write the additions that a norm reads as Sum, which the runtime does not
                fuse with it.
        """
        super().__init__(weights, inputs, outputs, caches)
        self._sum = "Sum" if plain_sums else "Add"

    def number(self, value: float) -> str:
        """A number in float32, stored once."""
        return self.constant(f"/number/{value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Sizes, axes or places (values,), stored once."""
        return self.constant("/integers/" + "_".join(map(str, values)), list(values))

    def integer(self, value: int) -> str:
        """One of them without an axis."""
        return self.constant(f"/integer/{value}", np.array(value))

    def sum(self, left: str, right: str, name: str) -> str:
        """An addition that a norm reads."""
        return self.graph.add(self._sum, [left, right], name)

    def scaled(self, x: str, factor: float | None, name: str) -> str:
        """A tensor times a number; itself where there is none, or 1."""
        if factor is None or factor == 1:
            return x
        return self.graph.add("Mul", [x, self.number(factor)], name)

    def bounded(self, x: str, cap: float | None, path: str) -> str:
        """cap tanh(x / cap); x where there is no cap."""
        if cap is None:
            return x
        shrunk = self.graph.add("Div", [x, self.number(cap)], f"{path}/Shrunk")
        bent = self.graph.add("Tanh", [shrunk], f"{path}/Bent")
        return self.graph.add("Mul", [bent, self.number(cap)], f"{path}/Bounded")

    def normed(self, x: str, module: str, norms: Norms, width: int) -> str:
        """A norm over the last axis, which has `width` values."""
        if norms.root_mean_square:
            return self._root_mean_square(x, module, norms)
        if f"{module}.weight" in self.weights:
            return self.norm(x, module, norms.epsilon)
        ones = self.constant(f"/ones/{width}", np.ones(width, np.float32))
        name = f"{path_of(module)}/LayerNormalization"
        return self.graph.add("LayerNormalization", [x, ones], name, axis=-1, epsilon=norms.epsilon)

    def _root_mean_square(self, x: str, module: str, norms: Norms) -> str:
        """x / sqrt(mean(x^2) + epsilon) * (weight + offset), as the runtime joins it."""
        graph, path, weight = self.graph, path_of(module), f"{module}.weight"
        if norms.offset:
            weight = self.constant(weight, self.weights.read(weight) + np.float32(norms.offset))
        else:
            weight = self.weight(weight)
        square = graph.add("Pow", [x, self.number(2.0)], f"{path}/Pow")
        mean = graph.add("ReduceMean", [square], f"{path}/ReduceMean", axes=[-1], keepdims=1)
        mean = graph.add("Add", [mean, self.number(norms.epsilon)], f"{path}/Add")
        root = graph.add("Sqrt", [mean], f"{path}/Sqrt")
        inverse = graph.add("Div", [self.number(1.0), root], f"{path}/Div")
        even = graph.add("Mul", [x, inverse], f"{path}/Mul")
        return graph.add("Mul", [weight, even], f"{path}/Mul_1")
