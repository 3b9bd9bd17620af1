"""Sizes as data: where a length goes on as a length it follows the cut, where it is used as a number it may not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from building import MS, Net
from onnx import helper, numpy_helper
from rows import Op, Row, across, between, row, summed

ESCAPES = {"size-escapes": 8}
I64 = 7


def value(number: float, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([number], dtype))


def scaled_by_width(n: Net, x: str) -> str:
    """x / sqrt(channels)"""
    width = n.op("Cast", n.op("Gather", n.op("Shape", x), n.const(1, np.int64)), to=1)
    return n.op("Div", x, n.op("Sqrt", width), made=n.shape(x))


def scaled_by_height(n: Net, x: str) -> str:
    height = n.op("Cast", n.op("Gather", n.op("Shape", x), n.const(2, np.int64)), to=1)
    return n.op("Div", x, n.op("Sqrt", height), made=n.shape(x))


def scaled_by_count(n: Net, x: str) -> str:
    return n.op("Div", x, n.op("Cast", n.op("Size", x), to=1))


def length_as_output(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    n.output(n.op("Shape", x))
    n.close(x)


def pixels_as_output(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    n.output(n.slice(n.op("Shape", x), 2, 4, 0))
    n.close(x)


def branch(name: str, *nodes: onnx.NodeProto, out: str, shape: list[int]) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(out, 1, shape)])


def length_in_a_body(n: Net) -> None:
    """The number of channels is read inside a branch."""
    x = n.conv(n.image(), 8, name="first")
    width = n.length(x, 1)
    cast = helper.make_node("Cast", [width], ["wide"], to=1)
    body = branch("b", cast, helper.make_node("Identity", ["wide"], ["w"]), out="w", shape=[1])
    y = n.op("If", n.const(True, np.bool_), then_branch=body, else_branch=body)
    n.output(n.op("Mul", n.conv(x, 5, name="last"), y))


def chosen_by_width(n: Net, x: str) -> str:
    """A number that depends on how many channels there are."""
    few = n.op("Less", n.length(x, 1), n.ints(6))
    same = n.op("Equal", n.length(x, 1), n.ints(8))
    number = n.op("Where", same, n.ints(3), n.ints(5))
    flag = n.op("Where", few, n.scalar(1.0), n.scalar(2.0))
    return n.op("Mul", n.op("Mul", x, n.op("Cast", number, to=1)), flag, made=n.shape(x))


def filled(number: float, *, kind: str = "Add", dtype: type = np.float32) -> Op:
    """A constant of the shape of the activation."""

    def op(n: Net, x: str) -> str:
        y = n.op("ConstantOfShape", n.op("Shape", x), value=value(number, dtype))
        y = y if dtype is np.float32 else n.op("Cast", y, to=1)
        return n.op(kind, x, y, made=n.shape(x))

    return op


def filled_default(n: Net, x: str) -> str:
    return n.op("Add", x, n.op("ConstantOfShape", n.ints(2, 8, 6, 6)))


def filled_kernel(n: Net) -> None:
    """A kernel of equal numbers."""
    kernel = n.op("ConstantOfShape", n.ints(8, 3, 1, 1), value=value(0.5))
    x = n.op("Conv", n.image(), kernel)
    n.close(n.op("Mul", x, n.weight(8, 1, 1)))


def filled_mask(n: Net) -> None:
    """Masked by a length that is not known."""
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    y = n.op("ConstantOfShape", n.op("Shape", x), value=value(0.5))
    n.close(n.op("Add", x, y, made=("N", 8, "H", "W")))


def filled_by_vendor(n: Net, x: str) -> str:
    y = n.op(f"{MS}::ConstantOfShape", n.op("Shape", x), value=value(0.5), made=n.shape(x))
    return n.op("Add", x, y, made=n.shape(x))


def divided_batch(n: Net) -> None:
    """(N * 8, 4, 6): arithmetic divides what it still believes to be N * 8 by 8."""
    x = n.reshape(n.conv(n.image("N", 3, 4, 6), 8, name="first"), -1, 4, 6)
    batch = n.op("Div", n.length(x, 0), n.ints(8))
    y = n.op("Reshape", n.op("Relu", x), n.concat(batch, n.ints(8, 4, 6), axis=0), made=("N", 8, 4, 6))
    n.close(y)


def filled_given(n: Net, x: str) -> str:
    y = n.op("ConstantOfShape", n.input("dims", 4, dtype=I64), value=value(0.5))
    return n.op("Add", x, y, made=n.shape(x))


def expanded(n: Net, x: str) -> str:
    """torch.expand, as the legacy exporter writes it: -1 is replaced by ones."""
    wanted = n.ints(-1, -1, 6, 6)
    ones = n.op("ConstantOfShape", n.ints(4), value=value(1, np.int64))
    shape = n.op("Where", n.op("Equal", wanted, n.op("Mul", ones, n.ints(-1))), ones, wanted)
    return n.op("Expand", n.op("GlobalAveragePool", x), shape)


def counted(n: Net, x: str) -> str:
    """Positions are numbered by channel: every number counts."""
    one = n.const(1, np.int64)
    width = n.op("Gather", n.op("Shape", x), one)
    steps = n.op("Range", n.const(0, np.int64), width, one)
    return n.op("Add", x, n.unsqueeze(n.op("Cast", steps, to=1), 1, 2), made=n.shape(x))


def counted_pixels(n: Net, x: str) -> str:
    """Positions are numbered by column."""
    one = n.const(1, np.int64)
    width = n.op("Gather", n.op("Shape", x), n.const(3, np.int64))
    return n.op("Add", x, n.op("Cast", n.op("Range", n.const(0, np.int64), width, one), to=1), made=n.shape(x))


def counted_given(n: Net) -> None:
    x = n.conv(n.image(1, 3, 4, "W"), 8, name="first")
    steps = n.op("Range", n.const(0, np.int64), n.input("stop", dtype=I64), n.const(1, np.int64))
    n.output(n.op("Cast", steps, to=1))
    n.close(x)


def counted_constant(n: Net, x: str) -> str:
    steps = n.op("Range", n.scalar(0.0), n.scalar(6.0), n.scalar(1.0))
    return n.op("Add", x, steps, made=n.shape(x))


def measured(start: int | None, end: int | None) -> Op:
    def op(n: Net, x: str) -> str:
        sizes = n.op("Shape", x, start=start, end=end)
        rest = 4 - len(range(4)[start or 0 : end])
        parts = [n.ints(2), sizes] if rest == 1 else [sizes, n.ints(36)] if rest == 2 else [sizes]
        y = n.op("Reshape", n.op("Relu", x), n.concat(*parts, axis=0)) if len(parts) > 1 else n.op("Reshape", x, sizes)
        return n.op("Tanh", y)

    return op


def through(*kinds: str) -> Op:
    """A length goes through operators that hand it on before it becomes a target again."""

    def op(n: Net, x: str) -> str:
        width = n.length(x, 1)
        for kind in kinds:
            width = {
                "Cast": lambda w: n.op("Cast", n.op("Cast", w, to=6), to=7),
                "Identity": lambda w: n.op("Identity", w),
                "Squeeze": lambda w: n.unsqueeze(n.squeeze(w, 0), 0),
                "Squeeze all": lambda w: n.unsqueeze(n.op("Squeeze", w), 0),
                "Reshape": lambda w: n.reshape(n.reshape(w, 1, 1), -1),
                "Slice": lambda w: n.slice(n.op("Shape", x), 1, 2, 0),
                "Split": lambda w: n.split(n.op("Shape", x), 0, 1, 1, 2)[1],
                "Split even": lambda w: n.ops(
                    "Split", 4, n.op("Shape", x), axis=0, num_outputs=4 if n.opset > 17 else None
                )[1],
                "Mul": lambda w: n.op("Div", n.op("Mul", w, n.ints(6)), n.ints(6)),
                "Add": lambda w: n.op("Sub", n.op("Add", w, n.ints(5)), n.ints(5)),
                "Max": lambda w: n.op("Max", w, n.ints(1)),
                "Min": lambda w: n.op("Min", w, n.ints(1000)),
                "Mod": lambda w: n.op("Mod", w, n.ints(1000)),
                "Neg": lambda w: n.op("Neg", n.op("Neg", w)),
                "ReduceProd": lambda w: n.op(
                    "ReduceProd", n.concat(w, n.ints(1), axis=0), axes=[0] if n.opset < 18 else None
                ),
                "Where": lambda w: n.op("Where", n.op("Equal", w, n.ints(-1)), n.ints(1), w),
                "Concat": lambda w: n.op("Gather", n.concat(n.ints(3), w, axis=0), n.ints(-1)),
            }[kind](width)
        target = n.concat(n.length(x, 0), width, n.ints(36), axis=0)
        return n.op("Reshape", x, target, made=(2, 8, 36))

    return op


def mixed_target(n: Net, x: str) -> str:
    """The batch is computed at run time, the channels are a constant: only they are rewritten."""
    return n.op(
        "Reshape",
        x,
        n.concat(n.op("Mul", n.input("batch", 1, dtype=I64), n.ints(1)), n.ints(8, 36), axis=0),
        made=(2, 8, 36),
    )


def odd_division(n: Net, x: str) -> str:
    """Halves of 8 channels are 4 and 4; what a cut leaves is not."""
    half = n.op("Div", n.length(x, 1), n.ints(2))
    target = n.concat(n.length(x, 0), n.ints(2), half, n.ints(36), axis=0)
    y = n.op("Reshape", x, target, made=(2, 2, 4, 36))
    return n.reshape(n.op("Softmax", y, axis=1), 2, 8, 36)


def opaque(n: Net, x: str) -> str:
    """Where neither contents nor shape inference know the target, nothing is guessed."""
    target = n.op("Cast", n.op("Round", n.op("Mul", n.op("Cast", n.op("Shape", x), to=1), n.scalar(1.0))), to=7)
    return n.op("Reshape", x, target, made=n.shape(x))


def drawn(kind: str) -> Op:
    return lambda n, x: n.op("Add", x, n.op(kind, shape=[2, 8, 6, 6], seed=1.0))


def drawn_pixels(n: Net, x: str) -> str:
    return n.op("Add", x, n.op("RandomNormal", shape=[1, 1, 6, 6], seed=1.0))


def drawn_like(kind: str) -> Op:
    return lambda n, x: n.op("Add", x, n.op(kind, x, seed=1.0))


def bernoulli(n: Net, x: str) -> str:
    return n.op("Bernoulli", n.op("Sigmoid", x), seed=1.0)


def multinomial(n: Net) -> None:
    x = n.gemm(n.input("x", 4, 6), 8, name="first")
    n.output(n.op("Multinomial", x, sample_size=3, seed=1.0))


def strings(n: Net, x: str) -> str:
    """What normalisation leaves as a Constant node."""
    text = n.op("Constant", value_strings=[b"a", b"b"])
    n.output(text)
    return x


ROWS = [
    between("Shape as a divisor", scaled_by_width, frozen=ESCAPES),
    between("Shape of pixels as a divisor", scaled_by_height),
    between("Size as a divisor", scaled_by_count, frozen={"counted": 8}),
    row("Shape as an output", length_as_output, frozen=ESCAPES),
    row("Shape of pixels as an output", pixels_as_output, 8),
    row("Shape inside a body", length_in_a_body, frozen=ESCAPES),
    between("Shape in a condition", chosen_by_width, frozen=ESCAPES),
    *(between(f"Shape from {a} to {b}", measured(a, b)) for a, b in ((1, None), (0, 2), (None, None), (-3, 4))),
    *(
        between(f"Shape through {kind}", through(kind))
        for kind in (
            *("Cast", "Identity", "Squeeze", "Squeeze all", "Reshape", "Slice", "Split", "Split even", "Mul", "Add"),
            *("Max", "Min", "Mod", "Neg", "ReduceProd", "Where", "Concat"),
        )
    ),
    *across((10, 11, 13, 18, 21), "Shape", through("Mul", "Slice", "Squeeze", "Split")),
    between("a target of computed and constant parts", mixed_target, runs=False),
    between("a target by division", odd_division, 4),
    between("a target by floating point", opaque, frozen=ESCAPES),
    between("ConstantOfShape", filled(0.5)),
    between("ConstantOfShape, default", filled_default),
    between("ConstantOfShape of integers", filled(2, dtype=np.int64), frozen=ESCAPES),
    between("ConstantOfShape, multiplied", filled(0.5, kind="Mul")),
    row("ConstantOfShape as a kernel", filled_kernel, 8),
    row("ConstantOfShape of an unknown picture", filled_mask, 8, dims={"N": 2, "H": 5, "W": 7}),
    between("ConstantOfShape of given shape", filled_given, frozen={"dynamic-size": 8}, runs=False),
    between("ConstantOfShape of com.microsoft", filled_by_vendor, runs=False, roles={"last.weight:1": "in"}),
    summed("ConstantOfShape of com.microsoft", filled_by_vendor, runs=False, frozen={"reduced": 8}),
    row("Shape of batch times channels", divided_batch, 8, dims={"N": 2}),
    summed("ConstantOfShape of zeros", filled(0.0)),
    summed("ConstantOfShape of zeros, default", filled_default),
    summed("ConstantOfShape of ones", filled(1.0), frozen={"reduced": 8}),
    between("expand as exported", expanded),
    between("Range of channels", counted, frozen=ESCAPES),
    between("Range of pixels", counted_pixels),
    row("Range to a given stop", counted_given, 8, runs=False),
    between("Range of constants", counted_constant),
    *(between(kind, drawn(kind), frozen={"fixed-axis": 8}) for kind in ("RandomNormal", "RandomUniform")),
    between("RandomNormal of pixels", drawn_pixels),
    *(between(kind, drawn_like(kind), frozen={"random": 8}) for kind in ("RandomNormalLike", "RandomUniformLike")),
    between("Bernoulli", bernoulli, frozen={"random": 8}),
    row("Multinomial", multinomial, frozen={"random": 8}),
    between("Constant of strings", strings, runs=False),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_shape(case: Row) -> None:
    case.check()
