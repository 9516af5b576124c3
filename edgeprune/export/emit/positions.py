"""The positions of a run's tokens, and which of them see which: shared by all layers.

S tokens are new, T are known with them, and the cache may have room for more; so every size is read
off attention_mask (B,T) and input_ids (B,S). A row ends at its last real token: rows of a call may
be of different lengths, padded on the left, or on the right up to the longest.
"""

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
            self._made["ids"] = self._new()
        return self._made["ids"]

    def lengths(self) -> tuple[str, str]:
        """GroupQueryAttention's: tokens minus one of each row (B,), and all tokens (1,), int32."""
        if "last" not in self._made:
            graph, path = self._graph, "/attention"
            rows = graph.add("Squeeze", [self._counts(), self._writer.integers(1)], f"{path}/rows")
            last = graph.add("Sub", [rows, self._writer.integer(1)], f"{path}/last")
            for name, of in (("last", last), ("all", self._total())):
                self._made[name] = graph.add("Cast", [of], f"{of}_int32", to=TensorProto.INT32)
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
                keys, queries = self._known(), self._new()
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
            queries = self._column(self._new())
            before = self._graph.add("LessOrEqual", [self._known(), queries], "/seen/NotAfter")
            self._made["seen"] = self._graph.add("And", [self._real(), before], "/seen")
        return self._made["seen"]

    def _column(self, numbers: str) -> str:
        """(B,S) -> (B,1,S,1)."""
        return self._graph.add(
            "Unsqueeze", [numbers, self._writer.integers(1, 3)], f"{numbers}/Column"
        )

    def _real(self) -> str:
        """Which tokens are not padding (B,1,1,T)."""
        if "real" not in self._made:
            real = self._graph.add("Cast", ["attention_mask"], "/real/Cast", to=TensorProto.BOOL)
            axes = self._writer.integers(1, 2)
            self._made["real"] = self._graph.add("Unsqueeze", [real, axes], "/real")
        return self._made["real"]

    def _known(self) -> str:
        """0 to T - 1, (T,)."""
        if "known" not in self._made:
            total = self._graph.add("Squeeze", [self._total()], "/known/total")
            self._made["known"] = self._count(total, "/known")
        return self._made["known"]

    def _new(self) -> str:
        """The places of a row's new tokens, (B,S): the last S that are known of it, or all that are
        known."""
        if "new" not in self._made:
            graph, path, zero = self._graph, "/new", self._writer.integer(0)
            size = graph.add("Shape", ["input_ids"], f"{path}/Shape", start=1, end=2)
            size = graph.add("Squeeze", [size], f"{path}/size")
            start = graph.add("Sub", [self._counts(), size], f"{path}/Sub")
            start = graph.add("Max", [start, zero], f"{path}/start")
            steps = self._count(size, f"{path}/steps")
            self._made["new"] = graph.add("Add", [start, steps], path)
        return self._made["new"]

    def _count(self, number: str, path: str) -> str:
        zero, one = self._writer.integer(0), self._writer.integer(1)
        return self._graph.add("Range", [zero, number, one], path)

    def _counts(self) -> str:
        """The place after each row's last real token, (B,1)."""
        if "counts" not in self._made:
            graph, path = self._graph, "/counts"
            ends = graph.add("Add", [self._known(), self._writer.integer(1)], f"{path}/ends")
            real = graph.add("Mul", ["attention_mask", ends], f"{path}/real")
            self._made["counts"] = graph.add("ReduceMax", [real], path, axes=[1], keepdims=1)
        return self._made["counts"]

    def _total(self) -> str:
        """T, (1,)."""
        if "total" not in self._made:
            shape = self._graph.add("Shape", ["attention_mask"], "/total", start=1, end=2)
            self._made["total"] = shape
        return self._made["total"]
