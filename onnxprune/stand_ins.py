"""Shape inference knows no vendor operators. For each there is a standard one with an output of the same shape.

The graph that results computes something else; only its shapes are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxprune.attributes import attribute

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
    "FusedMatMul": ("MatMul", (0, 1)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "QGemm": ("Gemm", (0, 3)),
    "EmbedLayerNormalization": ("Gather", (2, 0)),
    "QuantizeLinear": ("QuantizeLinear", slice(None)),
    "DequantizeLinear": ("DequantizeLinear", slice(None)),
}
"""Vendor operator -> standard operator and the inputs it takes."""

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
    if not own or node.op_type not in STAND_INS or _transposed(node):
        yield node
        return
    op, taken = STAND_INS[node.op_type]
    inputs = list(node.input)
    inputs = inputs[taken] if isinstance(taken, slice) else [inputs[i] for i in taken if i < len(inputs)]
    made = onnx.helper.make_node(op, inputs, [node.output[0]], name=node.name)
    made.attribute.extend(item for item in node.attribute if op not in ("Identity", "Gather"))
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


def _transposed(node: onnx.NodeProto) -> bool:
    return node.op_type == "FusedMatMul" and bool(attribute(node, "transA", 0) or attribute(node, "transB", 0))


def _made_width(node: onnx.NodeProto, widths: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """(inputs, outputs) of an operator that contains a projection."""
    if node.op_type == "MatMulNBits":
        return attribute(node, "K"), attribute(node, "N")
    if node.op_type == "Attention" and node.input[1] in widths:
        inner, total = widths[node.input[1]]
        return inner, (attribute(node, "qkv_hidden_sizes") or [total // 3] * 3)[2]
    return None
