"""A decoder's attention with its cache: one operator where the runtime has one for it.

    q, k, v ─> GroupQueryAttention (rotary embedding, cache, product, softmax, product) ─> o

Each node has its layer's own head counts. If a client binds past and present to one buffer, a
token's key and value are written directly into that. A token's position is its index in the cache,
whatever position_ids say: in a prompt the operator reads only the first row's (ONNX Runtime 1.31),
which is wrong for rows with different padding on the left. Attention depends only on differences of
positions, so results of such rows are the same; only position_ids with gaps mean something else.

The operator takes heads of a multiple of 16 values that are turned as a whole. All others are laid
out, the query heads that share a key-value head stacked as rows, so that no key or value is copied
(S tokens now, T with the cache, D the head size, G query heads per key-value head):

    q (B,S,H*D) -> (B,H,S,D) ─> rotary ─> (B,Hkv,G*S,D) \
    k (B,S,Hkv*D) -> (B,Hkv,S,D) ─> rotary ─> appended -> (B,Hkv,D,T)  > scores + mask -> softmax
    v (B,S,Hkv*D) -> (B,Hkv,S,D) ─> appended to the cache ─────────────────────────> product
"""

import math
from dataclasses import dataclass

from edgeprune.export.attention_nodes import join_heads
from edgeprune.export.emit.decoder_writer import DecoderWriter
from edgeprune.export.emit.positions import Positions
from edgeprune.export.emit.writer import path_of
from edgeprune.export.graph import CONTRIB
from edgeprune.model.anatomy import FUSED_HEADS, Anatomy, Attention, Block
from edgeprune.model.decoders import Decoder
from edgeprune.runtime.names import FUSED_ATTENTION, PAST, PRESENT


@dataclass(frozen=True)
class Rotary:
    """The tables of a model's rotary positions, stored once."""

    cosines: str
    sines: str
    width: int
    """The number of a head's first values that are rotated."""


def can_fuse(anatomy: Anatomy, rotary: tuple[Rotary, ...]) -> bool:
    """Whether the runtime's operator computes every layer's attention."""
    return bool(rotary) and all(
        block.attention.head_dim % FUSED_HEADS == 0 and block.attention.head_dim == own.width
        for block, own in zip(anatomy.blocks, rotary, strict=True)
    )


