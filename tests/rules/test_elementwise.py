"""Element-wise operators: how shapes meet, and which of them keep the zeros of cut channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from building import MS, Net
from onnx import TensorProto
from rows import Op, Row, across, between, dulled, row, summed, vector

BOOL, INT32, UINT8, DOUBLE = TensorProto.BOOL, TensorProto.INT32, TensorProto.UINT8, TensorProto.DOUBLE
REDUCED = {"reduced": 8}
SINCE = {"Gelu": 20, "Mish": 18, "Swish": 24, "BitCast": 26, "BitwiseAnd": 18, "BitwiseOr": 18, "BitwiseXor": 18}
SINCE |= {"BitwiseNot": 18, "CastLike": 19}
INSIDE = {"Asin", "Atanh", "BitCast", "CastLike"}
"""Not to be fed with what comes out of a sigmoid, or not to be run."""
NOT_IN_ONNXRUNTIME = {"BitCast", "Affine", "ParametricSoftplus", "ScaledTanh"}


def cast(n: Net, x: str, to: int = TensorProto.FLOAT) -> str:
    return n.op("Cast", x, to=to)


def plain(kind: str) -> Op:
    return lambda n, x: n.op(kind, x, made=n.shape(x) if "::" in kind or kind in NOT_IN_ONNXRUNTIME else None)


def inside(kind: str) -> Op:
    """Of numbers between -1 and 1."""
    return lambda n, x: n.op(kind, n.op("Tanh", n.op("Mul", x, n.scalar(0.3))))


def whole(n: Net, x: str, to: int = INT32) -> str:
    """Whole numbers between 0 and 7; zero stays zero."""
    return cast(n, n.op("Clip", n.op("Abs", n.op("Mul", x, n.scalar(3.0))), n.scalar(0.0), n.scalar(7.0)), to)


def truth(n: Net, x: str) -> str:
    """True where positive: false at zero."""
    return cast(n, n.op("Relu", x), BOOL)


KEEPING: dict[str, Op] = {
    **{
        kind: plain(kind)
        for kind in ["Abs", "Asinh", "Atan", "Celu", "Elu", "Erf", "HardSwish", "LeakyRelu", "Neg", "Relu", "Selu"]
    },
    **{
        kind: plain(kind)
        for kind in ["Sin", "Sinh", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Gelu", "Mish", "Swish"]
    },
    **{kind: plain(kind) for kind in (f"{MS}::Gelu", f"{MS}::QuickGelu")},
    **{kind: inside(kind) for kind in ["Asin", "Atanh"]},
    **{kind: plain(kind) for kind in ["Ceil", "Floor", "Round", "Sign"]},
    "Shrink": lambda n, x: n.op("Shrink", x, lambd=0.2, bias=0.1),
    "Sqrt": lambda n, x: n.op("Sqrt", n.op("Relu", x)),
    "Cast": lambda n, x: cast(n, cast(n, x, DOUBLE)),
    "CastLike": lambda n, x: n.op("CastLike", cast(n, x, DOUBLE), x),
    "BitCast": lambda n, x: n.op("BitCast", x, to=TensorProto.FLOAT),
    "Dropout": plain("Dropout"),
}
LOSING: dict[str, Op] = {
    **{kind: plain(kind) for kind in ["Cos", "Cosh", "Exp", "HardSigmoid", "Sigmoid", "Softplus"]},
    **{kind: plain(kind) for kind in ["Affine", "ParametricSoftplus", "ScaledTanh"]},
    "Acos": inside("Acos"),
    "Not": lambda n, x: cast(n, n.op("Not", truth(n, x))),
    "BitwiseNot": lambda n, x: cast(n, n.op("BitwiseNot", whole(n, x))),
}
"""Not zero at zero."""
POLES: dict[str, Op] = {
    "Log": lambda n, x: n.op("Log", n.op("Relu", x)),
    "Reciprocal": plain("Reciprocal"),
    "Acosh": lambda n, x: n.op("Acosh", n.op("Abs", x)),
}
SAFE: dict[str, Op] = {
    "Log": lambda n, x: n.op("Log", n.op("Exp", x)),
    "Reciprocal": lambda n, x: n.op("Reciprocal", n.op("Exp", x)),
    "Acosh": lambda n, x: n.op("Acosh", n.op("Cosh", x)),
}


def one(kind: str, op: Op, make: Callable[..., Row], **more: object) -> Row:
    return make(kind, op, opset=SINCE.get(kind, 17), runs=kind not in NOT_IN_ONNXRUNTIME, **more)


# Two operands

SUMS = ["Add", "Sub", "Max", "Min", "Sum", "Mean"]
SHAPES = [(), (1,), (8, 1, 1), (1, 8, 1, 1), (8, 6, 6), (6, 6), (2, 8, 6, 6), (2, 1, 1, 1), (1, 1, 1, 1), (8, 1, 6)]


def constant(kind: str, shape: tuple[int, ...], *, swapped: bool = False) -> Op:
    """With a weight of this shape."""

    def op(n: Net, x: str) -> str:
        w = n.positive(*shape, name="w")
        return n.op(kind, *((w, x) if swapped else (x, w)))

    return op


def never(kind: str) -> Op:
    """True nowhere in a network that computes numbers: nothing to compare, only where the channels go."""
    return lambda n, x: cast(n, n.op(kind, x))


def residual(kind: str) -> Op:
    return lambda n, x: n.op(kind, x, n.conv(x, 8, name="second"))


def two(kind: str, *, left: str = "Identity", right: str = "Identity") -> Callable[[Net], None]:
    """Two layers of one input meet."""

    def write(n: Net) -> None:
        x = n.image()
        a, b = n.op(left, n.conv(x, 8, name="a")), n.op(right, n.conv(x, 8, name="b"))
        n.close(n.reduce("ReduceSum", n.op(kind, a, b), 1))

    return write


def booleans(kind: str) -> Op:
    return lambda n, x: cast(n, n.op(kind, truth(n, x), truth(n, n.conv(x, 8, name="second"))))


def integers(kind: str) -> Op:
    return lambda n, x: cast(n, n.op(kind, whole(n, x), whole(n, n.conv(x, 8, name="second"))))


def compared(kind: str) -> Op:
    return lambda n, x: cast(n, n.op(kind, x, n.conv(x, 8, name="second")))


def three(kind: str) -> Op:
    return lambda n, x: n.op(kind, x, n.conv(x, 8, name="second"), n.weight(8, 1, 1))


def outer(n: Net) -> None:
    """(2, 8, 1) with (2, 1, 6): every channel of one meets every channel of the other."""
    x = n.input("x", 2, 5)
    a, b = n.unsqueeze(n.gemm(x, 8, name="a"), 2), n.unsqueeze(n.gemm(x, 6, name="b"), 1)
    n.close(n.op("Flatten", n.op("Add", a, b)))


def stretched(n: Net) -> None:
    """A gate of one channel is stretched over eight."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.op("Mul", x, n.op("Sigmoid", n.conv(x, 1, name="gate"))))


