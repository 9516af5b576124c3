"""The function that stands for RowAttention where the library is not installed.

A decoder's is the runtime's GroupQueryAttention, which the operator takes the place of; a cache in
float16 is turned to float32 for it, and back. What sees the whole text is written out. A function
has one body, so that all attention of a model has one form.
"""

from collections.abc import Sequence

from onnx import FunctionProto, NodeProto, TensorProto, helper, parser

from edgeprune.kernels.attention import ROW_ATTENTION
from edgeprune.kernels.formats import CONTRIB, DOMAIN

_ROW_ATTENTION, _HALF = ROW_ATTENTION["float32"], ROW_ATTENTION["float16"]
_PAST, _PRESENT = (3, 4), (1, 2)
_QUERY, _KEY, _VALUE, _BIAS, _INPUTS, _OUTPUTS = 0, 1, 2, 10, 11, 3
_FLOAT, _FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
_ATTRIBUTES = ("num_heads", "kv_num_heads", "scale", "softcap", "local_window_size", "do_rotary")

_WHOLE = """
    {split}
    same = Constant <value_ints = [0, 0]> ()
    rest = Constant <value_ints = [-1]> ()
    heads = Constant <value_int: int = @num_heads> ()
    count = Reshape (heads, rest)
    apart = Concat <axis = 0> (same, count, rest)
    merged = Concat <axis = 0> (same, rest)
    factor = Constant <value_float: float = @scale> ()
    q_apart = Reshape (q, apart)
    k_apart = Reshape (k, apart)
    v_apart = Reshape (v, apart)
    q_heads = Transpose <perm = [0, 2, 1, 3]> (q_apart)
    k_heads = Transpose <perm = [0, 2, 3, 1]> (k_apart)
    v_heads = Transpose <perm = [0, 2, 1, 3]> (v_apart)
    scores = MatMul (q_heads, k_heads)
    scaled = Mul (scores, factor)
    masked = Add (scaled, bias)
    weights = Softmax <axis = -1> (masked)
    mixed = MatMul (weights, v_heads)
    tokens = Transpose <perm = [0, 2, 1, 3]> (mixed)
    context = Reshape (tokens, merged)"""


def attention_functions(nodes: Sequence[NodeProto], opset: int) -> list[FunctionProto]:
    """The function of a model's RowAttention nodes; none where there are none.

    Raises:
        ValueError: the nodes have several forms, or one that no function has.
    """
    nodes = [
        node for node in nodes if node.domain == DOMAIN and node.op_type in (_ROW_ATTENTION, _HALF)
    ]
    if not nodes:
        return []
    kinds = {node.op_type for node in nodes}
    if _HALF in kinds:
        if len(kinds) > 1 or not all(_has(node, _PAST[0]) for node in nodes):
            raise ValueError("attention of one model with a cache in float16 and without")
        return [_as_grouped(opset, half=True)]
    forms = {(_is_causal(node), _has(node, _KEY)) for node in nodes}
    if len(forms) > 1:
        raise ValueError("attention of one model that sees the whole text and that does not")
    [(causal, apart)] = forms
    if causal:
        return [_as_grouped(opset)]
    plain = all(_of(node, "softcap", 0.0) == 0 and _of(node, "scale", 0.0) > 0 for node in nodes)
    heads = all(_of(node, "num_heads", 0) == _of(node, "kv_num_heads", 0) for node in nodes)
    if not plain or not heads or not all(_has(node, _BIAS) for node in nodes):
        raise ValueError("attention to the whole text without a scale, a bias or heads of its own")
    return [_written_out(opset, apart)]


def _as_grouped(opset: int, half: bool = False) -> FunctionProto:
    inputs, outputs = _names(_INPUTS, "input"), _names(_OUTPUTS, "output")
    read, written, before, after = list(inputs), list(outputs), [], []
    for place in _PAST if half else ():
        read[place] = f"{inputs[place]}_float"
        before.append(helper.make_node("Cast", [inputs[place]], [read[place]], to=_FLOAT))
    for place in _PRESENT if half else ():
        written[place] = f"{outputs[place]}_float"
        after.append(helper.make_node("Cast", [written[place]], [outputs[place]], to=_FLOAT16))
    node = helper.make_node("GroupQueryAttention", read, written, domain=CONTRIB)
    for name in _ATTRIBUTES:
        kind = "FLOAT" if name in ("scale", "softcap") else "INT"
        attribute = node.attribute.add(name=name, ref_attr_name=name)
        attribute.type = attribute.AttributeType.Value(kind)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    named = [*_ATTRIBUTES, "causal"]
    kind, nodes = _HALF if half else _ROW_ATTENTION, [*before, node, *after]
    return helper.make_function(DOMAIN, kind, inputs, outputs, nodes, imports, named)


def _written_out(opset: int, apart: bool) -> FunctionProto:
    inputs = _names(_INPUTS, "input")
    inputs[_QUERY], inputs[_BIAS] = "q" if apart else "packed", "bias"
    if apart:
        inputs[_KEY], inputs[_VALUE] = "k", "v"
    equal = ", num_outputs = 3" if opset >= 18 else ""
    split = "" if apart else f"q, k, v = Split <axis = -1{equal}> (packed)"
    attributes = ", ".join([*_ATTRIBUTES, "causal"])
    return parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n'
        f"{_ROW_ATTENTION} <{attributes}> ({', '.join(inputs)}) => (context) "
        f"{{{_WHOLE.format(split=split)}\n}}"
    )


def _names(count: int, kind: str) -> list[str]:
    return [f"{kind}_{place}" for place in range(count)]


def _has(node: NodeProto, place: int) -> bool:
    return len(node.input) > place and bool(node.input[place])


def _is_causal(node: NodeProto) -> bool:
    return bool(_of(node, "causal", 1))


def _of(node: NodeProto, name: str, default: float) -> float:
    for entry in node.attribute:
        if entry.name == name:
            return float(helper.get_attribute_value(entry))
    return default
