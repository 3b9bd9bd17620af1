"""Forms of models beside their operators: bodies, functions, sharing, types, names; each pruned and compared."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from building import F, Net
from onnx import TensorProto, helper
from oracle import check, prepared, reasons, units
from rows import Row, row

from onnxprune.analysis.analyze import analyze


def body(name: str, nodes: list[onnx.NodeProto], out: str, shape: list[int] | None = None) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, F, shape)])


def branch_on_activation(n: Net) -> None:
    """Both branches read an activation of the outer graph."""
    x = n.conv(n.image(), 8, name="first")
    y = n.conv(n.op("Relu", n.conv("image", 6, name="free")), 4, name="free2")
    then = body("then", [helper.make_node("Relu", [x], ["t"])], "t", [2, 8, 6, 6])
    other = body("else", [helper.make_node("Neg", [x], ["e"])], "e", [2, 8, 6, 6])
    z = n.op("If", n.const(True, np.bool_), then_branch=then, else_branch=other)
    n.output(n.conv(z, 5, name="last"), n.conv(y, 5, name="last.free"))


def branch_on_weight(n: Net) -> None:
    """A weight of the outer graph is used inside and outside: nothing of it may go."""
    w = n.weight(8, 3, 1, 1, name="w")
    x = n.op("Conv", n.image(), w)
    then = body("then", [helper.make_node("Conv", ["image", w], ["t"])], "t", [2, 8, 6, 6])
    other = body("else", [helper.make_node("Neg", ["image"], ["e"])], "e", [2, 3, 6, 6])
    z = n.op("If", n.const(True, np.bool_), then_branch=then, else_branch=other)
    n.output(n.op("Identity", z))
    n.close(n.op("Relu", x))


def nested_branch(n: Net) -> None:
    """Captured two levels down."""
    x = n.conv(n.image(), 8, name="first")
    inner = body("inner", [helper.make_node("Relu", [x], ["i"])], "i", [2, 8, 6, 6])
    outer_node = helper.make_node("If", ["flag"], ["o"], then_branch=inner, else_branch=inner)
    outer = body("outer", [outer_node], "o", [2, 8, 6, 6])
    z = n.op("If", n.const(True, np.bool_, name="flag"), then_branch=outer, else_branch=outer)
    n.close(z)


def shadowed_name(n: Net) -> None:
    """A loop body has a name of its own that also exists outside: that is no capture."""
    x = n.conv(n.image(), 8, name="first")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", [x], ["next"]), helper.make_node("Identity", ["go"], ["going"])],
        "loop",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info(x, F, [2, 3, 6, 6])],
        [info("going", TensorProto.BOOL, []), info("next", F, [2, 3, 6, 6])],
    )
    z = n.op("Loop", n.const(2, np.int64), n.const(True, np.bool_), "image", body=graph)
    n.output(n.op("Identity", z))
    n.close(x)


def scanned(n: Net) -> None:
    """Scan over time: what it reads stays whole, what comes before and after does not."""
    x = n.linear(n.op("Relu", n.linear(n.input("x", 4, 5), 6, name="free")), 8, name="first")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["s", "t"], ["s2"]), helper.make_node("Identity", ["s2"], ["y"])],
        "scan",
        [info("s", F, [8]), info("t", F, [8])],
        [info("s2", F, [8]), info("y", F, [8])],
    )
    _, ys = n.ops("Scan", 2, n.const(np.zeros(8), np.float32), x, body=graph, num_scan_inputs=1)
    n.made[ys] = (4, 8)
    n.close(ys)


def called(n: Net) -> None:
    """A function of the model: Conv and Relu, called twice."""
    x, w, y, z = "fx", "fw", "fy", "fz"
    nodes = [helper.make_node("Conv", [x, w], [y]), helper.make_node("Relu", [y], [z])]
    n.functions.append(helper.make_function("local", "Block", [x, w], [z], nodes, [helper.make_opsetid("", 17)]))
    a = n.op("local::Block", n.image(), n.weight(8, 3, 1, 1, name="first.weight"), made=(2, 8, 6, 6))
    b = n.op("local::Block", a, n.weight(4, 8, 1, 1, name="second.weight"), made=(2, 4, 6, 6))
    n.close(b)


def unknown_operator(n: Net) -> None:
    """It freezes what it touches, and nothing else."""
    x = n.conv(n.image(), 8, name="first")
    y = n.conv(n.op("Relu", n.conv(x, 6, name="free")), 4, name="free2")
    z = n.op("custom::Mystery", x, made=(2, 7, 6, 6))
    n.output(n.conv(z, 5, name="last"), n.conv(y, 5, name="last.free"))


def unknown_shape(n: Net) -> None:
    """What comes out of it has no rank: whoever meets it is frozen, too."""
    x = n.conv(n.image(), 8, name="first")
    y = n.conv("image", 6, name="second")
    n.output(n.op("Add", y, n.op("custom::Mystery", x), made=(2, 6, 6, 6)))


def sequence(n: Net) -> None:
    x = n.image()
    a, b = n.conv(x, 4, name="a"), n.conv(x, 6, name="b")
    both = n.op("SequenceConstruct", a, b)
    n.close(n.op("ConcatFromSequence", both, axis=1, made=(2, 10, 6, 6)))


def shared_bias(n: Net) -> None:
    """One zero bias serves three layers; they are not coupled."""
    x, zero = n.image(), n.const(np.zeros(8), np.float32, name="zero")
    for i in range(3):
        w = n.weight(8, 8 if i else 3, 1, 1, name=f"conv{i}.weight")
        x = n.op("Relu", n.op("Conv", x, w, zero, name=f"conv{i}"))
    n.close(x)


def shared_ones(n: Net) -> None:
    """An exporter merged scale and variance, which were all ones."""
    x = n.conv(n.image(), 8, name="first")
    ones, shift = n.const(np.ones(8), np.float32), n.weight(8)
    y = n.op("BatchNormalization", x, ones, shift, shift, ones)
    n.close(n.op("Div", n.conv(y, 8, name="second"), n.op("Reshape", ones, n.ints(8, 1, 1))))


def shared_gamma(n: Net) -> None:
    """A scale (8, 1, 1) serves two layers that have nothing to do with each other."""
    gamma = n.weight(8, 1, 1, name="gamma")
    x = n.op("Mul", n.conv(n.image(), 8, name="first"), gamma)
    n.close(n.op("Mul", n.conv(x, 8, name="second"), gamma))


def shared_on_purpose(n: Net) -> None:
    """A matrix used at two places ties them."""
    w = n.weight(8, 8, name="shared")
    x = n.gemm(n.input("x", 4, 6), 8, name="first")
    n.close(n.op("Add", n.op("Relu", n.op("MatMul", x, w)), n.op("Tanh", n.op("MatMul", n.op("Neg", x), w))))


def detector(n: Net) -> None:
    """Two levels, one head."""
    x = n.conv(n.image(2, 3, 8, 8), 6, name="stem")
    low = n.conv(x, 8, name="low")
    high = n.conv(n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 8, name="high")
    w, b = n.weight(4, 8, 3, 3, name="head.weight"), n.weight(4, name="head.bias")
    v = n.weight(5, 4, 1, 1, name="last.weight")
    for level in (low, high):
        y = n.op("Relu", n.op("Conv", level, w, b, pads=[1, 1, 1, 1]))
        n.output(n.op("Conv", y, v))


def shared_target(n: Net) -> None:
    """One Reshape target serves two layers that are cut differently."""
    target = n.ints(2, 8, 36)
    a, b = n.conv(n.image(), 8, name="a"), n.conv("image", 8, name="b")
    x, y = n.op("Reshape", a, target), n.op("Reshape", b, target)
    n.output(n.conv(x, 5, name="last"), n.conv(y, 3, name="last.b"))


def shared_indices(n: Net) -> None:
    picks = n.const([7, 6, 5, 4, 3, 2, 1, 0], np.int64)
    a, b = n.conv(n.image(), 8, name="a"), n.conv("image", 8, name="b")
    x, y = n.op("Gather", a, picks, axis=1), n.op("Gather", b, picks, axis=1)
    n.output(n.conv(x, 5, name="last"), n.conv(y, 3, name="last.b"))


def constants(n: Net) -> None:
    """Weights as Constant nodes, as older exporters write them."""
    w = onnx.numpy_helper.from_array(n.rng.standard_normal((8, 3, 1, 1), np.float32))
    x = n.op("Conv", n.image(), n.op("Constant", value=w))
    n.close(n.op("Mul", x, n.op("Constant", value_float=0.5)))


def weight_as_output(n: Net) -> None:
    w = n.weight(8, 3, 1, 1, name="w")
    n.close(n.op("Conv", n.image(), w))
    n.output(n.op("Identity", w))


def same_twice(n: Net) -> None:
    """One tensor at both inputs."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.concat(n.op("Add", x, x), n.op("Mul", x, x), axis=1))


