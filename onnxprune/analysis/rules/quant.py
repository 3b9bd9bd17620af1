"""Quantised operators do what their float twins do; scales and zero points of single channels follow the cut.

A quantised zero is the zero point: `mask` writes that into integer weights, so zeros stay zeros through all of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.conv import conv, from_front, to_front
from onnxprune.analysis.rules.elementwise import broadcast
from onnxprune.analysis.rules.join import concat
from onnxprune.analysis.rules.linear import gemm, matmul
from onnxprune.analysis.rules.recurrent import recurrent
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule


def _follow(f: Flow, axis: Axis, *params: Value | None) -> None:
    """Scales and zero points: one for all, or one for each position of the axis."""
    for value in params:
        if value is None:
            continue
        for own in value.axes:
            if own.size != 1:
                f.mark(value, -1, "keep")
                f.tie(axis, own)


@rule("QuantizeLinear", "DequantizeLinear", "com.microsoft::QuantizeLinear", "com.microsoft::DequantizeLinear")
def quantize(f: Flow, node: object, x: Value, scale: Value, zero: Value | None = None) -> Sequence[Axes]:
    if f.attr("block_size", 0):
        return [tuple(_blocked(f, x, i, (scale, zero)) for i in range(x.rank))]
    if x.rank:
        _follow(f, x.axes[f.attr("axis", 1) % x.rank if scale.rank else 0], scale, zero)
    return [x.axes]


def _blocked(f: Flow, x: Value, i: int, params: Sequence[Value | None]) -> Axis:
    """Along the axis of the blocks only whole ones go."""
    axis, block = x.axes[i], f.attr("block_size") if f.attr("axis", 1) % x.rank == i else 1
    for value in params:
        if value is None:
            continue
        f.mark(value, i, "keep")
        blocks = value.axes[i].size
        if isinstance(blocks, int) and axis.size == blocks * block:
            f.tie(axis, f.merge([value.axes[i], fixed(block)]))
        else:
            f.freeze_all([axis, value.axes[i]], "blocked", "is quantised in blocks that do not divide it")
    return axis


@rule("DynamicQuantizeLinear")
def quantize_by_range(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    """The range always includes zero, so zeros that leave do not change it; anything else might."""
    for axis in x.axes:
        if not axis.zero:
            f.inexact(axis, "ranged", "takes part in a range from which a scale is computed")
    return [x.axes, (), ()]


@rule("QLinearConv", "com.microsoft::QLinearConv")
def qlinear_conv(
    f: Flow,
    node: object,
    x: Value,
    xs: Value,
    xz: Value,
    w: Value,
    ws: Value,
    wz: Value,
    ys: Value,
    yz: Value,
    b: Value | None = None,
) -> Sequence[Axes]:
    _follow(f, w.axes[0], ws, wz)
    if not f.attr("channels_last", 0):
        return conv(f, node, x, w, b)
    return [from_front(axes) for axes in conv(f, node, to_front(x), w, b)]


@rule("ConvInteger")
def conv_integer(
    f: Flow, node: object, x: Value, w: Value, xz: Value | None = None, wz: Value | None = None
) -> Sequence[Axes]:
    _follow(f, w.axes[0], wz)
    return conv(f, node, x, w)


@rule("QLinearMatMul")
def qlinear_matmul(
    f: Flow, node: object, a: Value, s: Value, z: Value, b: Value, bs: Value, bz: Value, *out: Value
) -> Sequence[Axes]:
    _follow(f, a.axes[-2] if a.rank > 1 else a.axes[0], s, z)
    _follow(f, b.axes[-1], bs, bz)
    return matmul(f, node, a, b)


@rule("MatMulInteger")
def matmul_integer(
    f: Flow, node: object, a: Value, b: Value, az: Value | None = None, bz: Value | None = None
) -> Sequence[Axes]:
    _follow(f, a.axes[-2] if a.rank > 1 else a.axes[0], az)
    _follow(f, b.axes[-1], bz)
    return matmul(f, node, a, b)


@rule("com.microsoft::MatMulIntegerToFloat")
def matmul_to_float(
    f: Flow, node: object, a: Value, b: Value, s: Value, bs: Value, az: Value | None, bz: Value | None, *bias: Value
) -> Sequence[Axes]:
    _follow(f, b.axes[-1], bs, bz)
    return _biased(f, matmul(f, node, a, b)[0], bias)


@rule("com.microsoft::DynamicQuantizeMatMul")
def matmul_by_range(
    f: Flow, node: object, a: Value, b: Value, bs: Value, bz: Value | None = None, *bias: Value
) -> Sequence[Axes]:
    quantize_by_range(f, node, a)
    _follow(f, b.axes[-1], bs, bz)
    return _biased(f, matmul(f, node, a, b)[0], bias)


def _biased(f: Flow, out: Axes, bias: Sequence[Value]) -> Sequence[Axes]:
    for value in bias:
        f.mark(value, -1, "shift")
        out = tuple(broadcast(f, [out, value.axes], "all"))
    return [out]


@rule("com.microsoft::QGemm")
def qgemm(
    f: Flow,
    node: object,
    a: Value,
    s: Value,
    z: Value,
    b: Value,
    bs: Value,
    bz: Value,
    c: Value | None = None,
    *out: Value | None,
) -> Sequence[Axes]:
    _follow(f, b.axes[0 if f.attr("transB", 0) else 1], bs, bz)
    return gemm(f, node, a, b, c)


@rule("com.microsoft::QLinearAdd", "com.microsoft::QLinearMul")
def qlinear_binary(f: Flow, node: object, a: Value, s: Value, z: Value, b: Value, *rest: Value) -> Sequence[Axes]:
    for axis in range(b.rank):
        f.mark(b, axis, "shift" if f.current.op_type == "QLinearAdd" else "scale")
    return [tuple(broadcast(f, [a.axes, b.axes], "all" if f.current.op_type == "QLinearAdd" else "any"))]


@rule("com.microsoft::QLinearConcat")
def qlinear_concat(f: Flow, node: object, s: Value, z: Value, *xs: Value) -> Sequence[Axes]:
    return concat(f, node, *xs[::3])


@rule("com.microsoft::QLinearLeakyRelu", "com.microsoft::QLinearSigmoid")
def qlinear_unary(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    keeps = f.current.op_type == "QLinearLeakyRelu"
    return [tuple(axis.with_zero(axis.zero and keeps) for axis in x.axes)]


@rule("com.microsoft::QLinearSoftmax")
def qlinear_softmax(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    """It keeps the opset that it was made from, for before 13 everything from `axis` on was one long row."""
    first, older = f.attr("axis", -1) % x.rank, f.attr("opset", 13) < 13
    for axis in x.axes[first : x.rank if older else first + 1]:
        f.inexact(axis, "normalised", "is normalised by a softmax over it")
    return [tuple(axis.with_zero(False) for axis in x.axes)]


@rule("com.microsoft::QLinearGlobalAveragePool", "com.microsoft::QLinearAveragePool")
def qlinear_pool(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    last = bool(f.attr("channels_last", 0))
    channels = x.rank - 1 if last else 1
    whole = f.current.op_type == "QLinearGlobalAveragePool"
    return [
        tuple(axis if i in (0, channels) else fixed(1) if whole else f.open() for i, axis in enumerate(x.axes)),
    ]


@rule("com.microsoft::DynamicQuantizeLSTM")
def lstm_by_range(
    f: Flow, node: object, x: Value, w: Value, r: Value, b: Value | None = None, *rest: Value | None
) -> Sequence[Axes]:
    """W (directions, input, gates*hidden) and R (directions, hidden, gates*hidden) are transposed, unlike LSTM's.

    The states are quantised by their range as well, and that always includes zero.
    """
    quantize_by_range(f, node, x)
    params = rest[4:8]
    for weight, pair in ((w, params[:2]), (r, params[2:])):
        for value in pair:
            if value is not None and value.rank == 2:
                f.mark(value, 1, "keep")
                f.tie(weight.axes[2], value.axes[1])
    turned = [Value((value.axes[0], value.axes[2], value.axes[1]), value.weight) for value in (w, r)]
    return recurrent(f, node, x, *turned, b, *rest[:4])


@rule("com.microsoft::MatMulNBits")
def matmul_nbits(
    f: Flow,
    node: object,
    a: Value,
    b: Value,
    scales: Value,
    zeros: Value | None = None,
    index: Value | None = None,
    bias: Value | None = None,
) -> Sequence[Axes]:
    """B (N, blocks of K, bytes): N goes one by one, K in whole blocks."""
    if index is not None:
        raise Refuse("blocked", "its rows are permuted (g_idx)")
    inner, size, count = a.axes[-1], f.attr("block_size"), f.attr("N")
    rows, blocks = b.axes[0], b.axes[1]
    f.freeze_all([*b.axes[2:]], "blocked", "is a block of packed weights")
    f.mark(b, 0, "out")
    f.mark(b, 1, "in")
    for value in (scales, zeros):
        _nbits_params(f, value, rows, blocks)
    if isinstance(inner.size, int) and inner.size == size * int(blocks.size):
        f.tie(inner, f.merge([blocks, fixed(size)]))
    else:
        f.freeze_all([inner, blocks], "blocked", "is quantised in blocks that do not divide it")
    if bias is not None:
        f.mark(bias, 0, "shift")
        f.tie(rows, bias.axes[0])
    return [(*a.axes[:-1], Axis(count, rows.ids, True) if not rows.fixed else fixed(count))]


def _nbits_params(f: Flow, value: Value | None, rows: Axis, blocks: Axis) -> None:
    """A table of rows and blocks; of zero points several may share a byte, which goes as one."""
    if value is None:
        return
    if value.rank != 2 or value.axes[0].size != rows.size:
        f.freeze_all([*value.axes, rows, blocks], "blocked", "has scales or zero points that are not a table")
        return
    f.mark(value, 0, "scale")
    f.tie(value.axes[0], rows)
    per_byte = int(blocks.size) // int(value.axes[1].size)
    if int(blocks.size) == per_byte * int(value.axes[1].size):
        f.tie(blocks, f.merge([value.axes[1], fixed(per_byte)]))
    else:
        f.freeze_all([value.axes[1], blocks], "blocked", "has zero points that do not fill their bytes")
