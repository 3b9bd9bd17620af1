"""Models that compute the same function with less rounding, on which agreement can be told from noise.

Half floats carry three digits, and a quantiser turns a difference in the seventh digit into a whole step. Neither says
anything about a cut. So both sides of the comparison are rewritten alike before they are run:

    widened     float16 and bfloat16 become float32, everywhere
    unrounded   x -> QuantizeLinear -> DequantizeLinear -> y  becomes  x -> y  for activations; weights stay quantised
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.attributes import attribute, set_attribute, subgraphs
from onnxprune.model import Model
from onnxprune.normalize import graphs
from onnxprune.tensors import Tensor

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
    """The same model without rounding of activations; None where quantised tensors are also computed with."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    outputs = {item.name for item in proto.graph.output}
    free: set[str] = set()
    for node in proto.graph.node:
        fed = [name for name in node.input if name in free]
        if node.op_type == "QuantizeLinear" and node.input[0] not in model.weights:
            free.add(node.output[0])
            _pass(node)
        elif node.op_type == "DequantizeLinear" and fed:
            _pass(node)
        elif fed and (node.op_type not in _MOVES or subgraphs(node)):
            return None
        elif fed:
            free.update(node.output)
    if not free or outputs & free:
        return None
    del proto.graph.value_info[:]
    return model.replace(proto=proto)


def _pass(node: onnx.NodeProto) -> None:
    name, source, target = node.name, node.input[0], node.output[0]
    node.CopyFrom(onnx.helper.make_node("Identity", [source], [target], name=name))