def unnamed(n: Net) -> None:
    n.close(n.op("Relu", n.conv(n.image(), 8, name="first")))
    for node in n.nodes:
        node.name = ""


def dead(n: Net) -> None:
    """A layer whose result nobody reads, beside one that counts."""
    x = n.conv(n.image(), 8, name="first")
    n.op("Relu", n.conv(x, 6, name="dead"))
    n.close(x)


def no_output_channel(n: Net) -> None:
    """A single channel cannot go."""
    n.close(n.conv(n.image(), 1, name="first"))


def early_output(n: Net) -> None:
    """An activation that is read on, but also an output."""
    x = n.conv(n.image(), 8, name="first")
    n.output(x)
    n.close(n.conv(n.op("Relu", x), 6, name="second"))


def missing_inputs(n: Net) -> None:
    """An optional input is left out by an empty name."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.op("Clip", x, "", n.scalar(1.0)))


ROWS = [
    row("If on an activation", branch_on_activation, 6, 4, frozen={"captured": 8}),
    row("If on a weight", branch_on_weight, frozen={"captured": 8}),
    row("If in an If", nested_branch, frozen={"captured": 8}),
    row("Loop with a name from outside", shadowed_name, 8),
    row("Scan", scanned, 6, frozen={"no-rule": 8}),
    row("function", called, 8, 4),
    row("unknown operator", unknown_operator, 6, 4, frozen={"no-rule": 8}, runs=False),
    row("unknown operator of unknown shape", unknown_shape, frozen={"no-rule": 8, "unknown-rank": 6}, runs=False),
    row("sequence", sequence, frozen={"no-rule": 10}),
    row("shared bias", shared_bias, 8, 8, 8),
    row("shared ones", shared_ones, 8, 8),
    row("shared scale", shared_gamma, 8, 8),
    row("shared on purpose", shared_on_purpose, 8, 8),
    row("detector", detector, 8, 6, 4),
    row("shared target", shared_target, 8, 8),
    row("shared indices", shared_indices, 8, 8),
    row("Constant nodes", constants, 8),
    row("weight as output", weight_as_output, frozen={"graph-output": 8}),
    row("one tensor twice", same_twice, 8),
    row("unnamed nodes", unnamed, 8),
    row("single channel", no_output_channel),
    row("early output", early_output, 6, frozen={"graph-output": 8}),
    row("missing inputs", missing_inputs, 8),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_form(case: Row) -> None:
    case.check()


def test_a_dead_layer_is_found_but_proves_nothing() -> None:
    net = Net()
    dead(net)
    assert units(analyze(prepared(net.proto()), strict=True)) == (8, 6)


def test_initializers_that_are_graph_inputs() -> None:
    """IR 3 lists every initializer among the inputs."""
    net = Net(opset=7)
    net.close(net.norm(net.conv(net.image(), 8, name="first")))
    proto = net.proto()
    proto.ir_version = 3
    proto.graph.input.extend(
        helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in proto.graph.initializer
    )
    check(proto, expected=[8], frozen={})


def test_stale_shapes_are_not_believed() -> None:
    """Shapes that the file claims for intermediate tensors may be wrong."""
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    net.close(net.op("Relu", x))
    proto = net.proto()
    proto.graph.value_info.append(helper.make_tensor_value_info(x, F, [2, 99, 6, 6]))
    check(proto, expected=[8], frozen={})


def typed(dtype: type, to: int) -> Callable[[Net], None]:
    def write(n: Net) -> None:
        x = n.op("Cast", n.input("x", 4, 6), to=to)
        for i, (a, b) in enumerate([(6, 8), (8, 6), (6, 5)]):
            name = "last" if i == 2 else f"layer{i}"
            w = n.const(n.rng.uniform(-1, 1, (a, b)).astype(dtype), name=f"{name}.weight")
            x = n.op("MatMul", n.op("Relu", x), w, name=name)
        n.output(n.op("Cast", x, to=F))

    return write


@pytest.mark.parametrize(("dtype", "to"), [(np.float64, TensorProto.DOUBLE)])
def test_other_floating_point_types(dtype: type, to: int) -> None:
    net = Net()
    typed(dtype, to)(net)
    check(net.proto(), expected=[8, 6], frozen={})


def test_half_precision_is_pruned_as_single_precision_is() -> None:
    """Its own rounding is larger than any tolerance worth the name, so structure is compared, not numbers."""
    net = Net()
    typed(np.float16, TensorProto.FLOAT16)(net)
    coupling = check(net.proto(), expected=[8, 6], frozen={}, runs=False)
    assert reasons(coupling) == {}


def test_depth_costs_no_recursion() -> None:
    """A chain of 4,000 operators is analysed in linear time."""
    net = Net()
    x = net.conv(net.image(), 8, name="first")
    nodes = [helper.make_node("Relu", [x if i == 0 else f"r{i - 1}"], [f"r{i}"]) for i in range(4000)]
    net.nodes += nodes
    w = net.weight(5, 8, 1, 1, name="last.weight")
    net.output(net.op("Conv", "r3999", w, name="last"))
    model = prepared(net.proto())
    start = time.process_time()
    (group,) = analyze(model, strict=True).groups
    assert time.process_time() - start < 4  # twice what is promised, for slow machines
    assert (group.size, len(group.slots)) == (8, 4 + 4000)
