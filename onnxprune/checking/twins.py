"""Models that compute the same function with less rounding, on which agreement can be told from noise.

Half floats carry three digits, and a quantiser turns a difference in the seventh digit into a whole step. Neither says
anything about a cut. So both sides of the comparison are rewritten alike before they are run:

    widened     float16 and bfloat16 become float32, everywhere
    unrounded   x -> QuantizeLinear -> DequantizeLinear -> y  becomes  x -> y  for activations, and integer products of
                dynamically quantised activations become float ones; weights stay quantised
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.attributes import attribute, set_attribute, subgraphs
from onnxprune.graph.normalize import graphs

_T = onnx.TensorProto
HALVES = {_T.FLOAT16, _T.BFLOAT16}


def is_half(model: Model) -> bool:
    """Some weight or input is a half float."""
    kinds = {tensor.dtype for tensor in model.weights.values()}
    kinds |= {item.type.tensor_type.elem_type for item in model.graph.input}
    return bool(kinds & HALVES)


def widened(model: Model) -> Model:
    """The same model in float32."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for graph in graphs(proto.graph):
        for item in (*graph.input, *graph.output, *graph.value_info):
            if item.type.tensor_type.elem_type in HALVES:
                item.type.tensor_type.elem_type = _T.FLOAT
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for item in node.attribute:
                if item.HasField("t"):
                    _widen(item.t)
            for name in ("to", "dtype"):
                if attribute(node, name) in HALVES:
                    set_attribute(node, name, int(_T.FLOAT))
    weights = {
        name: Tensor.of(name, tensor.array().astype(np.float32)) if tensor.dtype in HALVES else tensor
        for name, tensor in model.weights.items()
    }
    return model.replace(proto=proto, weights=weights)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in HALVES:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


_MOVES = frozenset(
    ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Relu", "Identity", "Concat", "Slice"]
    + ["Split", "Gather", "Expand", "Tile"]
)
"""What stands between a quantiser and its counterpart and only moves or picks values."""


def unrounded(model: Model) -> Model | None:
    """The same model without rounding of activations; None where quantised tensors are also computed with otherwise.

    Behind `DynamicQuantizeLinear` stands an integer product; it becomes one of floats: x / scale times (weight - zero).
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    outputs = {item.name for item in proto.graph.output}
    free: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        made = _freed(node, free, model)
        if made is None:
            return None
        nodes += made
    if not free or outputs & free:
        return None
    del proto.graph.value_info[:]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return model.replace(proto=proto)


def _freed(node: onnx.NodeProto, free: set[str], model: Model) -> list[onnx.NodeProto] | None:
    """What stands for a node among unrounded values; `free` are the names of these, and grows."""
    make = onnx.helper.make_node
    fed = [name for name in node.input if name in free]
    if node.op_type == "QuantizeLinear" and node.input[0] not in model.weights:
        free.add(node.output[0])
        return [make("Identity", [node.input[0]], [node.output[0]], name=node.name)]
    if node.op_type == "DynamicQuantizeLinear":
        free.add(node.output[0])
        kept = make(node.op_type, node.input, [f"{node.output[0]}:rounded", *node.output[1:]], name=node.name)
        return [kept, make("Div", [node.input[0], node.output[1]], [node.output[0]])]
    if not fed:
        return [node]
    if node.op_type == "DequantizeLinear":
        return [make("Identity", [node.input[0]], [node.output[0]], name=node.name)]
    if node.op_type in _PRODUCTS:
        return _product(node, model)
    if node.op_type not in _MOVES or subgraphs(node):
        return None
    free.update(node.output)
    return [node]


_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


def _product(node: onnx.NodeProto, model: Model) -> list[onnx.NodeProto] | None:
    make, (values, weight), out = onnx.helper.make_node, node.input[:2], node.output[0]
    point = node.input[3] if len(node.input) > 3 else ""
    zero = model.weights.get(point)
    if weight not in model.weights or (
        point and (zero is None or (node.op_type == "ConvInteger" and zero.array().size > 1))
    ):
        return None
    nodes = [make("Cast", [weight], [f"{out}:weight"], to=_T.FLOAT)]
    if point:
        nodes += [make("Cast", [point], [f"{out}:zero"], to=_T.FLOAT)]
        nodes += [make("Sub", [f"{out}:weight", f"{out}:zero"], [f"{out}:centred"])]
    taken = f"{out}:centred" if point else f"{out}:weight"
    made = make(_PRODUCTS[node.op_type], [values, taken], [out], name=node.name)
    made.attribute.extend(node.attribute)
    return [*nodes, made]
