"""Shape inference knows no vendor operators. For each there is a standard one with an output of the same shape.

The graph that results computes something else; only its shapes are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxprune.graph.attributes import attribute

SAME = (
    "BiasGelu FastGelu Gelu QuickGelu LayerNormalization SimplifiedLayerNormalization SkipLayerNormalization "
    "SkipSimplifiedLayerNormalization RotaryEmbedding GroupQueryAttention QLinearLeakyRelu QLinearSigmoid "
    "QLinearSoftmax"
)
"""The first output has the shape of the first input."""

STAND_INS: Mapping[str, tuple[str, slice | tuple[int, ...]]] = {
    **dict.fromkeys(SAME.split(), ("Identity", (0,))),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearConv": ("QLinearConv", slice(None)),
    "NhwcConv": ("Conv", (0, 1, 2)),
    "NhwcMaxPool": ("MaxPool", (0,)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "DynamicQuantizeLSTM": ("LSTM", (0, 1, 2)),
    "QGemm": ("Gemm", (0, 3)),
    "EmbedLayerNormalization": ("Gather", (2, 0)),
    "QuantizeLinear": ("QuantizeLinear", slice(None)),
    "DequantizeLinear": ("DequantizeLinear", slice(None)),
}
"""Vendor operator -> standard operator and the inputs it takes."""

TO_FLOAT = {"MatMulIntegerToFloat": 2, "QGemm": 1}
"""Integers enter and floats leave; at this input stands a scale."""

AS_INPUT = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3}
"""An output that has the shape of the first, too."""


def use_stand_ins(graph: onnx.GraphProto, widths: Mapping[str, tuple[int, ...]]) -> None:
    """Replace the vendor operators of a graph, in place. `widths` are the shapes of its weights."""
    nodes = [made for node in graph.node for made in _standard(graph, node, widths)]
    if len(nodes) != len(graph.node) or any(node is not old for node, old in zip(nodes, graph.node, strict=True)):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _standard(
    graph: onnx.GraphProto, node: onnx.NodeProto, widths: Mapping[str, tuple[int, ...]]
) -> Iterator[onnx.NodeProto]:
    # onnxruntime keeps this one in the standard domain, which does not know it
    own = node.domain == "com.microsoft" or node.op_type == "SimplifiedLayerNormalization"
    width = _made_width(node, widths) if own else None
    if width is not None:
        name = f"{node.output[0]}::width"
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, width))
        yield onnx.helper.make_node("MatMul", [node.input[0], name], [node.output[0]], name=node.name)
        return
    if own and node.op_type == "MultiHeadAttention" and len(node.input) > 1:
        yield _attended(node)
        return
    if own and node.op_type == "GroupQueryAttention" and not any(node.input[1:3]):
        yield from _unpacked(graph, node)
        return
    if own and node.op_type == "FusedMatMul":
        yield _product(node, widths)
        return
    if not own or node.op_type not in STAND_INS:
        yield node
        return
    op, taken = STAND_INS[node.op_type]
    inputs = list(node.input)
    inputs = inputs[taken] if isinstance(taken, slice) else [inputs[i] for i in taken if i < len(inputs)]
    made = onnx.helper.make_node(op, inputs, node.output if op == "LSTM" else [node.output[0]], name=node.name)
    made.attribute.extend(item for item in node.attribute if op not in ("Identity", "Gather"))
    if node.op_type.startswith("Nhwc") or attribute(node, "channels_last", 0):
        yield from _turned(made, weight=node.op_type == "NhwcConv")
    elif node.op_type in TO_FLOAT:
        yield from _scaled(made, node)
    else:
        yield made
    extra = AS_INPUT.get(node.op_type, len(node.output))
    if extra < len(node.output):
        yield onnx.helper.make_node("Identity", [node.input[0]], [node.output[extra]])


def _attended(node: onnx.NodeProto) -> onnx.NodeProto:
    """As many positions as the queries have, as wide as the values; where those are packed, as wide as the queries."""
    if len(node.input) > 2 and node.input[2]:
        taken, equation = [node.input[0], node.input[2]], "bqd,bkw->bqw"
        return onnx.helper.make_node("Einsum", taken, [node.output[0]], name=node.name, equation=equation)
    return onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)


def _turned(made: onnx.NodeProto, *, weight: bool) -> Iterator[onnx.NodeProto]:
    """Channels come last; in the weight, too, where `weight` says so."""
    kept = [item for item in made.attribute if item.name != "channels_last"]
    del made.attribute[:]
    made.attribute.extend(kept)
    for i in range(1 + weight):
        name = f"{made.output[0]}::turned{i}"
        yield onnx.helper.make_node("Transpose", [made.input[i]], [name], perm=[0, 3, 1, 2])
        made.input[i] = name
    result, made.output[0] = made.output[0], f"{made.output[0]}::turned"
    yield made
    yield onnx.helper.make_node("Transpose", [made.output[0]], [result], perm=[0, 2, 3, 1])


def _scaled(made: onnx.NodeProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The product is of integers, so its type is not yet the result's: floats, or what QGemm quantises to."""
    result, product = node.output[0], f"{node.output[0]}::product"
    scale, target = node.input[TO_FLOAT[node.op_type]], list(node.input[7:9]) if node.op_type == "QGemm" else []
    made.output[0] = product
    yield made
    if len(target) == 2 and target[1]:
        yield onnx.helper.make_node("DequantizeLinear", [product, scale], [f"{result}::float"])
        yield onnx.helper.make_node("QuantizeLinear", [f"{result}::float", *target], [result])
    else:
        yield onnx.helper.make_node("DequantizeLinear", [product, scale], [result])


