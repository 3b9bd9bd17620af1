"""Quantised operators: what follows a cut, and that a cut channel is the zero point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from building import MS, Net
from onnx import TensorProto
from pruning import halved
from pruning import stored as attributes
from quantised import I8, U8, rounded, scales, step, stored, to_float, to_int
from rows import Row, row

CHANNELS = 8
Write = Callable[[Net], object]


def params(n: Net, w: str, per_channel: int = 0) -> list[str]:
    return [w, scales(n, per_channel), f"{w}.zero"]


# QuantizeLinear and DequantizeLinear around float operators


def dequantised(n: Net, *shape: int, name: str, axis: int | None = None, zero: Any = 0, dtype: Any = I8) -> str:
    w, point = stored(n, *shape, name=name, dtype=dtype, zero=zero)
    scale = scales(n, 0 if axis is None else shape[axis])
    if axis is not None and np.ndim(zero) == 0:
        n.weights.pop(point)
        point = n.const([zero] * shape[axis], dtype, name=point)
    return n.op("DequantizeLinear", w, scale, point, axis=axis, name=f"{name}.dq")


def bias(n: Net, count: int, name: str, per_channel: bool = False) -> str:
    """32 bits, its scale the product of the other two."""
    b = n.const(n.rng.integers(-400, 400, count), np.int32, name=name)
    more = {"axis": 0} if per_channel else {}
    return n.op("DequantizeLinear", b, scales(n, count if per_channel else 0, 0.001), **more)


def qdq_conv(n: Net, group: int = 1, inner: int = 8, **form: Any) -> None:
    x = rounded(n, n.image())
    w, b = dequantised(n, 8, 3, 3, 3, name="a", **form), bias(n, 8, "a.bias", per_channel=form.get("axis") is not None)
    x = rounded(n, n.op("Relu", n.op("Conv", x, w, b, pads=[1, 1, 1, 1])))
    w = dequantised(n, 6 if group == 1 else 8, inner, 1, 1, name="b", **form)
    x = rounded(n, n.op("Conv", x, w, group=group))
    n.output(n.conv(x, 5, name="last"))


def qdq_linear(n: Net, transposed: bool = False, **form: Any) -> None:
    x = rounded(n, n.input("x", 4, 5))
    if transposed:
        w = dequantised(n, 8, 5, name="a", axis=0 if form.pop("per_channel", False) else None, **form)
        x = n.op("Gemm", x, w, bias(n, 8, "a.bias"), transB=1)
    else:
        w = dequantised(n, 5, 8, name="a", axis=1 if form.pop("per_channel", False) else None, **form)
        x = n.op("Add", n.op("MatMul", x, w), bias(n, 8, "a.bias"))
    n.output(n.gemm(rounded(n, x), 3, name="last"))


def qdq_moved(n: Net) -> None:
    """The weight is turned after it was dequantised."""
    x = rounded(n, n.input("x", 4, 5))
    w = n.transpose(dequantised(n, 8, 5, name="a", axis=0, dtype=U8, zero=120), 1, 0)
    n.output(n.gemm(rounded(n, n.op("MatMul", x, w)), 3, name="last"))


def qdq_from_floats(n: Net) -> None:
    """As training with quantisation leaves it: the weights are floats, rounded at every run."""
    x = rounded(n, n.image())
    w, scale = n.weight(8, 3, 3, 3, name="a"), n.const(n.rng.uniform(0.005, 0.02, 8), np.float32)
    point = n.const([0] * 8, np.int8)
    w = n.op("DequantizeLinear", n.op("QuantizeLinear", w, scale, point, axis=0), scale, point, axis=0)
    x = n.op("Conv", x, w, n.weight(8, name="a.bias", scale=0.3), pads=[1, 1, 1, 1])
    n.output(n.conv(rounded(n, n.op("Relu", x)), 5, name="last"))


def qdq_activation_per_channel(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    scale, point = scales(n, 8, 0.04), n.const(n.rng.integers(100, 150, 8), np.uint8)
    x = n.op("DequantizeLinear", n.op("QuantizeLinear", x, scale, point, axis=1), scale, point, axis=1)
    n.output(n.conv(x, 5, name="last"))


def qdq_shift(n: Net) -> None:
    """A quantised constant is added; its zero is its zero point."""
    x = n.conv(n.image(), 8, name="first")
    x = n.op("Add", x, dequantised(n, 1, 8, 1, 1, name="shift", dtype=U8, zero=100))
    n.output(n.conv(n.reduce("ReduceSum", x, 1, keepdims=1), 5, name="last"))


def qdq_largest(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    x = n.op("Max", x, dequantised(n, 1, 8, 1, 1, name="floor", dtype=U8, zero=100))
    n.output(n.conv(n.reduce("ReduceSum", x, 1, keepdims=1), 5, name="last"))


def qdq_moved_before(n: Net) -> None:
    """The weight is turned before it is dequantised."""
    x = rounded(n, n.input("x", 4, 5))
    w, point = stored(n, 8, 5, name="a", dtype=U8, zero=120)
    w = n.op("DequantizeLinear", n.transpose(w, 1, 0), scales(n), point)
    n.output(n.gemm(rounded(n, n.op("MatMul", x, w)), 3, name="last"))


def qdq_table(n: Net) -> None:
    """Dynamic quantisation looks up bytes and dequantises what it found."""
    w, point = stored(n, 7, 8, name="table", dtype=U8, zero=120)
    rows = n.op("Gather", w, n.input("ids", 2, 3, dtype=TensorProto.INT64))
    y = n.reduce("ReduceSum", n.op("DequantizeLinear", n.transpose(rows, 1, 0, 2), scales(n), point), 2, keepdims=1)
    n.output(n.op("MatMul", y, n.weight(1, 5, name="last.weight"), name="last"))


def blocked(n: Net, axis: int, inner: int = 8) -> None:
    """Blocks of 4 of the inputs (axis 0) or of the outputs (axis 1) share a scale."""
    x = n.gemm(n.input("x", 4, 5), inner, name="first")
    w, point = stored(n, inner, 12, name="a")
    shape = (-(-inner // 4), 12) if axis == 0 else (inner, 3)
    n.weights.pop(point)
    scale = n.const(n.rng.uniform(0.01, 0.03, shape), np.float32)
    zero = n.const(n.rng.integers(-5, 5, shape), np.int8)
    y = n.op("MatMul", x, n.op("DequantizeLinear", w, scale, zero, axis=axis, block_size=4))
    n.output(n.gemm(n.op("Relu", y), 3, name="last"))


def half_bytes(n: Net, dtype: Any) -> None:
    import ml_dtypes

    x = n.op("Sigmoid", n.gemm(n.input("x", 4, 5), 6, name="first"))
    kind = getattr(ml_dtypes, dtype)
    low, zero = (-7, 0) if dtype == "int4" else (0, 7)
    w = n.const(n.rng.integers(low, low + 15, (6, 8)).astype(np.int8).astype(kind), name="a")
    y = n.op(
        "MatMul",
        x,
        n.op(
            "DequantizeLinear",
            w,
            scales(n, 8, 0.1),
            n.const(np.full(8, zero, np.int8).astype(kind), name="a.zero"),
            axis=1,
        ),
    )
    n.output(n.gemm(n.op("Relu", y), 3, name="last"))


def vendor_pairs(n: Net) -> None:
    """com.microsoft had 16 bits first."""
    x = n.conv(n.image(), 8, name="first")
    scale, point = step(n, 0.001, 30000, np.uint16)
    x = n.op(f"{MS}::QuantizeLinear", x, scale, point)
    x = n.op(f"{MS}::DequantizeLinear", x, scale, point, made=(2, 8, 6, 6))
    n.output(n.conv(x, 5, name="last"))


# Operators on integers


def qlinear_conv(n: Net, x: str, *shape: int, name: str, per_channel: bool = False, b: bool = True, **form: Any) -> str:
    group = form.pop("group", 1)
    w, _ = stored(n, *shape, name=name, **form)
    more = [n.const(n.rng.integers(-900, 900, shape[0]), np.int32, name=f"{name}.bias")] if b else []
    pads = [shape[-1] // 2] * 4
    return n.op(
        "QLinearConv",
        x,
        *step(n),
        *params(n, w, shape[0] if per_channel else 0),
        *step(n),
        *more,
        group=group,
        pads=pads,
    )


def qlinear_net(n: Net, middle: tuple[int, ...] = (6, 8, 1, 1), group: int = 1, **form: Any) -> None:
    x = qlinear_conv(n, to_int(n, n.image()), 8, 3, 3, 3, name="a", **form)
    x = qlinear_conv(n, x, *middle, name="b", group=group, **form)
    n.output(n.conv(to_float(n, x), 5, name="last"))


def channels_last(n: Net) -> None:
    """com.microsoft QLinearConv on pixels x channels; the weight is as ever."""
    x = to_int(n, n.transpose(n.image(), 0, 2, 3, 1))
    for name, shape in (("a", (8, 3, 3, 3)), ("b", (6, 8, 1, 1))):
        w, _ = stored(n, *shape, name=name)
        b = n.const(n.rng.integers(-900, 900, shape[0]), np.int32)
        x = n.op(
            f"{MS}::QLinearConv",
            x,
            *step(n),
            *params(n, w, shape[0]),
            *step(n),
            b,
            pads=[shape[2] // 2] * 4,
            channels_last=1,
        )
    y = n.transpose(to_float(n, x), 0, 3, 1, 2)
    n.output(n.op("Conv", y, n.weight(5, 6, 1, 1, name="last.weight")))


def integers(n: Net) -> tuple[str, str]:
    """A first quantised layer of 8 channels: (pixels, channels)."""
    return qlinear_conv(n, to_int(n, n.image()), 8, 3, 3, 3, name="a"), "a"


def finish(n: Net, x: str, channels: int = 8) -> None:
    y = n.op("Conv", to_float(n, x), n.weight(5, channels, 1, 1, name="last.weight"), name="last")
    n.output(y)


def whole_sum(n: Net, x: str) -> None:
    """A sum over the channels shows whether cut ones are zero."""
    total = n.op("Einsum", to_float(n, x), equation="nchw->nhw")
    n.output(n.op("Conv", n.unsqueeze(total, 1), n.weight(5, 1, 1, 1, name="last.weight"), name="last"))


def qlinear_binary(n: Net, op: str, end: Callable[[Net, str], None] = finish) -> None:
    a, _ = integers(n)
    b = qlinear_conv(n, to_int(n, "image"), 8, 3, 1, 1, name="b")
    end(n, n.op(f"{MS}::{op}", a, *step(n), b, *step(n), *step(n)))


def qlinear_constant(n: Net, op: str, end: Callable[[Net, str], None]) -> None:
    x, _ = integers(n)
    w, _ = stored(n, 1, 8, 1, 1, name="c", dtype=U8, zero=120)
    end(n, n.op(f"{MS}::{op}", x, *step(n), *params(n, w), *step(n)))


def qlinear_concat(n: Net, axis: int = 1) -> None:
    a, _ = integers(n)
    b = qlinear_conv(n, to_int(n, "image"), 8 if axis == 2 else 6, 3, 1, 1, name="b")
    y = n.op(f"{MS}::QLinearConcat", *step(n), a, *step(n), b, *step(n), axis=axis)
    finish(n, y, 14 if axis == 1 else 8)


def qlinear_concat_constant(n: Net) -> None:
    """Rows of a constant beside those that were computed."""
    a, _ = integers(n)
    w, point = stored(n, 2, 8, 2, 6, name="c", dtype=U8, zero=120)
    whole_sum(n, n.op(f"{MS}::QLinearConcat", *step(n), a, *step(n), w, scales(n), point, axis=2))


def qlinear_unary(n: Net, op: str, end: Callable[[Net, str], None] = finish, **more: Any) -> None:
    x, _ = integers(n)
    end(n, n.op(f"{MS}::{op}", x, *step(n), *step(n), **more))


def channels_last_pool(n: Net, op: str, **more: Any) -> None:
    x, _ = integers(n)
    y = n.op(f"{MS}::{op}", n.transpose(x, 0, 2, 3, 1), *step(n), *step(n), channels_last=1, **more)
    finish(n, n.transpose(y, 0, 3, 1, 2))


def qlinear_matmul(n: Net, per_channel: bool = False, rank: int = 2, **form: Any) -> None:
    x = to_int(n, n.input("x", *(4, 5)[2 - rank :] if rank < 3 else (2, 4, 5)))
    for name, shape in (("a", (5, 8)), ("b", (8, 6))):
        w, _ = stored(n, *shape, name=name, **form)
        x = n.op("QLinearMatMul", x, *step(n), *params(n, w, shape[1] if per_channel else 0), *step(n))
    n.output(n.op("MatMul", to_float(n, x), n.weight(6, 3, name="last.weight"), name="last"))


def qlinear_heads(n: Net) -> None:
    """Two activations multiplied."""
    x = to_int(n, n.input("x", 4, 5))
    for name in "ab":
        w, _ = stored(n, 5, 8, name=name)
        n_ = n.op("QLinearMatMul", x, *step(n), *params(n, w), *step(n))
        a, b = (n_, None) if name == "a" else (a, n_)  # noqa: F821
    y = n.op("QLinearMatMul", a, *step(n), n.transpose(b, 1, 0), *step(n), *step(n, 0.2))
    n.output(to_float(n, y, 0.2))


def by_range(n: Net, x: str, w: str, zero: str, scale: str, kind: str = "MatMulInteger", **more: Any) -> str:
    """As dynamic quantisation writes it."""
    q, s, z = n.ops("DynamicQuantizeLinear", 3, x)
    y = n.op("Cast", n.op(kind, q, w, z, zero, **more), to=1)
    return n.op("Mul", y, n.op("Mul", s, scale))


def dynamic_linear(n: Net, per_channel: bool = False, activation: str = "Relu", **form: Any) -> None:
    x = n.input("x", 4, 5)
    for name, shape in (("a", (5, 8)), ("b", (8, 6))):
        w, zero = stored(n, *shape, name=name, **form)
        x = n.op(
            "Add", by_range(n, x, w, zero, scales(n, shape[1] if per_channel else 0)), n.weight(shape[1], scale=0.2)
        )
        x = n.op(activation, x) if name == "a" else x
    n.output(n.gemm(x, 3, name="last"))


def dynamic_conv(
    n: Net, activation: str = "Relu", middle: tuple[int, ...] = (6, 8, 1, 1), group: int = 1, **form: Any
) -> None:
    x = n.image()
    for name, shape, groups in (("a", (8, 3, 3, 3), 1), ("b", middle, group)):
        w, zero = stored(n, *shape, name=name, **form)
        pads = [shape[2] // 2] * 4
        x = by_range(n, x, w, zero, scales(n), "ConvInteger", pads=pads, group=groups)
        x = n.op("Add", x, n.weight(1, shape[0], 1, 1, scale=0.2))
        x = n.op(activation, x) if name == "a" else x
    n.output(n.conv(x, 5, name="last"))


def qgemm(
    n: Net, transposed: bool = False, per_channel: bool = False, zero: Any = 0, dtype: Any = I8, floats: bool = False
) -> None:
    x = to_int(n, n.input("x", 4, 5))
    for name, (inner, outer) in (("a", (5, 8)), ("b", (8, 6))):
        shape = (outer, inner) if transposed else (inner, outer)
        point = zero if np.ndim(zero) == 0 else list(zero[:outer])
        w, _ = stored(n, *shape, name=name, zero=point, dtype=dtype)
        c = n.const(n.rng.integers(-900, 900, outer), np.int32, name=f"{name}.bias")
        end = [] if floats and name == "b" else step(n)
        wide = outer if per_channel else 0
        x = n.op(f"{MS}::QGemm", x, *step(n), *params(n, w, wide), c, *end, transB=int(transposed))
    y = x if floats else to_float(n, x)
    n.output(n.op("MatMul", y, n.weight(6, 3, name="last.weight"), name="last"))


def to_floats(n: Net, per_channel: bool = False, b: bool = True, **form: Any) -> None:
    x = n.input("x", 4, 5)
    for name, shape in (("a", (5, 8)), ("b", (8, 6))):
        w, zero = stored(n, *shape, name=name, **form)
        q, s, z = n.ops("DynamicQuantizeLinear", 3, x)
        more = [n.weight(shape[1], name=f"{name}.bias", scale=0.2)] if b else []
        scale = scales(n, shape[1] if per_channel else 0)
        x = n.op(f"{MS}::MatMulIntegerToFloat", q, w, s, scale, z, zero, *more, made=(4, shape[1]))
    n.output(n.op("MatMul", x, n.weight(6, 3, name="last.weight"), name="last"))


def dynamic_matmul(n: Net, per_channel: bool = False, b: bool = True, **form: Any) -> None:
    x = n.input("x", 4, 5)
    for name, shape in (("a", (5, 8)), ("b", (8, 6))):
        w, zero = stored(n, *shape, name=name, **form)
        more = [n.weight(shape[1], name=f"{name}.bias", scale=0.2)] if b else []
        scale = scales(n, shape[1] if per_channel else 0)
        x = n.op(f"{MS}::DynamicQuantizeMatMul", x, w, scale, zero, *more, made=(4, shape[1]))
    n.output(n.op("MatMul", x, n.weight(6, 3, name="last.weight"), name="last"))


def packed(
    n: Net, *, inner: int = 64, block: int = 16, flat: bool = False, zeros: str = "", b: bool = False, bits: int = 4
) -> None:
    """MatMulNBits: 8 outputs of 64 inputs in blocks of 16."""
    x = n.op("Relu", n.gemm(n.input("x", 4, 5), inner, name="first"))
    blocks = -(-inner // block)
    w = n.const(n.rng.integers(0, 256, (8, blocks, block * bits // 8)), np.uint8, name="packed")
    scale = n.const(
        n.rng.uniform(0.05, 0.1, 8 * blocks).reshape((-1,) if flat else (8, blocks)), np.float32, name="packed.scale"
    )
    point = ""
    if zeros == "packed":
        columns = -(-blocks * bits // 8)
        point = n.const(n.rng.integers(0, 256, 8 * columns).reshape((-1,) if flat else (8, columns)), np.uint8)
    elif zeros == "floats":
        point = n.const(n.rng.uniform(5, 9, (8, blocks)), np.float32)
    more = [point, "", n.weight(8, name="packed.bias")] if b else [point] if point else []
    y = n.op(f"{MS}::MatMulNBits", x, w, scale, *more, N=8, K=inner, bits=bits, block_size=block, made=(4, 8))
    n.output(n.op("MatMul", n.op("Relu", y), n.weight(8, 3, name="last.weight"), name="last"))


def lstm(n: Net, both: bool = False, per_channel: bool = False, dtype: Any = I8, zero: int = 0, b: bool = True) -> None:
    """As dynamic quantisation leaves it: the gates are the last axis."""
    inner, hidden, d = 3, 6, 2 if both else 1
    x = n.input("sequence", 4, 2, inner)
    weights = []
    for name, width in (("W", inner), ("R", hidden)):
        w, point = stored(n, d, width, 4 * hidden, name=name, dtype=dtype, zero=zero)
        shape = (d, 4 * hidden) if per_channel else (d,)
        n.weights.pop(point)
        weights.append([w, n.const(n.rng.uniform(0.01, 0.02, shape), np.float32), n.const(np.full(shape, zero), dtype)])
    (w, *wide), (r, *deep) = weights
    more = n.weight(d, 8 * hidden, name="B", scale=0.3) if b else ""
    way = "bidirectional" if both else "forward"
    y = n.ops(
        f"{MS}::DynamicQuantizeLSTM", 3, x, w, r, more, "", "", "", "", *wide, *deep, hidden_size=hidden, direction=way
    )[0]
    n.made[y] = (4, d, 2, hidden)
    y = n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, -1)
    n.output(n.op("MatMul", y, n.weight(d * hidden, 5, name="last.weight"), name="last"))


def across(n: Net, kind: str) -> None:
    """The channels stand where pixels are expected."""
    x, _ = integers(n)
    x = n.transpose(x, 0, 2, 1, 3)
    w, zero = stored(n, 4, 6, 3, 3, name="b")
    match kind:
        case "QLinearConv":
            y = n.op(kind, x, *step(n), *params(n, w), *step(n), pads=[1, 1, 1, 1])
        case "ConvInteger":
            y = n.op("QuantizeLinear", n.op("Cast", n.op(kind, x, w, step(n)[1], zero, pads=[1] * 4), to=1), *step(n))
        case _:
            x = n.transpose(x, 0, 2, 3, 1)
            y = n.op(kind, x, *step(n), *params(n, w), *step(n), pads=[1] * 4, channels_last=1)
            y = n.transpose(y, 0, 3, 1, 2)
    n.output(n.op("Conv", to_float(n, y), n.weight(5, 4, 1, 1, name="last.weight"), name="last"))


def channels_last_grouped(n: Net, end: Callable[[Net, str], None] = finish) -> None:
    x = n.transpose(integers(n)[0], 0, 2, 3, 1)
    w, _ = stored(n, 8, 1, 3, 3, name="dw")
    y = n.op(f"{MS}::QLinearConv", x, *step(n), *params(n, w), *step(n), pads=[1] * 4, group=8, channels_last=1)
    end(n, n.transpose(y, 0, 3, 1, 2))


def per_channel_sum(n: Net, vendor: bool = False) -> None:
    x = n.conv(n.image(), 8, name="first")
    scale = n.const(n.rng.uniform(0.02, 0.06, 8), np.float32, name="scale")
    point = n.const(np.full(8, 128), np.uint8, name="point")
    if vendor:
        scale, point = step(n)
    kind = f"{MS}::" if vendor else ""
    y = n.op(f"{kind}QuantizeLinear", x, scale, point, axis=1)
    if not vendor:  # of its own, though the numbers are the same
        scale = n.const(onnx.numpy_helper.to_array(n.weights[scale]), name="back.scale")
        point = n.const(onnx.numpy_helper.to_array(n.weights[point]), name="back.point")
    y = n.op(f"{kind}DequantizeLinear", y, scale, point, axis=1, made=(2, 8, 6, 6) if vendor else None)
    n.output(n.conv(n.reduce("ReduceSum", y, 1), 5, name="last"))


def range_sum(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    q, s, z = n.ops("DynamicQuantizeLinear", 3, x)
    n.output(n.conv(n.reduce("ReduceSum", n.op("DequantizeLinear", q, s, z), 1), 5, name="last"))


def qgemm_sum(n: Net) -> None:
    x = to_int(n, n.input("x", 4, 5))
    w, _ = stored(n, 5, 8, name="a")
    c = n.const(n.rng.integers(-900, 900, 8), np.int32, name="a.bias")
    y = to_float(n, n.op(f"{MS}::QGemm", x, *step(n), *params(n, w), c, *step(n)))
    n.output(n.op("MatMul", n.reduce("ReduceSum", y, 1), n.weight(1, 3, name="last.weight"), name="last"))


def packed_sum(n: Net) -> None:
    x = n.op("Relu", n.gemm(n.input("x", 4, 5), 64, name="first"))
    w = n.const(n.rng.integers(0, 256, (8, 4, 8)), np.uint8, name="packed")
    scale = n.const(n.rng.uniform(0.05, 0.1, (8, 4)), np.float32, name="packed.scale")
    y = n.op(f"{MS}::MatMulNBits", x, w, scale, N=8, K=64, bits=4, block_size=16, made=(4, 8))
    n.output(n.op("MatMul", n.reduce("ReduceSum", y, 1), n.weight(1, 3, name="last.weight"), name="last"))


def lstm_sum(n: Net) -> None:
    lstm(n)
    n.outputs.clear()
    product = n.nodes.pop()
    y = n.reduce("ReduceSum", product.input[0], -1)
    n.output(n.op("MatMul", y, n.weight(1, 5, name="last.weight"), name="last"))


KEPT = ("scale:0", "point:0", "back.scale:0", "back.point:0")
EIGHT = list(range(110, 118))
ROWS: list[Row] = [
    # QuantizeLinear and DequantizeLinear
    row("QDQ Conv", qdq_conv, 8, 6),
    row("QDQ Conv per channel", lambda n: qdq_conv(n, axis=0), 8, 6),
    row("QDQ Conv, uint8", lambda n: qdq_conv(n, dtype=U8, zero=120), 8, 6),
    row("QDQ Conv, uint8 per channel", lambda n: qdq_conv(n, dtype=U8, zero=120, axis=0), 8, 6),
    row("QDQ Conv, depthwise", lambda n: qdq_conv(n, group=8, inner=1, axis=0), 8),
    row("QDQ Conv, grouped", lambda n: qdq_conv(n, group=4, inner=2, axis=0), 4),
    row("QDQ Conv, opset 10", qdq_conv, 8, 6, opset=10),
    row("QDQ MatMul", qdq_linear, 8),
    row("QDQ MatMul per channel", lambda n: qdq_linear(n, per_channel=True), 8),
    row("QDQ MatMul, uint8 per channel", lambda n: qdq_linear(n, per_channel=True, dtype=U8, zero=EIGHT), 8),
    row("QDQ Gemm", lambda n: qdq_linear(n, transposed=True), 8),
    row("QDQ Gemm per channel", lambda n: qdq_linear(n, transposed=True, per_channel=True), 8),
    row(
        "QDQ Gemm, uint8 per channel",
        lambda n: qdq_linear(n, transposed=True, per_channel=True, dtype=U8, zero=EIGHT),
        8,
    ),
    row("QDQ, turned behind", qdq_moved, 8),
    row("QDQ, turned in front", qdq_moved_before, 8),
    row("QDQ of float weights", qdq_from_floats, 8),
    row("QDQ of activations per channel", qdq_activation_per_channel, 8),
    row("QDQ constant, added and summed", qdq_shift, 8),
    row("QDQ constant, the larger, summed", qdq_largest, 8),
    row("QDQ of a table, summed", qdq_table, 8),
    row("QDQ in blocks of inputs", lambda n: blocked(n, 0), 12, 2, opset=21),
    row("QDQ in blocks of outputs", lambda n: blocked(n, 1), 8, 3, opset=21),
    row("QDQ in blocks that do not fit", lambda n: blocked(n, 0, 10), 12, frozen={"blocked": 10}, opset=21),
    row("QDQ, int4", lambda n: half_bytes(n, "int4"), 8, 6, opset=21),
    row("QDQ, uint4", lambda n: half_bytes(n, "uint4"), 8, 6, opset=21),
    row("QDQ of com.microsoft", vendor_pairs, 8),
    # Convolutions on integers
    row("QLinearConv", qlinear_net, 8, 6),
    row("QLinearConv without a bias", lambda n: qlinear_net(n, b=False), 8, 6),
    row("QLinearConv per channel", lambda n: qlinear_net(n, per_channel=True), 8, 6),
    row("QLinearConv, uint8", lambda n: qlinear_net(n, dtype=U8, zero=120), 8, 6),
    row("QLinearConv, depthwise", lambda n: qlinear_net(n, (8, 1, 3, 3), 8, per_channel=True), 8),
    row("QLinearConv, grouped", lambda n: qlinear_net(n, (12, 4, 1, 1), 2), 6, 4),
    row("QLinearConv of com.microsoft", channels_last, 8, 6),
    row("ConvInteger", dynamic_conv, 8, 6),
    row("ConvInteger, uint8", lambda n: dynamic_conv(n, dtype=U8, zero=120), 8, 6),
    row("ConvInteger, depthwise", lambda n: dynamic_conv(n, middle=(8, 1, 3, 3), group=8), 8),
    # Products of integers
    row("QLinearMatMul", qlinear_matmul, 8, 6),
    row("QLinearMatMul of rank 3", lambda n: qlinear_matmul(n, rank=3), 8, 6),
    row("QLinearMatMul per channel", lambda n: qlinear_matmul(n, per_channel=True), 8, 6),
    row("QLinearMatMul, uint8", lambda n: qlinear_matmul(n, dtype=U8, zero=120), 8, 6),
    row("QLinearMatMul of activations", qlinear_heads, 8),
    row("MatMulInteger", dynamic_linear, 8, 6),
    row("MatMulInteger per channel", lambda n: dynamic_linear(n, per_channel=True), 8, 6),
    row("MatMulInteger, uint8", lambda n: dynamic_linear(n, dtype=U8, zero=120), 8, 6),
    row("QGemm", qgemm, 8, 6),
    row("QGemm, transposed", lambda n: qgemm(n, transposed=True), 8, 6),
    row("QGemm per channel", lambda n: qgemm(n, per_channel=True, zero=[0] * 8), 8, 6),
    row(
        "QGemm, transposed, uint8 per channel",
        lambda n: qgemm(n, transposed=True, per_channel=True, dtype=U8, zero=EIGHT),
        8,
        6,
    ),
    row("QGemm to floats", lambda n: qgemm(n, floats=True), 8, 6),
    row("MatMulIntegerToFloat", to_floats, 8, 6),
    row("MatMulIntegerToFloat without a bias", lambda n: to_floats(n, b=False), 8, 6),
    row("MatMulIntegerToFloat per channel", lambda n: to_floats(n, per_channel=True), 8, 6),
    row("MatMulIntegerToFloat, uint8", lambda n: to_floats(n, dtype=U8, zero=120), 8, 6),
    row("DynamicQuantizeMatMul", dynamic_matmul, 8, 6),
    row("DynamicQuantizeMatMul without a bias", lambda n: dynamic_matmul(n, b=False), 8, 6),
    row("DynamicQuantizeMatMul per channel", lambda n: dynamic_matmul(n, per_channel=True), 8, 6),
    row("DynamicQuantizeMatMul, uint8", lambda n: dynamic_matmul(n, dtype=U8, zero=120), 8, 6),
    row("DynamicQuantizeLSTM", lstm, 6),
    row("DynamicQuantizeLSTM without a bias", lambda n: lstm(n, b=False), 6),
    row("DynamicQuantizeLSTM, bidirectional", lambda n: lstm(n, both=True), 6),
    row("DynamicQuantizeLSTM per channel", lambda n: lstm(n, both=True, per_channel=True), 6),
    # What a range is taken over
    row(
        "DynamicQuantizeLinear behind Sigmoid",
        lambda n: dynamic_linear(n, activation="Sigmoid"),
        6,
        frozen={"ranged": 8},
    ),
    row(
        "DynamicQuantizeLinear behind Sigmoid, pixels",
        lambda n: dynamic_conv(n, activation="Sigmoid"),
        6,
        frozen={"ranged": 8},
    ),
    # The rest of onnxruntime's
    row("QLinearAdd", lambda n: qlinear_binary(n, "QLinearAdd"), 8),
    row("QLinearAdd, summed", lambda n: qlinear_binary(n, "QLinearAdd", whole_sum), 8),
    row("QLinearMul", lambda n: qlinear_binary(n, "QLinearMul"), 8),
    row("QLinearMul, summed", lambda n: qlinear_binary(n, "QLinearMul", whole_sum), 8),
    row("QLinearAdd of a constant", lambda n: qlinear_constant(n, "QLinearAdd", finish), 8),
    row("QLinearAdd of a constant, summed", lambda n: qlinear_constant(n, "QLinearAdd", whole_sum), 8),
    row("QLinearMul with a constant, summed", lambda n: qlinear_constant(n, "QLinearMul", whole_sum), 8),
    row("QLinearConcat", qlinear_concat, 8, 6),
    row("QLinearConcat of rows", lambda n: qlinear_concat(n, axis=2), 8),
    row("QLinearConcat with a constant, summed", qlinear_concat_constant, 8),
    row("QLinearLeakyRelu, summed", lambda n: qlinear_unary(n, "QLinearLeakyRelu", whole_sum, alpha=0.1), 8),
    row("QLinearSigmoid", lambda n: qlinear_unary(n, "QLinearSigmoid"), 8),
    row(
        "QLinearSigmoid, summed", lambda n: qlinear_unary(n, "QLinearSigmoid", whole_sum), frozen={"sum-of-nonzero": 8}
    ),
    row("QLinearSoftmax over pixels", lambda n: qlinear_unary(n, "QLinearSoftmax", axis=3, opset=13), 8),
    row(
        "QLinearSoftmax over channels",
        lambda n: qlinear_unary(n, "QLinearSoftmax", axis=1, opset=13),
        frozen={"normalised": 8},
    ),
    row(
        "QLinearSoftmax of old",
        lambda n: qlinear_unary(n, "QLinearSoftmax", axis=1, opset=11),
        frozen={"normalised": 8},
    ),
    row("QLinearGlobalAveragePool", lambda n: qlinear_unary(n, "QLinearGlobalAveragePool"), 8),
    row("QLinearAveragePool", lambda n: qlinear_unary(n, "QLinearAveragePool", kernel_shape=[2, 2], strides=[2, 2]), 8),
    row("QLinearGlobalAveragePool, channels last", lambda n: channels_last_pool(n, "QLinearGlobalAveragePool"), 8),
    row(
        "QLinearAveragePool, channels last",
        lambda n: channels_last_pool(n, "QLinearAveragePool", kernel_shape=[2, 2]),
        8,
    ),
    # Packed in blocks
    row("MatMulNBits", packed, 8, 4),
    row("MatMulNBits with a bias", lambda n: packed(n, b=True), 8, 4),
    row("MatMulNBits with zero points", lambda n: packed(n, zeros="floats"), 8, 4),
    row("MatMulNBits with packed zero points", lambda n: packed(n, zeros="packed"), 8, 2),
    row("MatMulNBits with packed zero points, flat", lambda n: packed(n, zeros="packed", flat=True), 8, 2),
    row(
        "MatMulNBits with packed zero points, odd",
        lambda n: packed(n, zeros="packed", inner=48),
        8,
        frozen={"blocked": 48},
    ),
    row("MatMulNBits with flat scales", lambda n: packed(n, flat=True), 8, 4),
    row("MatMulNBits of one block", lambda n: packed(n, inner=16, flat=True), 8, frozen={"fixed-axis": 16}),
    row("MatMulNBits of blocks that do not fit", lambda n: packed(n, inner=24), 8, frozen={"blocked": 24}),
    row("MatMulNBits of 8 bits", lambda n: packed(n, bits=8), 8, 4),
    # What moves over pixels cannot move over channels
    row(
        "QLinearConv of channels where pixels should be", lambda n: across(n, "QLinearConv"), 4, frozen={"convolved": 8}
    ),
    row(
        "ConvInteger of channels where pixels should be", lambda n: across(n, "ConvInteger"), 4, frozen={"convolved": 8}
    ),
    row(
        "QLinearConv of com.microsoft, channels where pixels should be",
        lambda n: across(n, f"{MS}::QLinearConv"),
        4,
        frozen={"convolved": 8},
    ),
    row("QLinearConv of com.microsoft, depthwise", channels_last_grouped, 8),
    # Whether zeros are kept
    row("QLinearConv of com.microsoft, summed", lambda n: channels_last_grouped(n, whole_sum), 8),
    row("QDQ per channel, summed", per_channel_sum, 8, roles=dict.fromkeys(KEPT, "keep")),
    row("QDQ of com.microsoft, summed", lambda n: per_channel_sum(n, vendor=True), 8),
    row("DynamicQuantizeLinear, summed", range_sum, 8),
    row("QGemm, summed", qgemm_sum, 8),
    row("QLinearLeakyRelu", lambda n: qlinear_unary(n, "QLinearLeakyRelu", alpha=0.1), 8),
    row(
        "QLinearSoftmax over pixels, summed",
        lambda n: qlinear_unary(n, "QLinearSoftmax", whole_sum, axis=3, opset=13),
        frozen={"sum-of-nonzero": 8},
    ),
    row("QLinearGlobalAveragePool, summed", lambda n: qlinear_unary(n, "QLinearGlobalAveragePool", whole_sum), 8),
    row(
        "QLinearAveragePool, summed",
        lambda n: qlinear_unary(n, "QLinearAveragePool", whole_sum, kernel_shape=[2, 2], strides=[2, 2]),
        8,
    ),
    row("MatMulNBits, summed", packed_sum, 8, 4),
    row("DynamicQuantizeLSTM, summed", lstm_sum, 6),
    # What a constant does with the channels
    row("QLinearAdd, its role", lambda n: qlinear_constant(n, "QLinearAdd", finish), 8, roles={"c:1": "shift"}),
    row("QLinearMul, its role", lambda n: qlinear_constant(n, "QLinearMul", finish), 8, roles={"c:1": "scale"}),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_quantised(case: Row) -> None:
    case.check()


@pytest.mark.parametrize(
    ("write", "op", "expected"),
    [
        (lambda n: qlinear_net(n, (8, 1, 3, 3), 8), "QLinearConv", [1, 4]),
        (lambda n: dynamic_conv(n, middle=(8, 1, 3, 3), group=8), "ConvInteger", [1, 4]),
    ],
)
def test_groups_follow(write: Write, op: str, expected: list[int]) -> None:
    net = Net()
    write(net)
    assert [found["group"] for found in attributes(halved(net.proto()), op)] == expected


def test_hidden_size_follows() -> None:
    net = Net()
    lstm(net, both=True)
    (found,) = attributes(halved(net.proto()), "DynamicQuantizeLSTM")
    assert found["hidden_size"] == 3


def test_packed_sizes_follow() -> None:
    """N counts outputs, K inputs: two of the four blocks are left."""
    net = Net()
    packed(net)
    pruned = halved(net.proto())
    (found,) = attributes(pruned, "MatMulNBits")
    assert (found["N"], found["K"]) == (4, 32)
    assert pruned.weights["packed"].shape == (4, 2, 8)
    assert pruned.weights["packed"].dtype == TensorProto.UINT8
