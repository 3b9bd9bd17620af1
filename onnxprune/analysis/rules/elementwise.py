"""Element-wise operators, as a table: every axis goes through, equal places are tied, a length of 1 stretches.

What differs is only whether zeros at the cut positions survive, which decides where a sum over them is exact:
`all` if every operand has zeros there (x + y), `any` if one has (x * y), `first` if the first has (x / y), or `none`.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Value, rule

KEEPS_ZERO = (
    "Abs Asin Asinh Atan Atanh BitCast Cast Ceil Celu Elu Erf Floor Gelu HardSwish LeakyRelu Mish Neg Relu "
    "Round Selu Shrink Sign Sin Sinh Softsign Sqrt Swish Tan Tanh ThresholdedRelu IsNaN "
    "com.microsoft::Gelu com.microsoft::QuickGelu"
)
LOSES_ZERO = (
    "Acos Acosh BitwiseNot Cos Cosh Exp HardSigmoid IsInf Log Not Reciprocal Sigmoid Softplus Affine "
    "ParametricSoftplus ScaledTanh"
)
POLES = "Acosh Log Reciprocal"
"""Not finite at zero: the masked model would spread NaN over everything that follows."""
BINARY = {
    "all": "Add Sub Max Min Sum Mean Or Xor BitwiseOr BitwiseXor com.microsoft::BiasGelu com.microsoft::FastGelu",
    "any": "Mul And BitwiseAnd",
    "first": "Div Mod BitShift PRelu",
    "none": "Equal Greater GreaterOrEqual Less LessOrEqual",
}
WEIGHT_ROLES = {
    "Add": "shift",
    "Sub": "shift",
    "Sum": "shift",
    "Mul": "scale",
    "com.microsoft::BiasGelu": "shift",
    "com.microsoft::FastGelu": "shift",
}


def broadcast(f: Flow, operands: Sequence[Axes], zeros: str) -> list[Axis]:
    """The axes of the result of broadcasting, aligned at the right."""
    rank = max((len(axes) for axes in operands), default=0)
    result = []
    for i in range(-rank, 0):
        column = [axes[i] for axes in operands if len(axes) >= -i]
        wide = [axis for axis in column if axis.size != 1]
        if wide:
            for axis in column:
                if axis.size == 1:
                    f.freeze(axis, "broadcast", "its single position is stretched over a longer axis")
        result.append(f.tie(*wide, zero=_zero(i, operands, zeros)) if wide else f.tie(*column))
    return result


def _zero(i: int, operands: Sequence[Axes], zeros: str) -> bool:
    holds = [len(axes) >= -i and axes[i].size != 1 and axes[i].zero for axes in operands]
    return {"all": all(holds), "any": any(holds), "first": holds[0], "none": False}[zeros]


@rule(*KEEPS_ZERO.split())
def keeps_zero(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    return [x.axes]


@rule("CastLike")
def cast_like(f: Flow, node: object, x: Value, like: Value) -> Sequence[Axes]:
    """Of the second operand only the type is read."""
    for axis in like.axes:
        f.account(axis)
    return [x.axes]


@rule("Dropout")
def dropout(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    """Its mask is true everywhere."""
    return [x.axes, tuple(axis.with_zero(False) for axis in x.axes)]


@rule(*LOSES_ZERO.split())
def loses_zero(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    if f.current.op_type in POLES.split():
        _infinite(f, x)
    return [tuple(axis.with_zero(False) for axis in x.axes)]


def _infinite(f: Flow, x: Value) -> None:
    for axis in x.axes:
        if axis.zero:
            f.inexact(axis, "not-finite", f"{f.current.op_type} is not finite at the zeros of its cut positions")


def _register(zeros: str, op: str) -> None:
    @rule(op)
    def elementwise(f: Flow, node: object, *xs: Value) -> Sequence[Axes]:
        role = WEIGHT_ROLES.get(op)
        for position, x in enumerate(xs):
            for axis in range(x.rank):
                if role:
                    f.mark(x, axis, role)
                elif op in ("Div", "Mod") and position:
                    f.mark(x, axis, "keep")
        if op in ("Div", "Mod") and not xs[1].weight:
            _infinite(f, xs[1])
        return [tuple(broadcast(f, [_legacy(f, x, xs[0]) if i else x.axes for i, x in enumerate(xs)], zeros))]


def _legacy(f: Flow, x: Value, first: Value) -> Axes:
    """PRelu before opset 7 and Caffe2-era `axis` broadcasting put the second operand at a given axis."""
    axis = f.attr("axis")
    if axis is None or not f.attr("broadcast", 0):
        return x.axes
    return (*x.axes, *(fixed(1) for _ in range(first.rank - axis - x.rank)))


for _zeros, _ops in BINARY.items():
    for _op in _ops.split():
        _register(_zeros, _op)


@rule("Pow")
def power(f: Flow, node: object, x: Value, exponent: Value) -> Sequence[Axes]:
    value = f.array(1)
    positive = value is not None and bool((value > 0).all())
    for axis in range(exponent.rank):
        f.mark(exponent, axis, "keep")
    if value is None or bool((value < 0).any()):
        _infinite(f, x)
    return [tuple(broadcast(f, [x.axes, exponent.axes], "first" if positive else "none"))]


@rule("Clip")
def clip(f: Flow, node: object, x: Value, *bounds: Value | None) -> Sequence[Axes]:
    low, high = f.attr("min", -1.0), f.attr("max", 1.0)
    arrays = [f.array(1), f.array(2)]
    if f.has(1):
        low = float(arrays[0].min()) if arrays[0] is not None and arrays[0].size else 1.0
    if f.has(2):
        high = float(arrays[1].max()) if arrays[1] is not None and arrays[1].size else -1.0
    return [tuple(axis.with_zero(axis.zero and low <= 0 <= high) for axis in x.axes)]


@rule("Where")
def where(f: Flow, node: object, condition: Value, yes: Value, no: Value) -> Sequence[Axes]:
    chosen = broadcast(f, [yes.axes, no.axes], "all")
    return [tuple(broadcast(f, [tuple(chosen), condition.axes], "first"))]
