"""Quantised operators as floats that hold whole numbers: rounding passes gradients straight through.

    QuantizeLinear      clamp(round(x / scale) + zero)       the gradient is that of clamp(x / scale + zero)
    DequantizeLinear    (q - zero) * scale

A value outside the range gets no gradient. Weights stored as integers have none at all: they stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from onnxprune.bridge.conv import convolved
from onnxprune.bridge.elementwise import normalised
from onnxprune.bridge.pool import asked_of, averaged, pooled_whole
from onnxprune.bridge.registry import Step, op
from onnxprune.bridge.windows import pads_of

_T = onnx.TensorProto
_RANGES = {
    _T.UINT8: (0, 255),
    _T.INT8: (-128, 127),
    _T.UINT16: (0, 65535),
    _T.INT16: (-32768, 32767),
    _T.UINT4: (0, 15),
    _T.INT4: (-8, 7),
}
Range = tuple[int, int]


def straight(x: Tensor, low: Any, high: Any) -> Tensor:
    """Rounded and held in a range, with the gradient of being held."""
    held = x.clamp(low, high)
    return held + (x.round().clamp(low, high) - held).detach()


def _range(s: Step, zero: int) -> Range:
    """That of the zero point's type."""
    known = s.array(zero)
    if known is not None:
        number = onnx.helper.np_dtype_to_tensor_dtype(known.dtype)
    else:
        number = s.attr("output_dtype", 0) or _T.UINT8
    if number not in _RANGES:
        raise s.refuse(f"quantised values of the type {_T.DataType.Name(number)} are not known")
    return _RANGES[number]


