"""Convolutions: dimensions, groups, kernels that come from somewhere, and what a convolution moves over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from building import MS, Net
from oracle import prepared
from rows import Row, across, between, row, summed, total

from onnxprune.analysis.analyze import analyze
from onnxprune.cutting.apply import apply
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select


def onto(n: Net, x: str, w: str, **more: object) -> str:
    return n.op("Conv", x, w, **more)


def twice(n: Net) -> None:
    """One kernel at two places, as in a detector's heads."""
    x = n.image()
    w = n.weight(8, 3, 1, 1)
    a, b = n.op("Relu", onto(n, x, w)), n.op("Tanh", onto(n, n.op("Neg", x), w))
    n.close(n.op("Add", n.conv(a, 4, name="a"), n.conv(b, 4, name="b")))


def looped(n: Net) -> None:
    """A kernel applied to its own result: its rows are its columns."""
    w = n.weight(8, 8, 3, 3)
    x = n.conv(n.image(), 8, name="first")
    for _ in range(3):
        x = n.op("Tanh", onto(n, x, w, pads=[1, 1, 1, 1]))
    n.close(x)


def grouped_twice(n: Net) -> None:
    """Channels of one grouped convolution enter another with fewer groups."""
    x = n.conv(n.image(), 12, name="first")
    n.close(n.conv(n.conv(x, 12, 3, group=4, name="a"), 12, 3, group=2, name="b"))


