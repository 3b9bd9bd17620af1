"""Element-wise operators. ONNX divides integers towards zero and lets a number's sign follow the divisor or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own custom
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op, simple

simple(
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "And": torch.logical_and,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "BitwiseAnd": torch.bitwise_and,
        "BitwiseNot": torch.bitwise_not,
        "BitwiseOr": torch.bitwise_or,
        "BitwiseXor": torch.bitwise_xor,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "HardSwish": F.hardswish,
        "IsNaN": torch.isnan,
        "Log": torch.log,
        "Mish": F.mish,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Round": torch.round,
        "Sigmoid": torch.sigmoid,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Softsign": F.softsign,
        "Sqrt": torch.sqrt,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
        "Where": torch.where,
        "Xor": torch.logical_xor,
    }
)


def divided(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if _is_float(a) or _is_float(b) else torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": divided,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}


@op(*_BINARY)
def binary(s: Step) -> fx.Node:
    a, b = s.tensor(0), s.tensor(1)
    if s.attr("broadcast", 0) and s.attr("axis") is not None:  # before opset 7
        b = s.emit(aligned, a, b, s.attr("axis"))
    return s.emit(_BINARY[s.node.op_type], a, b)


def aligned(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """The second operand as it stands behind `axis` of the first."""
    return b.reshape(*b.shape, *[1] * (a.dim() - axis - b.dim()))


@op("Mod")
def modulo(s: Step) -> fx.Node:
    function: Any = torch.fmod if s.attr("fmod", 0) else torch.remainder
    return s.emit(function, s.tensor(0), s.tensor(1))


@op("Pow")
def power(s: Step) -> fx.Node:
    exponent = s.array(1)
    if exponent is not None and exponent.size == 1 and exponent.ndim <= 1 and exponent.dtype.kind == "f":
        return s.emit(raised, s.tensor(0), float(exponent.reshape(-1)[0]))
    return s.emit(raised, s.tensor(0), s.tensor(1))


def raised(x: Tensor, exponent: Tensor | float) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


def _is_float(x: Any) -> bool:
    return x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, float)


@op("Max", "Min", "Sum", "Mean")
def variadic(s: Step) -> fx.Node:
    function: Any = {"Max": torch.maximum, "Min": torch.minimum}.get(s.node.op_type, torch.add)
    total, *rest = s.tensors()
    for x in rest:
        total = s.emit(function, total, x)
    return s.emit(torch.div, total, len(rest) + 1) if s.node.op_type == "Mean" else total


@op("Clip")
def clip(s: Step) -> fx.Node:
    if s.opset < 11:
        low, high = s.attr("min"), s.attr("max")
    else:
        low, high = (_bound(s, index) for index in (1, 2))
    return s.emit(clipped, s.tensor(0), low, high)


def _bound(s: Step, index: int) -> Any:
    known = s.array(index)
    return s.tensor(index) if known is None else known.item()


def clipped(x: Tensor, low: Any, high: Any) -> Tensor:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        x = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype, device=x.device))
        return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype, device=x.device))
    return x if low is None and high is None else torch.clamp(x, low, high)


@op("PRelu")
def prelu(s: Step) -> fx.Node:
    return s.emit(leaky, s.tensor(0), s.tensor(1))


def leaky(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@op("LeakyRelu")
def leaky_relu(s: Step) -> fx.Node:
    return s.emit(F.leaky_relu, s.tensor(0), s.attr("alpha", 0.01))


@op("Elu")
def elu(s: Step) -> fx.Node:
    return s.emit(F.elu, s.tensor(0), s.attr("alpha", 1.0))


@op("Celu")
def celu(s: Step) -> fx.Node:
    return s.emit(F.celu, s.tensor(0), s.attr("alpha", 1.0))


@op("Selu")
def selu(s: Step) -> fx.Node:
    alpha, gamma = s.attr("alpha", 1.67326319217681884765625), s.attr("gamma", 1.05070102214813232421875)
    return s.emit(torch.mul, s.emit(F.elu, s.tensor(0), alpha), gamma)


@op("ThresholdedRelu")
def thresholded(s: Step) -> fx.Node:
    return s.emit(F.threshold, s.tensor(0), s.attr("alpha", 1.0), 0.0)


@op("HardSigmoid")
def hard_sigmoid(s: Step) -> fx.Node:
    return s.emit(hard, s.tensor(0), s.attr("alpha", 0.2), s.attr("beta", 0.5))


def hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@op("Softplus")
def softplus(s: Step) -> fx.Node:
    return s.emit(F.softplus, s.tensor(0), 1.0, 30.0)  # torch's own threshold of 20 is off by 2e-9


@op("Swish")
def swish(s: Step) -> fx.Node:
    return s.emit(swished, s.tensor(0), s.attr("alpha", 1.0))


@op("com.microsoft::QuickGelu")
def quick_gelu(s: Step) -> fx.Node:
    return s.emit(swished, s.tensor(0), s.attr("alpha", 1.702))


def swished(x: Tensor, alpha: float) -> Tensor:
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@op("Gelu")
def gelu(s: Step) -> fx.Node:
    return s.emit(F.gelu, s.tensor(0), approximate=s.attr("approximate", "none"))


@op("com.microsoft::Gelu")
def exact_gelu(s: Step) -> fx.Node:
    return s.emit(F.gelu, s.tensor(0))


@op("com.microsoft::FastGelu", "com.microsoft::BiasGelu")
def biased_gelu(s: Step) -> fx.Node:
    x = s.emit(torch.add, s.tensor(0), s.tensor(1)) if s.has(1) else s.tensor(0)
    return s.emit(F.gelu, x, approximate="tanh" if s.node.op_type == "FastGelu" else "none")


@op("Shrink")
def shrink(s: Step) -> fx.Node:
    return s.emit(shrunk, s.tensor(0), s.attr("lambd", 0.5), s.attr("bias", 0.0))


def shrunk(x: Tensor, lambd: float, bias: float) -> Tensor:
    nothing = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, nothing))


@op("Affine", "ScaledTanh", "ParametricSoftplus")
def scaled(s: Step) -> fx.Node:
    """Operators that ONNX dropped and onnxruntime still runs."""
    return s.emit(rescaled, s.node.op_type, s.tensor(0), s.attr("alpha", 1.0), s.attr("beta", 0.0))


def rescaled(kind: str, x: Tensor, alpha: float, beta: float) -> Tensor:
    if kind == "Affine":
        return alpha * x + beta
    return alpha * (torch.tanh(beta * x) if kind == "ScaledTanh" else F.softplus(beta * x))


@op("IsInf")
def is_inf(s: Step) -> fx.Node:
    return s.emit(infinite, s.tensor(0), bool(s.attr("detect_negative", 1)), bool(s.attr("detect_positive", 1)))


def infinite(x: Tensor, negative: bool, positive: bool) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if negative:
        found = found | (x == -math.inf)
    return found | (x == math.inf) if positive else found


@op("BitShift")
def shift(s: Step) -> fx.Node:
    left = s.attr("direction") == "LEFT"
    return s.emit(torch.bitwise_left_shift if left else torch.bitwise_right_shift, s.tensor(0), s.tensor(1))


@op("Cast")
def cast(s: Step) -> fx.Node:
    return s.emit(converted, s.tensor(0), s.build.dtype_of(s.attr("to")))


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


@op("CastLike")
def cast_like(s: Step) -> fx.Node:
    return s.emit(alike, s.tensor(0), s.tensor(1))


def alike(x: Tensor, other: Tensor) -> Tensor:
    return x.to(other.dtype)


@op("Identity")
def identity(s: Step) -> fx.Node:
    made: fx.Node = s.tensor(0)
    return made


@op("Softmax", "LogSoftmax", "Hardmax")
def softmax(s: Step) -> fx.Node:
    axis = s.attr("axis", 1 if s.opset < 13 else -1)
    return s.emit(normalised, s.node.op_type, s.tensor(0), axis, s.opset < 13)


def normalised(kind: str, x: Tensor, axis: int, flat: bool) -> Tensor:
    """Over one axis; before opset 13 over all from there on."""
    if flat and axis % x.dim() != x.dim() - 1:
        rows = x.flatten(axis % x.dim())
        return normalised(kind, rows, -1, False).reshape(x.shape)
    if kind == "Hardmax":
        return F.one_hot(x.argmax(axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)
    return torch.softmax(x, axis) if kind == "Softmax" else torch.log_softmax(x, axis)
