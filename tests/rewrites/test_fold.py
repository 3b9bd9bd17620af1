"""Every layer takes its normalisation in exactly, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from building import Net
from nets import NETS
from onnx import TensorProto, helper
from oracle import prepared

from onnxprune.execution.inputs import random_feeds
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.rewrites.agreement import difference
from onnxprune.rewrites.fold import fold

NOISE = 1e-5


def normed(kind: str, *, bias: bool, rank: int = 2) -> Model:
    """One layer and its normalisation, and another layer to read it."""
    n = Net()
    if kind in ("gemm", "plain gemm", "matmul"):
        x = n.image(7, 5)
        w = n.weight(*((6, 5) if kind == "gemm" else (5, 6)), name="w")
        b = [n.weight(6, name="b", scale=0.5)] if bias else []
        y = n.op("MatMul", x, w, name="layer") if kind == "matmul" else n.op(
            "Gemm", x, w, *b, name="layer", transB=1 if kind == "gemm" else None)  # fmt: skip
    else:
        shape = (3, 4, *[7] * rank)
        groups = {"conv": 1, "grouped": 2, "depthwise": 4, "deconv": 1, "grouped deconv": 2}[kind]
        out = 4 if kind == "depthwise" else 6
        layer = n.deconv if "deconv" in kind else n.conv
        y = layer(n.image(*shape), out, 3, group=groups, bias=bias, name="layer")
    n.output(n.op("Relu", n.norm(y, name="bn")))
    return prepared(n.proto())


def same_outputs(before: Model, after: Model) -> float:
    return difference(before, after, [random_feeds(before, seed=seed) for seed in range(3)])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "kind", ["conv", "grouped", "depthwise", "deconv", "grouped deconv", "gemm", "plain gemm", "matmul"]
)
def test_layers_take_it_in(kind: str, bias: bool) -> None:
    model = normed(kind, bias=bias)
    found = fold(model)
    assert (found.done, found.left) == (("bn",), {})
    kinds = [node.op_type for node in found.model.graph.node]
    assert len(kinds) == (3 if kind == "matmul" else 2)
    assert "BatchNormalization" not in kinds
    assert same_outputs(model, found.model) < NOISE
    off = {name: Tensor.of(name, 1.5 * weight.array()) for name, weight in found.model.weights.items()}
    with pytest.raises(Exception, match="differs by"):
        same_outputs(model, found.model.replace(weights=off))


@pytest.mark.parametrize("rank", [1, 3])
def test_of_any_rank(rank: int) -> None:
    model = normed("conv", bias=True, rank=rank)
    assert same_outputs(model, fold(model).model) < NOISE


def test_names_stay_as_far_as_they_can() -> None:
    with_bias, without = (fold(normed("conv", bias=bias)).model for bias in (True, False))
    assert set(with_bias.weights) == {"layer.weight", "layer.bias"}
    assert set(without.weights) == {"layer.weight", "bn.bias"}
    assert without.graph.node[0].output[0] == "bn.out"


def test_two_in_a_row() -> None:
    n = Net()
    n.output(n.op("Relu", n.norm(n.norm(n.conv(n.image(), 5, 3, name="layer"), name="one"), name="two")))
    model = prepared(n.proto())
    found = fold(model)
    assert found.done == ("one", "two")
    assert same_outputs(model, found.model) < NOISE


def two_readers(n: Net) -> str:
    y = n.conv(n.image(), 5, 3, name="layer")
    return n.op("Add", n.norm(y, name="bn"), y)


def is_output(n: Net) -> str:
    y = n.conv(n.image(), 5, 3, name="layer")
    n.output(y)
    return n.norm(y, name="bn")


def shared_weight(n: Net) -> str:
    y = n.conv(n.image(2, 3, 6, 6), 3, 3, name="layer")
    return n.norm(n.op("Conv", y, "layer.weight", name="second", pads=[1] * 4), name="bn")


def after_activation(n: Net) -> str:
    return n.norm(n.op("Relu", n.conv(n.image(), 5, 3, name="layer")), name="bn")


def scaled(n: Net) -> str:
    return n.norm(n.op("Gemm", n.image(4, 5), n.weight(5, 6), name="layer", alpha=0.5), name="bn")


def other_axis(n: Net) -> str:
    return n.norm(n.op("MatMul", n.image(2, 6, 5), n.weight(5, 6), name="layer"), name="bn")


def trains(n: Net) -> str:
    y = n.norm(n.conv(n.image(), 5, 3, name="layer"), name="bn")
    n.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    return y


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (two_readers, "'layer.out' is read by others, too"),
        (is_output, "'layer.out' is read by others, too"),
        (shared_weight, "the weight of 'second' is shared, or no float32 initializer"),
        (after_activation, "what it normalises comes from Relu, which is no layer"),
        (scaled, "'layer' scales its product"),
        (other_axis, "'layer' has its channels on the last axis"),
        (trains, "it trains, or its vectors are no float32 initializers"),
    ],
)
def test_what_is_left_says_why(graph: Callable[[Net], str], why: str) -> None:
    n = Net()
    n.output(graph(n))
    model = prepared(n.proto())
    found = fold(model)
    assert (found.done, found.left) == ((), {"bn": why})
    assert [node.SerializeToString() for node in found.model.graph.node] == [
        node.SerializeToString() for node in model.graph.node
    ]


def test_vectors_that_two_normalisations_share_are_only_read() -> None:
    n = Net()
    y = n.norm(n.conv(n.image(), 5, 3, bias=False, name="one"), name="bn")
    y = n.op("Relu", y)
    z = n.conv(y, 5, 3, bias=False, name="two")
    z = n.op("BatchNormalization", z, "bn.weight", "bn.bias", "bn.mean", "bn.var", name="bn2")
    n.output(n.op("Relu", z))
    model = prepared(n.proto())
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = name.partition("::")[0]  # normalisation has taken them apart
    found = fold(model)
    assert found.done == ("bn", "bn2")
    assert same_outputs(model, found.model) < NOISE


def test_half_floats_are_left() -> None:
    model = normed("conv", bias=True)
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    for item in (*proto.graph.input, *proto.graph.output):
        item.type.tensor_type.elem_type = TensorProto.FLOAT16
    halves = {name: Tensor.of(name, weight.array().astype("float16")) for name, weight in model.weights.items()}
    found = fold(model.replace(proto=proto, weights=halves))
    assert found.left == {"bn": "it trains, or its vectors are no float32 initializers"}


@pytest.mark.parametrize("name", NETS)
def test_networks(name: str) -> None:
    model = prepared(NETS[name]())
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    found = fold(model)
    assert len(found.done) + len(found.left) == norms
    assert (
        same_outputs(model, found.model) < NOISE if found.done else found.model.weights.keys() == model.weights.keys()
    )