def pooled(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    gate = n.op("Relu", n.conv(n.op("GlobalAveragePool", x), 4, name="down"))
    n.close(n.op("Mul", x, n.op("Sigmoid", n.conv(gate, 8, name="up"))))


def with_input(n: Net) -> None:
    n.close(n.op("Add", n.conv(n.image(2, 8, 6, 6), 8, name="first"), "image"))


def lower_rank(n: Net) -> None:
    """An activation without a batch."""
    x = n.input("x", 2, 4, 5)
    vector = n.op("MatMul", n.input("v", 3), n.weight(3, 8, name="v.weight"))
    n.output(n.linear(n.op("Add", n.linear(x, 8, name="first"), vector), 5, name="last"))


def unnamed_length(n: Net) -> None:
    """Where the picture's height is not known, its channels still are."""
    x = n.conv(n.image("N", 3, "H", "W"), 8, name="first")
    n.close(n.op("Add", x, n.conv(x, 8, 3, name="second")))


def gelu_bias(kind: str) -> Row:
    def write(n: Net) -> None:
        x = n.op("MatMul", n.input("x", 2, 4, 5), n.weight(5, 8, name="first.weight"), name="first")
        y = n.op(f"{MS}::{kind}", x, n.weight(8, name="b"), made=(2, 4, 8))
        n.output(n.linear(n.reduce("ReduceSum", y, -1), 5, name="last"))

    return row(f"{kind}, summed", write, 8, roles={"b:0": "shift"})


def gelu_read(kind: str) -> Row:
    def write(n: Net) -> None:
        x = n.op("MatMul", n.input("x", 2, 4, 5), n.weight(5, 8, name="first.weight"), name="first")
        y = n.op(f"{MS}::{kind}", x, n.weight(8, name="b"), made=(2, 4, 8))
        n.output(n.linear(y, 5, name="last"))

    return row(kind, write, 8)


def divided(shape: tuple[int, ...]) -> Op:
    return lambda n, x: n.op("Div", x, n.positive(*shape, name="w"))


def by_sum(n: Net, x: str) -> str:
    """A hand-made softmax over the pixels."""
    e = n.op("Exp", x)
    return n.op("Div", e, n.reduce("ReduceSum", e, 2, 3))


def by_activation(n: Net) -> None:
    x = n.image()
    n.close(n.op("Div", n.conv(x, 8, name="a"), n.conv(x, 8, name="b")))


def by_positive(n: Net) -> None:
    x = n.image()
    n.close(n.reduce("ReduceSum", n.op("Div", n.conv(x, 8, name="a"), n.op("Exp", n.conv(x, 8, name="b"))), 1))


def remainder(n: Net, x: str) -> str:
    return n.op("Mod", x, n.positive(8, 1, 1, name="w"), fmod=1)


def remainder_by_activation(n: Net) -> None:
    x = n.image()
    n.close(n.op("Mod", n.conv(x, 8, name="a"), n.conv(x, 8, name="b"), fmod=1))


def shifted(n: Net, x: str) -> str:
    return cast(n, n.op("BitShift", whole(n, x, UINT8), n.const([[[2]]], np.uint8), direction="LEFT"))


def power(exponent: float | None, shape: tuple[int, ...] = ()) -> Op:
    def op(n: Net, x: str) -> str:
        value = n.positive(*shape, name="w") if exponent is None else n.scalar(exponent)
        return n.op("Pow", n.op("Relu", x), value)

    return op


def power_of_positive(n: Net, x: str) -> str:
    return n.op("Pow", n.op("Exp", x), n.scalar(-0.5))


def computed_power(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    n.close(n.op("Pow", n.op("Abs", x), n.op("Abs", n.conv("image", 8, name="second"))))


def slope(shape: tuple[int, ...]) -> Op:
    return lambda n, x: n.op("PRelu", x, n.weight(*shape, name="slope"))


def clip(low: float | None, high: float | None) -> Op:
    def op(n: Net, x: str) -> str:
        if n.opset < 11:
            return n.op("Clip", x, min=low, max=high)
        bounds = ["" if bound is None else n.scalar(bound) for bound in (low, high)]
        return n.op("Clip", x, *bounds[: 1 if high is None else 2])

    return op


def clip_computed(n: Net, x: str) -> str:
    return n.op("Clip", x, n.reduce("ReduceMin", n.op("GlobalAveragePool", "image"), keepdims=0))


def where(condition: tuple[int, ...], other: tuple[int, ...]) -> Op:
    def op(n: Net, x: str) -> str:
        mask = n.const(np.random.default_rng(0).integers(0, 2, condition).astype(bool))
        return n.op("Where", mask, x, n.weight(*other))

    return op


def where_computed(n: Net) -> None:
    """The condition has channels, too."""
    x = n.image()
    a, b, c = (n.conv(x, 8, name=name) for name in "abc")
    n.close(n.reduce("ReduceSum", n.op("Where", truth(n, c), a, b), 1))


def masked(n: Net) -> None:
    """Scores of attention are masked by a number that is not zero."""
    x = n.conv(n.image(), 8, name="first")
    mask = n.op("Greater", n.input("mask", 2, 1, 6, 6), n.scalar(0.0))
    n.close(n.op("Softmax", n.op("Where", mask, x, n.scalar(-1000.0)), axis=3))


def dropped(n: Net) -> None:
    """The mask of a Dropout is true at the zeros, too."""
    x = n.conv(n.image(), 8, name="first")
    _, mask = n.ops("Dropout", 2, x)
    n.close(n.reduce("ReduceSum", n.op("Mul", cast(n, mask), n.op("Exp", x)), 1))


def from_integers(kind: str) -> Op:
    """A small integer constant that is computed with: a quantised weight."""

    def op(n: Net, x: str) -> str:
        return n.op(kind, x, cast(n, n.const(np.arange(1, 9).reshape(8, 1, 1), np.int8)))

    return op


ROWS = [
    *(one(kind, op, between) for kind, op in KEEPING.items()),
    *(one(kind, op, summed) for kind, op in KEEPING.items()),
    *(one(kind, op, between) for kind, op in LOSING.items()),
    *(one(kind, op, summed, frozen=REDUCED) for kind, op in LOSING.items()),
    *(between(kind, op, frozen={"not-finite": 8}) for kind, op in POLES.items()),
    *(between(f"{kind} away from zero", op) for kind, op in SAFE.items()),
    *(summed(f"{kind} away from zero", op, frozen=REDUCED) for kind, op in SAFE.items()),
    *across((7, 10, 13, 22), "Relu", plain("Relu")),
    *across((7, 12, 13), "Dropout", plain("Dropout")),
    row("mask of a Dropout", dropped, frozen=REDUCED),
    # Broadcasting
    *(between(f"Add of {shape}", constant("Add", shape)) for shape in SHAPES),
    *(between(f"Mul of {shape}", constant("Mul", shape, swapped=True)) for shape in SHAPES),
    *(between(f"residual {kind}", residual(kind)) for kind in (*SUMS, "Mul")),
    *(between(f"three-fold {kind}", three(kind)) for kind in ("Max", "Min", "Sum", "Mean")),
    *(between(f"{kind} of one", plain(kind)) for kind in ("Max", "Min", "Sum", "Mean")),
    *across((7, 13, 14), "Add", constant("Add", (8, 1, 1))),
    row("outer sum", outer, 8, frozen={"other-factor": 6}),
    row("stretched gate", stretched, 8),
    row("squeeze and excitation", pooled, 8, 4),
    row("Add of the picture", with_input, frozen={"fixed-axis": 8}),
    row("Add of a vector", lower_rank, 8),
    row("Add of unknown pixels", unnamed_length, 8, dims={"N": 2, "H": 5, "W": 7}),
    vector("Add on a matrix", lambda n, x: n.op("Add", x, n.weight(8))),
    # Zeros
    *(summed(f"{kind} of a weight", constant(kind, (8, 1, 1))) for kind in (*SUMS, "Mul")),
    *(summed(f"{kind} of a number", constant(kind, ()), frozen=REDUCED) for kind in SUMS),
    *(summed(f"{kind} of a stretched weight", constant(kind, (1, 6, 6)), frozen=REDUCED) for kind in SUMS),
    summed("Mul by a number", constant("Mul", ())),
    row("Mul of zeros and others", two("Mul", right="Sigmoid"), 8),
    row("Mul of others and zeros", two("Mul", left="Sigmoid"), 8),
    row("Mul without zeros", two("Mul", left="Sigmoid", right="Sigmoid"), frozen={"reduced": 16}),
    *(row(f"{kind} of zeros and others", two(kind, right="Sigmoid"), frozen={"reduced": 16}) for kind in SUMS),
    *(row(f"{kind} of others and zeros", two(kind, left="Sigmoid"), frozen={"reduced": 16}) for kind in SUMS),
    *(make(f"logical {kind}", booleans(kind)) for make in (between, summed) for kind in ("Or", "Xor", "And")),
    *(
        make(f"bitwise {kind}", integers(kind), opset=18)
        for make in (between, summed)
        for kind in ("BitwiseOr", "BitwiseXor", "BitwiseAnd")
    ),
    *(dulled(kind, op, opset=SINCE.get(kind, 17)) for kind, op in KEEPING.items() if kind not in INSIDE),
    between("IsNaN", never("IsNaN"), runs=False, roles={"last.weight:1": "in"}),
    between("IsInf", never("IsInf"), runs=False, roles={"last.weight:1": "in"}),
    summed("IsNaN", never("IsNaN"), runs=False),
    summed("IsInf", never("IsInf"), runs=False, frozen=REDUCED),
    between("BitCast, read", plain("BitCast"), opset=26, runs=False, roles={"last.weight:1": "in"}),
    *(
        summed(f"comparison {kind}", compared(kind), frozen={"reduced": 16})
        for kind in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    ),
    *(
        between(f"comparison {kind}", compared(kind))
        for kind in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    ),
    gelu_bias("BiasGelu"),
    gelu_bias("FastGelu"),
    gelu_read("BiasGelu"),
    gelu_read("FastGelu"),
    *(
        between(f"role in {kind}", constant(kind, (8, 1, 1), swapped=swapped), roles={"w:0": role})
        for kind, role in (("Add", "shift"), ("Sub", "shift"), ("Sum", "shift"), ("Mul", "scale"))
        for swapped in (False, True)
    ),
    between("role in Div", constant("Div", (8, 1, 1)), roles={"w:0": "keep"}),
    summed("Add of small integers", from_integers("Add")),
    summed("Max of small integers", from_integers("Max")),
    # Division and its like
    *(summed(f"Div by {shape}", divided(shape)) for shape in SHAPES),
    between("Div by a sum over pixels", by_sum),
    summed("Div by a sum over pixels", by_sum, frozen=REDUCED),
    row("Div by an activation with zeros", by_activation, frozen={"not-finite": 16}),
    row("Div by an activation without", by_positive, 8),
    between("Div of a number", constant("Div", (), swapped=True), frozen={"not-finite": 8}),
    summed("Mod", remainder),
    between("Mod", remainder),
    row("Mod by an activation with zeros", remainder_by_activation, frozen={"not-finite": 16}),
    summed("BitShift", shifted),
    between("BitShift", shifted),
    dulled("Div", divided((8, 1, 1))),
    dulled("Mod", remainder),
    dulled("PRelu", slope((8, 1, 1))),
    dulled("Pow", power(2.0)),
    dulled("Clip", clip(-0.5, 0.5)),
    dulled("Dropout", plain("Dropout")),
    *(summed(f"Pow {exponent}", power(exponent)) for exponent in (0.5, 1.0, 2.0)),
    summed("Pow of a weight", power(None, (8, 1, 1))),
    summed("Pow 0", power(0.0), frozen=REDUCED),
    between("Pow -1", power(-1.0), frozen={"not-finite": 8}),
    summed("Pow -0.5 away from zero", power_of_positive, frozen=REDUCED),
    row("Pow of an activation", computed_power, frozen={"not-finite": 16}),
    *(summed(f"PRelu {shape}", slope(shape)) for shape in ((1,), (8, 1, 1), (1, 8, 1, 1), (8, 6, 6), (6, 6))),
    *across((7, 9, 16), "PRelu", slope((8, 1, 1))),
    *(row for v in (7, 11, 12, 13) for row in across((v,), "Clip", clip(-0.5, 0.5))),
    *(
        summed(f"Clip {low} {high}", clip(low, high))
        for low, high in ((-0.5, 0.5), (0.0, None), (None, 6.0), (-1.0, None))
    ),
    *(
        summed(f"Clip {low} {high}", clip(low, high), frozen=REDUCED)
        for low, high in ((0.1, 0.5), (0.1, None), (None, -0.1), (-0.9, -0.1))
    ),
    summed("Clip 0.1 0.5 opset 7", clip(0.1, 0.5), opset=7, frozen=REDUCED),
    summed("Clip -0.5 0.5 opset 7", clip(-0.5, 0.5), opset=7),
    summed("Clip from a computed bound", clip_computed, frozen=REDUCED),
    # Where
    between("Where with a mask of pixels", where((6, 6), (8, 1, 1))),
    between("Where with a mask of channels", where((8, 1, 1), (8, 1, 1))),
    between("Where with a mask of everything", where((2, 8, 6, 6), ())),
    summed("Where of a weight", where((6, 6), (8, 1, 1))),
    summed("Where of a number", where((6, 6), ()), frozen=REDUCED),
    row("Where with a computed mask", where_computed, 8),
    row("Where before a softmax", masked, 8),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_elementwise(case: Row) -> None:
    case.check()
