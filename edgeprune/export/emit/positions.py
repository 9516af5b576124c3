"""The positions of a run's tokens, and which of them see which: shared by all layers.

S tokens are new, T are known with them, and the cache may have room for more; so every size is read
off attention_mask (B,T) and input_ids (B,S).
"""

import numpy as np
from onnx import TensorProto

from edgeprune.export.attention_nodes import MASKED
from edgeprune.export.emit.decoder_writer import DecoderWriter


class Positions:
    """Nodes about positions, each added once it is asked for."""

    def __init__(self, writer: DecoderWriter, given: bool, bidirectional: bool) -> None:
        """
        Args:
            given: position_ids are an input; otherwise tokens count on from the cache.
            bidirectional: tokens see those after them too, as far as those before.
        """
        self._writer, self._graph = writer, writer.graph
        self._given, self._bidirectional = given, bidirectional
        self._masks: dict[int | None, str] = {}
        self._made: dict[str, str] = {}

    def ids(self) -> str:
        """Each new token's position (B,S)."""
        if self._given:
            return "position_ids"
        if "ids" not in self._made:
            _, new = self._numbers()
            shape = self._graph.add("Shape", ["input_ids"], "/positions/Shape")
            self._made["ids"] = self._graph.add("Expand", [new, shape], "/positions")
        return self._made["ids"]

    def lengths(self) -> tuple[str, str]:
        """GroupQueryAttention's: tokens minus one of each row (B,), and all tokens (1,), int32."""
        if "last" not in self._made:
            graph, path = self._graph, "/attention"
            total = graph.add("Cast", [self._total()], f"{path}/total_int32", to=TensorProto.INT32)
            one = graph.add_constant(f"{path}/one", np.array([1], np.int32))
            last = graph.add("Sub", [total, one], f"{path}/last")
            rows = graph.add("Shape", ["input_ids"], f"{path}/batch", start=0, end=1)
            self._made["last"] = graph.add("Expand", [last, rows], f"{path}/last_of_rows")
            self._made["all"] = total
        return self._made["last"], self._made["all"]

    def mask(self, window: int | None) -> str:
        """The mask that is added to scores, (B,1,S,T) or (B,1,1,T): 0 where a token sees another,
        else MASKED.

        It sees itself and those before it that are not padding, the last `window` of them if given.
        MASKED is not infinity, which would turn the padded rows of a left-padded batch into NaN.
        """
        if window not in self._masks:
            writer, graph = self._writer, self._graph
            path = "/mask" if window is None else f"/mask_{window}"
            seen = self._seen()
            if window is not None:
                keys, queries = self._numbers()
                first = graph.add("Sub", [queries, writer.integer(window)], f"{path}/Before")
                near = graph.add("Greater", [keys, self._column(first)], f"{path}/Near")
                seen = graph.add("And", [seen, near], f"{path}/Within")
                if self._bidirectional:
                    last = graph.add("Add", [queries, writer.integer(window)], f"{path}/After")
                    near = graph.add("Less", [keys, self._column(last)], f"{path}/NearAfter")
                    seen = graph.add("And", [seen, near], f"{path}/WithinAfter")
            values = [writer.number(0.0), writer.number(MASKED)]
            self._masks[window] = graph.add("Where", [seen, *values], path)
        return self._masks[window]

    def _seen(self) -> str:
        """Which tokens another sees without a window, (B,1,S,T) or (B,1,1,T)."""
        if self._bidirectional:
            return self._real()
        if "seen" not in self._made:
            keys, queries = self._numbers()
            before = self._graph.add("LessOrEqual", [keys, self._column(queries)], "/seen/NotAfter")
            self._made["seen"] = self._graph.add("And", [self._real(), before], "/seen")
        return self._made["seen"]

    def _column(self, numbers: str) -> str:
        return self._graph.add(
            "Unsqueeze", [numbers, self._writer.integers(1)], f"{numbers}/Column"
        )

    def _real(self) -> str:
        """Which tokens are not padding (B,1,1,T)."""
        if "real" not in self._made:
            real = self._graph.add("Cast", ["attention_mask"], "/real/Cast", to=TensorProto.BOOL)
            axes = self._writer.integers(1, 2)
            self._made["real"] = self._graph.add("Unsqueeze", [real, axes], "/real")
        return self._made["real"]

    def _numbers(self) -> tuple[str, str]:
        """0 to T - 1, and T - S to T - 1."""
        if "known" not in self._made:
            graph, path = self._graph, "/numbers"
            zero, one = self._writer.integer(0), self._writer.integer(1)
            total = graph.add("Squeeze", [self._total()], f"{path}/total")
            new = graph.add("Shape", ["input_ids"], f"{path}/Shape", start=1, end=2)
            new = graph.add("Squeeze", [new], f"{path}/count")
            start = graph.add("Sub", [total, new], f"{path}/start")
            self._made["known"] = graph.add("Range", [zero, total, one], f"{path}/known")
            self._made["new"] = graph.add("Range", [start, total, one], f"{path}/new")
        return self._made["known"], self._made["new"]

    def _total(self) -> str:
        """T, (1,)."""
        if "total" not in self._made:
            shape = self._graph.add("Shape", ["attention_mask"], "/total", start=1, end=2)
            self._made["total"] = shape
        return self._made["total"]
