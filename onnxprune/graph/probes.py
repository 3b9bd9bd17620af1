"""Where two models are compared: at their outputs, unless a decision lies in between.

An index or a selection (TopK, NonMaxSuppression, ArgMax …) turns rounding noise into another answer. Everything that
follows one is left out; instead the continuous tensors that enter the decisions are compared. And where an output has
gone through a function that flattens (sigmoid, softmax), what went in is compared: near saturation the output is all
rounding, while its input still says whether the models agree.

    image -> backbone -> scores -> TopK -> NMS -> boxes
                           ^ compared            ^ not compared
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxprune.graph.attributes import attribute
from onnxprune.graph.shapes import Shape

_T = onnx.TensorProto
FLOATS = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE})
INTEGERS = frozenset({_T.BOOL, _T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64})
_DECISIONS = """
    ArgMax ArgMin Bernoulli Ceil Compress Equal Floor Greater GreaterOrEqual Less LessOrEqual Mod Multinomial
    NonMaxSuppression NonZero RandomNormal RandomNormalLike RandomUniform RandomUniformLike Round Sign TopK Unique
"""
DECISIONS = frozenset(_DECISIONS.split())


def flattened(graph: onnx.GraphProto) -> list[str]:
    """Graph outputs in whose place something earlier is compared."""
    makers = {name: node for node in graph.node for name in node.output}
    return [item.name for item in graph.output if _unflattened(item.name, makers) != item.name]


def probes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> list[str]:
    """Names of the float tensors to compare, in graph order."""
    data = {item.name for item in graph.input}
    decided: set[str] = set()
    entering: list[str] = []
    for node in graph.node:
        fed = [name for name in node.input if name in data]
        if any(name in decided for name in fed):
            decided.update(node.output)
            entering.extend(name for name in fed if name not in decided)
        elif _decides(node, fed, shapes):
            decided.update(node.output)
            entering.extend(fed)
        if fed and node.op_type not in ("Shape", "Size"):
            data.update(node.output)
    inputs = {item.name for item in graph.input}
    makers = {name: node for node in graph.node for name in node.output}
    outputs = [_unflattened(item.name, makers) for item in graph.output if item.name not in decided]
    wanted = dict.fromkeys([*outputs, *entering])
    comparable = FLOATS | INTEGERS  # numbers that follow no decision, sizes for instance, must agree exactly
    return [
        name
        for name in wanted
        if name not in inputs and shapes.get(name, (0, None))[0] in (comparable if name in outputs else FLOATS)
    ]


_FLATTENS = frozenset(["Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh", "Exp", "Softplus", "Softsign"])
_MOVES = frozenset(["Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"])


def _unflattened(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """The tensor before the flattening functions that end in `name`, if there are any."""
    found = name
    while (node := makers.get(name)) is not None and node.op_type in _FLATTENS | _MOVES:
        name = node.input[0]
        if node.op_type in _FLATTENS:
            found = name
    return found


def _decides(node: onnx.NodeProto, fed: list[str], shapes: Mapping[str, Shape]) -> bool:
    floats = [name for name in fed if shapes.get(name, (0, None))[0] in FLOATS]
    if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
        return True
    if node.op_type == "Cast":
        return bool(floats) and attribute(node, "to", 0) not in FLOATS
    return bool(floats) and node.op_type in DECISIONS