def given_kernel(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    n.close(n.op("Conv", x, n.input("kernel", 4, 8, 1, 1)))


def dynamic_kernel(n: Net) -> None:
    """The kernel is computed from the picture; its channels are those of the layer that makes it."""
    x = n.conv(n.image(1, 3, 6, 6), 8, name="first")
    pooled = n.op("Flatten", n.op("GlobalAveragePool", x))
    kernel = n.reshape(n.linear(pooled, 32, name="kernel"), 4, 8, 1, 1)
    n.close(onto(n, x, kernel))


def kernel_pixels(n: Net) -> None:
    """The positions of a computed kernel are not channels."""
    pooled = n.op("Flatten", n.op("GlobalAveragePool", n.image(1, 3, 6, 6)))
    y = n.linear(pooled, 9, name="first")
    kernel = n.op("Mul", n.weight(8, 3, 1, 1), n.reshape(y, 1, 1, 1, 9))
    n.close(n.op("Conv", "image", kernel, pads=[0, 4, 0, 4]))


def moved_over(n: Net) -> None:
    """The channels stand where pixels are expected."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.conv(n.transpose(x, 0, 2, 1, 3), 4, 3, name="across"))


def moved_over_transposed(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    n.close(n.deconv(n.transpose(x, 0, 2, 1, 3), 4, name="across"))


def fused(activation: str, *params: float) -> Row:
    def op(n: Net, x: str) -> str:
        w, b = n.weight(6, 8, 1, 1, name="fused.weight"), n.weight(6, name="fused.bias")
        return n.op(
            f"{MS}::FusedConv", x, w, b, activation=activation, activation_params=params or None, made=(2, 6, 6, 6)
        )

    zero = activation != "Sigmoid"
    return (
        summed(f"FusedConv {activation}", op, 8, 6)
        if zero
        else summed("FusedConv Sigmoid", op, 8, frozen={"reduced": 6})
    )


def fused_depthwise(n: Net, x: str) -> str:
    w, b = n.weight(8, 1, 3, 3, name="fused.weight"), n.weight(8, name="fused.bias")
    return n.op(f"{MS}::FusedConv", x, w, b, activation="Relu", group=8, pads=[1, 1, 1, 1], made=(2, 8, 6, 6))


def fused_across(n: Net) -> None:
    x = n.transpose(n.conv(n.image(), 8, name="first"), 0, 2, 1, 3)
    n.close(
        n.op(f"{MS}::FusedConv", x, n.weight(4, 6, 3, 3, name="f"), activation="Relu", pads=[1] * 4, made=(2, 4, 8, 6))
    )


def nhwc(group: int = 1) -> Callable[[Net], None]:
    """Channels last, in the weight as well: onnxruntime has it on accelerators only."""

    def write(n: Net) -> None:
        x = n.linear(n.input("x", 2, 6, 6, 3), 8, name="first")
        w, b = n.weight(8, 3, 3, 8 // group, name="second.weight"), n.weight(8, name="second.bias")
        y = n.op(f"{MS}::NhwcConv", x, w, b, group=group, pads=[1, 1, 1, 1], made=(2, 6, 6, 8))
        n.output(n.linear(y, 5, name="last"))

    return write


def nhwc_across(n: Net) -> None:
    x = n.transpose(n.linear(n.input("x", 2, 6, 6, 3), 8, name="first"), 0, 1, 3, 2)
    n.output(n.op(f"{MS}::NhwcConv", x, n.weight(8, 3, 3, 6, name="last.weight"), pads=[1, 1, 1, 1], made=(2, 6, 8, 8)))


def nhwc_summed(n: Net) -> None:
    x = n.linear(n.input("x", 2, 6, 6, 3), 8, name="first")
    w = n.op("Exp", n.weight(6, 1, 1, 8, name="second.weight", scale=0.3))
    y = n.op(f"{MS}::NhwcConv", x, w, made=(2, 6, 6, 6))
    n.output(n.linear(n.reduce("ReduceSum", y, 3), 5, name="last"))


def nhwc_plain_summed(n: Net) -> None:
    x = n.linear(n.input("x", 2, 6, 6, 3), 8, name="first")
    y = n.op(f"{MS}::NhwcConv", x, n.weight(6, 1, 1, 8, name="second.weight"), made=(2, 6, 6, 6))
    n.output(n.linear(n.reduce("ReduceSum", y, 3), 5, name="last"))


NHWC: list[tuple[str, Callable[[Net], None], tuple[int, ...], dict[str, str]]] = [
    ("plain", nhwc(), (8, 8), {"second.weight:3": "in", "second.weight:0": "out", "last.weight:0": "in"}),
    ("depthwise", nhwc(8), (8,), {"second.weight:0": "out", "second.bias:0": "shift", "last.weight:0": "in"}),
]


def fused_sum(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    w, b = n.weight(8, 8, 1, 1, name="fused.weight"), n.weight(8, name="fused.bias")
    n.close(n.op(f"{MS}::FusedConv", x, w, b, x, activation="Relu", made=(2, 8, 6, 6)))


def through(name: str, kernel: str, *units: int, **more: object) -> Row:
    """A kernel that reaches its convolution through other operators."""

    def op(n: Net, x: str) -> str:
        kernels = {
            "Transpose": lambda: n.transpose(n.weight(8, 6, 1, 1, name="w"), 1, 0, 2, 3),
            "Reshape": lambda: n.reshape(n.weight(6, 8, name="w"), 6, 8, 1, 1),
            "Reshape rows": lambda: n.reshape(n.weight(3, 2, 8, name="w"), 6, 8, 1, 1),
            "Identity": lambda: n.op("Identity", n.weight(6, 8, 1, 1, name="w")),
            "Cast": lambda: n.op("Cast", n.const(n.rng.standard_normal((6, 8, 1, 1)), np.float64, name="w"), to=1),
            "scale": lambda: n.op("Mul", n.weight(6, 8, 1, 1, name="w"), n.weight(6, 1, 1, 1)),
            "scale within": lambda: n.op("Mul", n.weight(6, 8, 1, 1, name="w"), n.weight(1, 8, 1, 1)),
            "weight norm": lambda: n.op(
                "Mul", n.op("Div", v := n.weight(6, 8, 1, 1, name="w"), norm(n, v)), n.weight(6, 1, 1, 1)
            ),
            "Concat": lambda: n.concat(n.weight(4, 8, 1, 1, name="w"), n.weight(2, 8, 1, 1), axis=0),
            "Exp": lambda: n.op("Exp", n.weight(6, 8, 1, 1, name="w", scale=0.3)),
        }
        return onto(n, n.op("Relu", x), kernels[kernel]())

    return between(f"kernel through {name}", op, *units, **more)  # type: ignore[arg-type]


def norm(n: Net, v: str) -> str:
    return n.reduce("ReduceL2", v, 1, 2, 3, keepdims=1)


def image(dims: int) -> tuple[int, ...]:
    return (2, 3, *[4] * dims)


ROWS = [
    *(between(f"Conv {d}-D", lambda n, x: n.conv(x, 6, 3, name="second"), 8, 6, image=image(d)) for d in (1, 2, 3)),
    *across((7, 9, 11, 13, 22), "Conv", lambda n, x: n.conv(x, 6, 3, name="second"), 8, 6),
    between("Conv without bias", lambda n, x: n.conv(x, 6, bias=False, name="second"), 8, 6),
    between("Conv with strides and dilations", lambda n, x: n.conv(x, 6, 3, strides=[2, 1], dilations=[1, 2]), 8, 6),
    between("Conv with auto_pad", lambda n, x: onto(n, x, n.weight(6, 8, 3, 3), auto_pad="SAME_UPPER"), 8, 6),
    summed("Conv", lambda n, x: n.conv(x, 6, name="second"), 8, 6),
    summed("Conv without bias", lambda n, x: n.conv(x, 6, name="second", bias=False), 8, 6),
    # Groups: depthwise, with a multiplier, many narrow ones, few wide ones
    *(
        between(f"depthwise {d}-D", lambda n, x: n.conv(x, 8, 3, group=8, name="dw"), 8, image=image(d))
        for d in (1, 2, 3)
    ),
    between("depthwise with multiplier", lambda n, x: n.conv(x, 24, 3, group=8, name="dw"), 8),
    between("depthwise without bias", lambda n, x: n.conv(x, 8, 3, group=8, bias=False, name="dw"), 8),
    between("few wide groups", lambda n, x: n.conv(x, 12, 3, group=2, name="g"), 4, 6),
    between("many narrow groups", lambda n, x: n.conv(x, 16, 3, group=8, name="g"), 8, channels=16),
    between("shrinking to depthwise", lambda n, x: n.conv(x, 4, 3, group=4, name="g"), 4),
    row("groups of a picture", lambda n: n.close(n.conv(n.image(2, 4, 6, 6), 8, 3, group=2, name="g")), 4),
    row("grouped twice", grouped_twice, 2, 6),
    summed("depthwise", lambda n, x: n.conv(x, 16, group=8, name="dw")),
    # Sharing
    row("kernel used twice", twice, 8, 4),
    row("kernel on its own result", looped, 8),
    row("kernel from outside", given_kernel, frozen={"fixed-axis": 8}),
    row("kernel from an activation", dynamic_kernel, 8),
    row("kernel pixels from an activation", kernel_pixels, frozen={"convolved": 9}),
    row("channels where pixels should be", moved_over, 4, frozen={"convolved": 8}),
    row("channels where pixels should be, transposed", moved_over_transposed, 4, frozen={"convolved": 8}),
    # Kernels through operators
    through("Transpose", "Transpose", 8, 6),
    through("Reshape", "Reshape", 8, 6),
    through("a Reshape that joins", "Reshape rows", 8, 3),
    through("Identity", "Identity", 8, 6),
    through("Cast", "Cast", 8, 6),
    through("a scale", "scale", 8, 6),
    through("a scale of its inputs", "scale within", 8, 6),
    through("weight norm", "weight norm", 8, 6),
    through("Concat", "Concat", 8, 4, 2),
    through("Exp", "Exp", 8, 6),
    through("Exp, summed", "Exp", 8, frozen={"reduced": 6}, end=total),
    # Transposed
    *(between(f"ConvTranspose {d}-D", lambda n, x: n.deconv(x, 6, name="up"), 8, 6, image=image(d)) for d in (1, 2, 3)),
    *across((7, 11, 22), "ConvTranspose", lambda n, x: n.deconv(x, 6, name="up"), 8, 6),
    between("ConvTranspose without bias", lambda n, x: n.deconv(x, 6, bias=False, name="up"), 8, 6),
    between("ConvTranspose of few wide groups", lambda n, x: n.deconv(x, 12, group=2, name="up"), 4, 6),
    between(
        "ConvTranspose of many narrow groups",
        lambda n, x: n.deconv(x, 8, group=4, name="up"),
        4,
        frozen={"other-factor": 2},
    ),
    between("ConvTranspose depthwise", lambda n, x: n.deconv(x, 8, group=8, name="up"), 8),
    between(
        "ConvTranspose depthwise with multiplier",
        lambda n, x: n.deconv(x, 24, group=8, name="up"),
        8,
        frozen={"other-factor": 3},
    ),
    between("ConvTranspose of one group", lambda n, x: n.deconv(x, 1, name="up")),
    row("ConvTranspose depthwise of a picture", lambda n: n.close(n.deconv(n.image(2, 4, 6, 6), 8, group=4)), 2),
    summed("ConvTranspose", lambda n, x: n.deconv(x, 6, name="up"), 8, 6),
    summed("ConvTranspose depthwise", lambda n, x: n.deconv(x, 8, group=8, name="up")),
    # Fused by onnxruntime
    *(fused(activation) for activation in ("Relu", "Tanh", "Sigmoid")),
    fused("LeakyRelu", 0.1),
    between("FusedConv depthwise", fused_depthwise),
    row("FusedConv of channels where pixels should be", fused_across, 4, frozen={"convolved": 8}),
    *(row(f"NhwcConv {kind}", write, *found, runs=False, roles=roles) for kind, write, found, roles in NHWC),
    row("NhwcConv of channels where pixels should be", nhwc_across, frozen={"convolved": 8}, runs=False),
    row("NhwcConv, summed", nhwc_plain_summed, 8, 6, runs=False),
    row("NhwcConv with a computed kernel, summed", nhwc_summed, 8, frozen={"reduced": 6}, runs=False),
    row("FusedConv with a sum", fused_sum, frozen={"fused-sum": 8}),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_conv(case: Row) -> None:
    case.check()


def test_groups_of_a_convolution_for_accelerators_follow() -> None:
    """Nothing here runs it, so only what it stores is looked at."""
    net = Net()
    nhwc(8)(net)
    model = prepared(net.proto())
    coupling = analyze(model)
    pruned = apply(model, select(coupling, score(model, coupling), ratio=0.5))
    (node,) = (node for node in pruned.graph.node if node.op_type == "NhwcConv")
    assert [item.i for item in node.attribute if item.name == "group"] == [4]
    assert pruned.weights["second.weight"].shape == (4, 3, 3, 1)
