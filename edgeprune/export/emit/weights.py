"""The tensors of a model's files as a graph stores them: read each time that they are written."""

import numpy as np
import onnx_ir as ir

from edgeprune.model.tensor_files import TensorFiles


class Weights(TensorFiles):
    """Tensors in files, of which one is in memory while it is read, and no longer."""

    def tensor(self, name: str, transposed: bool = False) -> ir.LazyTensor:
        """A tensor in float32 for a graph, read each time that it is asked for its values.

        Args:
            transposed: swap its two axes.
        """
        shape = self.shape(name)

        def read() -> ir.Tensor:
            values = self.read(name)
            return ir.Tensor(np.ascontiguousarray(values.T if transposed else values), name=name)

        turned = shape[::-1] if transposed else shape
        return ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(turned), name=name)