class CausalAttention:
    """Adds the attention of a decoder's layers to its graph."""

    def __init__(
        self,
        writer: DecoderWriter,
        positions: Positions,
        decoder: Decoder,
        rotary: tuple[Rotary, ...],
        fused: bool,
    ) -> None:
        """`rotary`: each layer's, none where positions are not turned."""
        self._writer, self._graph = writer, writer.graph
        self._positions, self._decoder = positions, decoder
        self._rotary, self._fused = rotary, fused

    def add(self, hidden: str, block: Block) -> str:
        """A layer's attention to normed states (B,S,W), after its output projection."""
        attention = block.attention
        projected = [
            self._writer.linear(hidden, name)
            for name in (attention.query, attention.key, attention.value)
        ]
        mask = self._positions.mask(self._decoder.windows[block.index])
        attend = self._in_one if self._fused else self._laid_out
        return self._writer.linear(attend(block, projected, mask), attention.output)

    def _in_one(self, block: Block, projected: list[str], mask: str) -> str:
        attention, graph = block.attention, self._graph
        rotary, place = self._rotary[block.index], path_of(block.attention.module)
        capped = {"softcap": self._decoder.score_cap} if self._decoder.score_cap else {}
        joined = self._writer.integers(0, 0, -1)
        rows = [
            graph.add("Reshape", [normed, joined], f"{place}/{role}/Joined")
            if (normed := self._normed(block, tensor, role)) is not None
            else tensor
            for role, tensor in zip(("query", "key", "value"), projected, strict=True)
        ]
        past, present = _caches(block)
        output = f"{place}/{FUSED_ATTENTION}_output_0"
        turned = self._decoder.turned[block.index]
        tables = [rotary.cosines, rotary.sines] if turned else ["", ""]
        return graph.add(
            FUSED_ATTENTION,
            [*rows, *past, *self._positions.lengths(), *tables, "", mask],
            f"{place}/{FUSED_ATTENTION}",
            outputs=[output, *present],
            domain=CONTRIB,
            num_heads=attention.num_heads,
            kv_num_heads=attention.num_key_value_heads,
            scale=self._scale(attention),
            do_rotary=int(turned),
            **capped,
        )

    def _laid_out(self, block: Block, projected: list[str], mask: str) -> str:
        attention, graph, writer = block.attention, self._graph, self._writer
        place = path_of(attention.module)
        past, present = _caches(block)
        query, key, value = (
            self._heads_first(block, tensor, role)
            for role, tensor in zip(("query", "key", "value"), projected, strict=True)
        )
        if self._decoder.turned[block.index]:
            query = self._turned(block, query, f"{place}/query")
            key = self._turned(block, key, f"{place}/key")
        if not self._decoder.has_cache:
            present = [key, value]
        else:
            for role, old, new, whole in zip(
                ("key", "value"), past, (key, value), present, strict=True
            ):
                graph.add("Concat", [old, new], f"{place}/{role}/Cache", outputs=[whole], axis=2)
        groups = writer.integers(0, attention.num_key_value_heads, -1, 0)
        heads = writer.integers(0, attention.num_heads, -1, 0)
        stacked = graph.add("Reshape", [query, groups], f"{place}/query/Rows")
        columns = graph.add("Transpose", [present[0]], f"{place}/key/Turned", perm=[0, 1, 3, 2])
        scores = graph.add("MatMul", [stacked, columns], f"{place}/Scores")
        scale = writer.number(self._scale(attention))
        scores = graph.add("Mul", [scores, scale], f"{place}/Scaled")
        scores = writer.bounded(scores, self._decoder.score_cap, f"{place}/Scores")
        scores = graph.add("Reshape", [scores, heads], f"{place}/ScoresByHead")
        scores = graph.add("Add", [scores, mask], f"{place}/Masked")
        weights = graph.add("Softmax", [scores], f"{place}/Weights", axis=-1)
        weights = graph.add("Reshape", [weights, groups], f"{place}/WeightsByGroup")
        context = graph.add("MatMul", [weights, present[1]], f"{place}/Context")
        context = graph.add("Reshape", [context, heads], f"{place}/ContextByHead")
        return join_heads(graph, place, attention, context)

    def _split(self, block: Block, tensor: str, role: str) -> str:
        """(B,S,H*D) -> (B,S,H,D)."""
        heads = self._writer.integers(0, 0, -1, block.attention.head_dim)
        name = f"{path_of(block.attention.module)}/{role}/Heads"
        return self._graph.add("Reshape", [tensor, heads], name)

    def _normed(self, block: Block, tensor: str, role: str) -> str | None:
        """Normed heads (B,S,H,D) of queries or keys; None where the model norms none."""
        decoder, attention = self._decoder, block.attention
        if not decoder.head_norms or role == "value":
            return None
        query, key = decoder.head_norms[block.index]
        name = query if role == "query" else key
        if decoder.norms_all_heads:
            width, _ = self._writer.weights.shapes[f"{getattr(attention, role)}.weight"]
            return self._split(block, self._writer.normed(tensor, name, decoder.norms, width), role)
        split = self._split(block, tensor, role)
        return self._writer.normed(split, name, decoder.norms, attention.head_dim)

    def _heads_first(self, block: Block, tensor: str, role: str) -> str:
        """(B,S,H*D) -> (B,H,S,D), normed where the model does that."""
        split = self._normed(block, tensor, role) or self._split(block, tensor, role)
        name = f"{path_of(block.attention.module)}/{role}/HeadsFirst"
        return self._graph.add("Transpose", [split], name, perm=[0, 2, 1, 3])

    def _turned(self, block: Block, tensor: str, place: str) -> str:
        """Heads (B,H,S,D) turned by their position; as they are where the model turns none."""
        if not self._rotary:
            return tensor
        graph, writer, rotary = self._graph, self._writer, self._rotary[block.index]
        head_dim = block.attention.head_dim
        angles = [self._positions.ids(), rotary.cosines, rotary.sines]
        if rotary.width == head_dim:
            return graph.add(
                "RotaryEmbedding", [tensor, *angles], f"{place}/Rotary", domain=CONTRIB
            )
        first, end = writer.integers(0), writer.integers(head_dim)
        width, axis = writer.integers(rotary.width), writer.integers(-1)
        start = graph.add("Slice", [tensor, first, width, axis], f"{place}/Start")
        rest = graph.add("Slice", [tensor, width, end, axis], f"{place}/Rest")
        turned = graph.add("RotaryEmbedding", [start, *angles], f"{place}/Rotary", domain=CONTRIB)
        return graph.add("Concat", [turned, rest], f"{place}/Whole", axis=-1)

    def _scale(self, attention: Attention) -> float:
        """The factor of the scores."""
        decoder = self._decoder
        if decoder.score_factor is not None:
            return decoder.score_factor
        size = decoder.score_size or attention.head_dim
        return 1 / math.sqrt(size) if decoder.scales_scores else 1.0


def _caches(block: Block) -> tuple[list[str], list[str]]:
    """Names of a layer's keys and values, before this run and after it."""
    pasts, presents = (
        [f"{prefix}{block.index}.{part}" for part in ("key", "value")] for prefix in (PAST, PRESENT)
    )
    return pasts, presents