def _unpacked(graph: onnx.GraphProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Queries, keys and values lie side by side; the result is as wide as the queries."""
    heads, stem = attribute(node, "num_heads", 1), node.output[0]
    total = heads + 2 * attribute(node, "kv_num_heads", heads)
    numbers = {"apart": [0, 0, total, -1], "start": [0], "end": [heads], "axis": [2], "together": [0, 0, -1]}
    for name, values in numbers.items():
        graph.initializer.append(
            onnx.helper.make_tensor(f"{stem}::{name}", onnx.TensorProto.INT64, [len(values)], values)
        )
    yield onnx.helper.make_node("Reshape", [node.input[0], f"{stem}::apart"], [f"{stem}::heads"])
    bounds = [f"{stem}::{name}" for name in ("start", "end", "axis")]
    yield onnx.helper.make_node("Slice", [f"{stem}::heads", *bounds], [f"{stem}::queries"])
    yield onnx.helper.make_node("Reshape", [f"{stem}::queries", f"{stem}::together"], [stem], name=node.name)


def _product(node: onnx.NodeProto, widths: Mapping[str, tuple[int, ...]]) -> onnx.NodeProto:
    """Batches of both sides are taken for equal, unless one side is a plain matrix."""
    left, right = (attribute(node, name, 0) for name in ("transA", "transB"))
    if not left and not right:
        return onnx.helper.make_node("MatMul", node.input[:2], [node.output[0]], name=node.name)
    first, second = ("" if len(widths.get(name, ())) == 2 else "..." for name in node.input[:2])
    equation = f"{first}{'ji' if left else 'ij'},{second}{'kj' if right else 'jk'}->{first or second}ik"
    return onnx.helper.make_node("Einsum", node.input[:2], [node.output[0]], name=node.name, equation=equation)


def _made_width(node: onnx.NodeProto, widths: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """(inputs, outputs) of an operator that contains a projection."""
    if node.op_type == "MatMulNBits":
        return attribute(node, "K"), attribute(node, "N")
    if node.op_type == "Attention" and node.input[1] in widths:
        inner, total = widths[node.input[1]]
        return inner, (attribute(node, "qkv_hidden_sizes") or [total // 3] * 3)[2]
    return None