def _shaped(w: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point as it stands beside `x`: one, one per position of an axis, or one per block of these."""
    if w.numel() == 1 and w.dim() <= 1:
        return w.reshape(())
    if w.dim() == 1:
        return w.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    if block:
        return w.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return w


@op("QuantizeLinear", "com.microsoft::QuantizeLinear")
def quantize(s: Step) -> fx.Node:
    low, high = _range(s, 2)
    axis, block = s.attr("axis", 1), s.attr("block_size", 0)
    return s.emit(quantised, s.tensor(0), s.tensor(1), s.tensor(2), axis, block, low, high)


def quantised(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, block: int, low: int, high: int) -> Tensor:
    y = x / _shaped(scale, x, axis, block)
    if zero is None:
        return straight(y, low, high)
    shift = _shaped(zero, x, axis, block).to(y.dtype)
    return straight(y, low - shift, high - shift) + shift  # rounded before the zero point is added


@op("DequantizeLinear", "com.microsoft::DequantizeLinear")
def dequantize(s: Step) -> fx.Node:
    axis, block = s.attr("axis", 1), s.attr("block_size", 0)
    return s.emit(dequantised, s.tensor(0), s.tensor(1), s.tensor(2), axis, block)


def dequantised(q: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1, block: int = 0) -> Tensor:
    y = q.to(scale.dtype)
    if zero is not None:
        y = y - _shaped(zero, q, axis, block).to(scale.dtype)
    return y * _shaped(scale, q, axis, block)


@op("DynamicQuantizeLinear")
def dynamic_quantize(s: Step) -> Sequence[fx.Node | None]:
    return s.several(s.emit(dynamically_quantised, s.tensor(0)))


def dynamically_quantised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale).detach()
    zero = (-low / scale).clamp(0, 255).round().detach()
    return straight(x / scale, 0 - zero, 255 - zero) + zero, scale, zero


@op("ConvInteger")
def conv_integer(s: Step) -> fx.Node:
    x, w = s.emit(centred, s.tensor(0), s.tensor(2)), s.emit(centred_rows, s.tensor(1), s.tensor(3))
    args = (pads_of(s), s.attr("strides"), s.attr("dilations"), s.attr("group", 1))
    return s.emit(convolved, x, w, None, *args)


@op("MatMulInteger")
def matmul_integer(s: Step) -> fx.Node:
    a, b = s.emit(centred_left, s.tensor(0), s.tensor(2)), s.emit(centred, s.tensor(1), s.tensor(3))
    return s.emit(torch.matmul, a, b)


def centred(q: Tensor, zero: Tensor | None) -> Tensor:
    """As floats, counted from the zero point, of which the last axis may have one each."""
    q = q if q.is_floating_point() else q.float()
    return q if zero is None else q - zero.to(q.dtype)


def centred_rows(q: Tensor, zero: Tensor | None) -> Tensor:
    if zero is not None and zero.numel() > 1:
        zero = zero.reshape(-1, *[1] * (q.dim() - 1))
    return centred(q, zero)


def centred_left(q: Tensor, zero: Tensor | None) -> Tensor:
    if zero is not None and zero.dim() == 1 and zero.numel() > 1:
        zero = zero.unsqueeze(-1)
    return centred(q, zero)


@op("QLinearConv", "com.microsoft::QLinearConv")
def qlinear_conv(s: Step) -> fx.Node:
    last = bool(s.attr("channels_last", 0))
    args = (pads_of(s), s.attr("strides"), s.attr("dilations"), s.attr("group", 1))
    low, high = _range(s, 7)
    x, w = s.emit(centred, s.tensor(0), s.tensor(2)), s.emit(centred_rows, s.tensor(3), s.tensor(5))
    x = s.emit(channels_first, x) if last else x
    total = s.emit(convolved, x, w, s.emit(as_float, s.tensor(8)) if s.has(8) else None, *args)
    made = s.emit(requantised, total, s.tensor(1), s.tensor(4), s.tensor(6), s.tensor(7), 1, low, high)
    return s.emit(channels_last, made) if last else made


def channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


@op("QLinearMatMul")
def qlinear_matmul(s: Step) -> fx.Node:
    low, high = _range(s, 7)
    a, b = s.emit(centred_left, s.tensor(0), s.tensor(2)), s.emit(centred, s.tensor(3), s.tensor(5))
    product = s.emit(torch.matmul, a, b)
    return s.emit(requantised, product, s.tensor(1), s.tensor(4), s.tensor(6), s.tensor(7), -1, low, high)


def as_float(x: Tensor) -> Tensor:
    return x.float()


def requantised(
    total: Tensor, a: Tensor, b: Tensor, out: Tensor, zero: Tensor, axis: int, low: int, high: int
) -> Tensor:
    """A sum of products in the steps of its factors, in those of the output."""
    factor = a.reshape(-1) * b.reshape(-1) / out.reshape(-1)
    if factor.numel() > 1:
        factor = factor.reshape([-1 if i == axis % total.dim() else 1 for i in range(total.dim())])
    shift = zero.reshape(()).to(total.dtype)
    return straight(total * factor, low - shift, high - shift) + shift


@op("com.microsoft::MatMulIntegerToFloat")
def matmul_to_float(s: Step) -> fx.Node:
    a, b = s.emit(centred, s.tensor(0), s.tensor(4)), s.emit(centred, s.tensor(1), s.tensor(5))
    return s.emit(scaled_product, a, b, s.tensor(2), s.tensor(3), s.tensor(6))


@op("com.microsoft::DynamicQuantizeMatMul")
def dynamic_matmul(s: Step) -> fx.Node:
    b = s.emit(centred, s.tensor(1), s.tensor(3))
    return s.emit(dynamic_product, s.tensor(0), b, s.tensor(2), s.tensor(4))


def scaled_product(a: Tensor, b: Tensor, by_a: Tensor, by_b: Tensor, bias: Tensor | None) -> Tensor:
    y = torch.matmul(a, b) * by_a * by_b
    return y if bias is None else y + bias


def dynamic_product(a: Tensor, b: Tensor, by_b: Tensor, bias: Tensor | None) -> Tensor:
    q, scale, zero = dynamically_quantised(a)
    return scaled_product(q - zero, b, scale, by_b, bias)


@op("com.microsoft::QGemm")
def qgemm(s: Step) -> fx.Node:
    turn_a, turn_b = bool(s.attr("transA", 0)), bool(s.attr("transB", 0))
    low, high = _range(s, 8) if s.has(8) else (0, 0)
    b = s.emit(centred_rows if turn_b else centred, s.tensor(3), s.tensor(5))
    a = s.emit(centred, s.tensor(0), s.tensor(2))
    total = s.emit(whole_product, a, b, s.tensor(6), s.attr("alpha", 1.0), turn_a, turn_b)
    if not s.has(7):
        return s.emit(scaled_total, total, s.tensor(1), s.tensor(4))
    return s.emit(requantised, total, s.tensor(1), s.tensor(4), s.tensor(7), s.tensor(8), -1, low, high)


def whole_product(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, turn_a: bool, turn_b: bool) -> Tensor:
    """The bias is in the steps of the product."""
    y = torch.matmul(a.t() if turn_a else a, b.t() if turn_b else b)
    return (y if c is None else y + c.to(y.dtype)) * alpha


def scaled_total(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return total * a * b


@op("com.microsoft::QLinearAdd", "com.microsoft::QLinearMul")
def qlinear_binary(s: Step) -> fx.Node:
    low, high = _range(s, 7)
    a = s.emit(dequantised, s.tensor(0), s.tensor(1), s.tensor(2))
    b = s.emit(dequantised, s.tensor(3), s.tensor(4), s.tensor(5))
    made = s.emit(torch.add if s.node.op_type == "QLinearAdd" else torch.mul, a, b)
    return s.emit(quantised, made, s.tensor(6), s.tensor(7), 1, 0, low, high)


@op("com.microsoft::QLinearConcat")
def qlinear_concat(s: Step) -> fx.Node:
    low, high = _range(s, 1)
    parts = [s.emit(dequantised, s.tensor(i), s.tensor(i + 1), s.tensor(i + 2)) for i in range(2, len(s.node.input), 3)]
    made = s.emit(torch.cat, parts, s.attr("axis"))
    return s.emit(quantised, made, s.tensor(0), s.tensor(1), 1, 0, low, high)


@op(
    "com.microsoft::QLinearAveragePool",
    "com.microsoft::QLinearGlobalAveragePool",
    "com.microsoft::QLinearLeakyRelu",
    "com.microsoft::QLinearSigmoid",
    "com.microsoft::QLinearSoftmax",
)
def qlinear_unary(s: Step) -> fx.Node:
    low, high = _range(s, 4)
    last = bool(s.attr("channels_last", 0))
    x = s.emit(dequantised, s.tensor(0), s.tensor(1), s.tensor(2))
    x = s.emit(channels_first, x) if last else x
    match s.node.op_type:
        case "QLinearAveragePool":
            made = s.emit(averaged, x, asked_of(s), bool(s.attr("count_include_pad", 0)))
        case "QLinearGlobalAveragePool":
            made = s.emit(pooled_whole, "GlobalAveragePool", x, 2)
        case "QLinearSoftmax":
            old = s.attr("opset", s.opset) < 13
            made = s.emit(normalised, "Softmax", x, s.attr("axis", 1 if old else -1), old)
        case "QLinearLeakyRelu":
            made = s.emit(F.leaky_relu, x, s.attr("alpha", 0.01))
        case _:
            made = s.emit(torch.sigmoid, x)
    made = s.emit(quantised, made, s.tensor(3), s.tensor(4), 1, 0, low, high)
    return s.emit(channels_last, made) if last else made
