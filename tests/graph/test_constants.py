"""Arithmetic on constants: done once, as onnxruntime would do it, and never on what a model has learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from building import I64, Net
from onnx import TensorProto, helper
from oracle import opened, prepared

from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.constants import fold_constants

Write = Callable[[Net], str]


def ints(n: Net, *values: int) -> str:
    return n.const(values, np.int64)


def floats(n: Net, *values: float) -> str:
    return n.const(values, np.float32)


def unary(op: str, *values: float, dtype: Any = np.float32, **attributes: Any) -> Write:
    return lambda n: n.op(op, n.const(values, dtype), **attributes)


def binary(op: str, a: Any, b: Any, dtype: Any = np.int64, **attributes: Any) -> Write:
    return lambda n: n.op(op, n.const(a, dtype), n.const(b, dtype), **attributes)


FORMS: dict[str, Write] = {
    "Add": binary("Add", [1, 2], [3, 4]),
    "Sub": binary("Sub", [1, 2], [3]),
    "Mul": binary("Mul", [[1], [2]], [3, 4]),
    "Div": binary("Div", [7, 8], [2, 3]),
    "Div of negative numbers": binary("Div", [-7, 7, -8, 8, -7], [2, -2, 3, -3, -2]),
    "Div of negative numbers, int32": binary("Div", [-7, 7], [2, -2], np.int32),
    "Div of floats": binary("Div", [7.0, -1.0], [2.0, 4.0], np.float32),
    "Mod": binary("Mod", [7, 8, -7, 7, -7], [2, 3, 3, -3, -3]),
    "Mod like C": binary("Mod", [7, 8, -7, 7, -7], [2, 3, 3, -3, -3], fmod=1),
    "Pow": binary("Pow", [2, 3], [3, 2]),
    "Max": binary("Max", [2, 3], [3, 2]),
    "Min": binary("Min", [2, 3], [3, 2]),
    "Equal": binary("Equal", [2, 3], [3, 3]),
    "Less": binary("Less", [2, 3], [3, 3]),
    "Greater": binary("Greater", [4, 3], [3, 3]),
    "And": binary("And", [True, False], [True, True], np.bool_),
    "Not": unary("Not", True, False, dtype=np.bool_),
    "Neg": unary("Neg", 1, -2, dtype=np.int64),
    "Abs": unary("Abs", 1, -2, dtype=np.int64),
    "Sign": unary("Sign", 1, -2, 0, dtype=np.int64),
    "Floor": unary("Floor", 1.5, -1.5),
    "Ceil": unary("Ceil", 1.5, -1.5),
    "Round": unary("Round", 0.5, 1.5, 2.5, -0.5, -1.5),
    "Sqrt": unary("Sqrt", 4.0, 2.0),
    "Exp": unary("Exp", 1.0, -2.0),
    "Log": unary("Log", 1.0, 64.0),
    "Cast to int": unary("Cast", 1.7, -1.7, 2.0, to=I64),
    "Cast to float": unary("Cast", 1, 2, dtype=np.int64, to=TensorProto.FLOAT),
    "Cast to bool": unary("Cast", 0, 2, dtype=np.int64, to=TensorProto.BOOL),
    "Cast to half": unary("Cast", 0.1, 2.0, to=TensorProto.FLOAT16),
    "Identity": unary("Identity", 1, 2, dtype=np.int64),
    "Concat": lambda n: n.concat(ints(n, 1, 2), ints(n, 3), axis=0),
    "Gather": lambda n: n.op("Gather", ints(n, 4, 5, 6), ints(n, -1, 0)),
    "Gather of one": lambda n: n.op("Gather", ints(n, 4, 5, 6), n.const(1, np.int64)),
    "Slice": lambda n: n.slice(ints(n, 4, 5, 6, 7), 1, 3, axis=0),
    "Slice backwards": lambda n: n.op(
        "Slice", ints(n, 4, 5, 6, 7), ints(n, -1), ints(n, -(2**63)), ints(n, 0), ints(n, -1)
    ),
    "Squeeze": lambda n: n.squeeze(n.const([[4, 5]], np.int64), 0),
    "Unsqueeze": lambda n: n.unsqueeze(ints(n, 4, 5), 0),
    "Reshape": lambda n: n.reshape(ints(n, 4, 5, 6, 7), 2, -1),
    "Transpose": lambda n: n.transpose(n.const([[4, 5], [6, 7]], np.int64)),
    "Split": lambda n: n.split(ints(n, 4, 5, 6), 0, 1, 2)[1],
    "Range": lambda n: n.op("Range", n.const(1, np.int64), n.const(9, np.int64), n.const(3, np.int64)),
    "Range of floats": lambda n: n.op(
        "Range", n.const(0, np.float32), n.const(1, np.float32), n.const(0.25, np.float32)
    ),
    "ConstantOfShape": lambda n: n.op("ConstantOfShape", ints(n, 3), value=helper.make_tensor("v", I64, [1], [7])),
    "Expand": lambda n: n.op("Expand", ints(n, 5), ints(n, 4)),
    "Tile": lambda n: n.op("Tile", ints(n, 5, 6), ints(n, 2)),
    "Where": lambda n: n.op("Where", n.const([True, False], np.bool_), ints(n, 1, 2), ints(n, 3, 4)),
    "ReduceProd": lambda n: n.reduce("ReduceProd", ints(n, 2, 3, 4), 0, keepdims=0),
    "ReduceSum": lambda n: n.reduce("ReduceSum", ints(n, 2, 3, 4), 0),
    "ReduceMax": lambda n: n.reduce("ReduceMax", ints(n, 2, 3, 4), 0),
    "ArgMax": lambda n: n.op("ArgMax", ints(n, 2, 7, 4)),
    "CumSum": lambda n: n.op("CumSum", ints(n, 2, 3, 4), n.const(0, np.int64)),
    "NonZero": lambda n: n.op("NonZero", ints(n, 0, 3, 0, 4)),
    "ScatterND": lambda n: n.op("ScatterND", ints(n, 1, 2, 3), n.const([[1]], np.int64), ints(n, 9)),
    "ScatterElements": lambda n: n.op("ScatterElements", ints(n, 1, 2, 3), ints(n, 1), ints(n, 9)),
    "OneHot": lambda n: n.op("OneHot", ints(n, 0, 2), n.const(3, np.int64), ints(n, 0, 1)),
    "TopK": lambda n: n.ops("TopK", 2, ints(n, 3, 9, 5), ints(n, 2))[1],
    "Pad": lambda n: n.op("Pad", ints(n, 3, 9), ints(n, 1, 2), n.const(7, np.int64)),
    "Trilu": lambda n: n.op("Trilu", n.const(np.ones((3, 3)), np.int64), upper=0),
    "Clip": lambda n: n.op("Clip", ints(n, -3, 3, 9), n.const(0, np.int64), n.const(5, np.int64)),
    "Size": lambda n: n.op("Size", ints(n, 3, 9)),
    "Shape of integers": lambda n: n.op("Shape", n.const([[3, 9]], np.int64)),
    "a chain": lambda n: n.op(
        "Cast", n.op("Floor", n.op("Mul", n.op("Cast", ints(n, 7), to=1), floats(n, 1.5))), to=I64
    ),
}
LEFT: dict[str, Write] = {
    "many floats": lambda n: n.op("Neg", n.const(np.arange(9), np.float32)),
    "a matrix of floats": lambda n: n.op("Neg", n.const(np.ones((2, 2)), np.float32)),
    "many integers": lambda n: n.op("Neg", n.const(np.arange(5000), np.int64)),
    "what grows": lambda n: n.op("Expand", ints(n, 5), ints(n, 5000)),
    "half a matrix": lambda n: n.op("ConstantOfShape", ints(n, 3, 3)),
    "shape of a weight": lambda n: n.op("Shape", n.weight(3, 4)),
    "size of a weight": lambda n: n.op("Size", n.weight(3, 4)),
    "bytes": lambda n: n.op("Add", n.const([1], np.uint8), n.const([2], np.uint8)),
    "a dequantised bias": lambda n: n.op("DequantizeLinear", n.const([4, 5], np.int32), n.scalar(0.5)),
    "random numbers": lambda n: n.op("RandomUniformLike", floats(n, 1.0, 2.0)),
    "what depends on an input": lambda n: n.op("Add", n.input("given", 2, dtype=I64), ints(n, 1, 2)),
    "what cannot be computed": lambda n: n.op("Reshape", ints(n, 1, 2, 3), ints(n, 2, 2)),
}


def written(write: Write) -> tuple[Net, str]:
    """The value goes on to something that depends on an input, so that it is not an output itself."""
    net = Net(17)
    return net, write(net)


def folded(net: Net, name: str) -> tuple[list[str], dict[str, Tensor]]:
    """Operators that are left, and the initializers."""
    net.output(name + ".end")
    net.nodes.append(helper.make_node("Identity", [name], [name + ".end"]))
    model = opened(net._proto(net.outputs))
    weights = dict(model.weights)
    fold_constants(model.proto.graph, weights, net.opset)
    return [node.op_type for node in model.graph.node], weights


@pytest.mark.parametrize("form", FORMS)
def test_as_onnxruntime_computes_it(form: str) -> None:
    net, name = written(FORMS[form])
    left, weights = folded(net, name)
    assert left == ["Identity"]
    same, _ = written(FORMS[form])
    same.outputs.append(name)
    proto = same._proto([])
    proto.graph.output.append(helper.make_tensor_value_info(name, weights[name].dtype, None))
    (want,) = run(session(opened(proto)), {}).values()
    have = weights[name].array()
    assert have.dtype == want.dtype
    assert have.shape == want.shape
    np.testing.assert_allclose(have, want, rtol=2e-7 if want.dtype == np.float32 else 0)


@pytest.mark.parametrize("form", LEFT)
def test_left_alone(form: str) -> None:
    net, name = written(LEFT[form])
    before = [node.op_type for node in net.nodes]
    left, _ = folded(net, name)
    assert left == [*before, "Identity"]


def test_outputs_stay_nodes() -> None:
    """An initializer cannot be an output of the graph in every runtime."""
    net = Net()
    net.input("x", 2)
    net.output(net.op("Add", ints(net, 1), ints(net, 2)))
    model = opened(net.proto())
    fold_constants(model.proto.graph, dict(model.weights), 17)
    assert [node.op_type for node in model.graph.node] == ["Add"]


def test_pad_amounts_from_both_exporters() -> None:
    """PyTorch's legacy exporter computes pads: ConstantOfShape, Concat, Reshape, Slice, Transpose, Cast."""
    net = Net(17)
    x = net.conv(net.image(), 8, name="first")
    zeros = net.op("ConstantOfShape", ints(net, 4), value=helper.make_tensor("v", I64, [1], [0]))
    pads = net.reshape(net.concat(ints(net, 1, 2, 1, 0), zeros, axis=0), -1, 2)
    pads = net.op("Slice", pads, ints(net, -1), ints(net, -(2**63) + 1), ints(net, 0), ints(net, -1))
    pads = net.op("Cast", net.reshape(net.transpose(pads, 1, 0), -1), to=I64)
    net.output(net.op("Conv", net.op("Pad", x, pads), net.weight(5, 8, 1, 1)))
    model = prepared(net.proto())
    assert [node.op_type for node in model.graph.node] == ["Conv", "Pad", "Conv"]


def test_shared_constants_fold_for_each_user() -> None:
    net = Net(17)
    x = net.input("x", 2, 12)
    twelve = ints(net, 12)
    a = net.op("Reshape", x, net.concat(ints(net, 2), net.op("Div", twelve, ints(net, 3)), ints(net, -1), axis=0))
    b = net.op("Reshape", x, net.concat(ints(net, 2), net.op("Div", twelve, ints(net, 4)), ints(net, -1), axis=0))
    net.output(a, b)
    model: Model = prepared(net.proto())
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Reshape"]
    targets = [model.weights[node.input[1]].array().tolist() for node in model.graph.node]
    assert targets == [[2, 4, -1], [2, 3, -1]]
