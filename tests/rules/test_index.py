"""Operators that pick or place by index, and those for which a position has a meaning of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from building import Net
from rows import Op, Row, across, between, dulled, row, summed

I64, INDEXED, POSITIONAL, REDUCED = 7, {"indexed": 8}, {"positional": 8}, {"reduced": 8}
ORDER = [3, 1, 0, 7, 6, 2, 5, 4]


def gather(picks: object, axis: int = 1, dtype: type = np.int64) -> Op:
    return lambda n, x: n.op("Gather", x, n.const(picks, dtype), axis=axis)


def beside(op: Op) -> Op:
    """The channels are also read as they are, so that none is dead."""

    def both(n: Net, x: str) -> str:
        n.output(n.conv(x, 3, name="last.beside"))
        return op(n, x)

    return both


def two_gathers(n: Net, x: str) -> str:
    """Even and odd channels, added."""
    even, odd = gather([0, 2, 4, 6])(n, x), gather([1, 3, 5, 7])(n, x)
    return n.op("Add", even, odd)


def gather_square(n: Net, x: str) -> str:
    """Indices of rank 2 make an axis more."""
    y = n.op("Gather", x, n.const(np.arange(8).reshape(4, 2), np.int64), axis=1)
    return n.reshape(n.op("Softmax", y, axis=2), 0, 8, 6, 6)


def gather_halves(n: Net, x: str) -> str:
    """The sum runs over pairs of channels, then over what is left."""
    y = n.op("Gather", x, n.const(np.arange(8).reshape(2, 4), np.int64), axis=1)
    return n.reduce("ReduceSum", y, 1, keepdims=0)


def gather_nd_first(n: Net) -> None:
    """Rows of a matrix with the channels in front, counted from either end."""
    x = n.transpose(n.gemm(n.input("x", 4, 6), 8, name="first"), 1, 0)
    picks = n.const([[7], [6], [5], [-4], [3], [2], [1], [-8]], np.int64)
    n.close(n.transpose(n.op("GatherND", x, picks), 1, 0))


def gather_given(n: Net, x: str) -> str:
    return n.op("Gather", x, n.input("picks", 3, dtype=I64), axis=1)


def scalar(n: Net, x: str) -> str:
    return n.unsqueeze(n.op("Gather", x, n.const(2, np.int64), axis=1), 1)


def token(n: Net) -> None:
    """The class token: one position of an axis that does not move, all of the channels."""
    x = n.linear(n.input("x", 2, 4, 5), 8, name="first")
    n.close(n.op("Gather", x, n.const(0, np.int64), axis=1))


def embedding(n: Net) -> None:
    table = n.weight(20, 8, name="table", scale=1.0)
    x = n.op("Gather", table, n.input("ids", 2, 5, dtype=I64))
    n.output(n.linear(x, 5, name="last"))


def gathered_weight(n: Net) -> None:
    """A kernel whose rows are picked: fold by the exporter, or not."""
    w = n.op("Gather", n.weight(8, 3, 1, 1, name="w"), n.const([5, 4, 1, 0], np.int64), axis=0)
    n.close(n.op("Conv", n.image(), w))


def elements(shape: Sequence[int], axis: int) -> Op:
    def op(n: Net, x: str) -> str:
        picks = np.random.default_rng(0).integers(0, (2, 8, 6, 6)[axis], shape)
        return n.op("GatherElements", x, n.const(picks, np.int64), axis=axis)

    return op


def scatter(kind: str, shape: Sequence[int], axis: int = 3) -> Op:
    def op(n: Net, x: str) -> str:
        rows = np.random.default_rng(0).integers(0, 6, shape)
        return n.op(kind, x, n.const(rows, np.int64), n.weight(*shape, scale=1.0), axis=axis)

    return op


def scatter_activations(n: Net) -> None:
    """Data and updates have channels, both made by layers."""
    x = n.image()
    rows = np.random.default_rng(0).integers(0, 6, (2, 8, 6, 6))
    data, updates = n.conv(x, 8, name="data"), n.conv(x, 8, name="updates")
    n.close(n.op("ScatterElements", data, n.const(rows, np.int64), updates, axis=3))


def gather_nd(n: Net, x: str) -> str:
    """Rows of the picture, all of the channels."""
    y = n.op("GatherND", n.transpose(x, 0, 2, 1, 3), n.const([[0, 1], [1, 5]], np.int64))
    return n.op("Unsqueeze", y, n.ints(3))


def gather_nd_batched(n: Net, x: str) -> str:
    y = n.op("GatherND", n.transpose(x, 0, 2, 1, 3), n.const([[[1], [3]], [[5], [0]]], np.int64), batch_dims=1)
    return n.transpose(y, 0, 2, 1, 3)


def gather_nd_channels(n: Net, x: str) -> str:
    return n.op("Unsqueeze", n.op("GatherND", x, n.const([[0, 1], [1, 5]], np.int64)), n.ints(1))


def gather_nd_given(n: Net, x: str) -> str:
    return n.op("GatherND", x, n.input("picks", 2, "depth", dtype=I64), made=(2, 8, 6, 6))


def scatter_nd(n: Net) -> None:
    """One row of the picture is replaced, channel by channel."""
    x = n.image()
    data, updates = n.conv(x, 8, name="data"), n.conv(x, 8, name="updates")
    moved = n.transpose(data, 0, 2, 1, 3)
    row = n.op(
        "Gather", n.op("Gather", n.transpose(updates, 0, 2, 1, 3), n.const(0, np.int64), axis=0), n.ints(2), axis=0
    )
    y = n.op("ScatterND", moved, n.const([[1, 3]], np.int64), row)
    n.close(n.transpose(y, 0, 2, 1, 3))


def scatter_nd_summed(n: Net) -> None:
    x = n.linear(n.input("x", 2, 4, 5), 8, name="first")
    row = n.op("Gather", n.linear(n.input("y", 2, 4, 5), 8, name="second"), n.ints(0), axis=0)
    y = n.op("ScatterND", x, n.const([[1]], np.int64), row)
    n.output(n.linear(n.reduce("ReduceSum", y, 2), 5, name="last"))


def scatter_nd_channels(n: Net, x: str) -> str:
    return n.op("ScatterND", x, n.const([[0, 1]], np.int64), n.weight(1, 6, 6))


def scatter_nd_given(n: Net, x: str) -> str:
    return n.op("ScatterND", x, n.input("at", 1, "depth", dtype=I64), n.input("what", 1, 6, 6), made=(2, 8, 6, 6))


def one_hot(n: Net, x: str) -> str:
    """Which pixel is the largest, for every channel."""
    best = n.op("ArgMax", n.reshape(x, 2, 8, 36), axis=2, keepdims=0)
    return n.op("OneHot", best, n.const(36, np.int64), n.const([0.5, 1.0], np.float32), axis=-1)


def top_k(axis: int, *, out: int = 0) -> Op:
    def op(n: Net, x: str) -> str:
        k = {"k": 3} if n.opset < 10 else {}
        inputs = [] if k else [n.ints(3)]
        return n.op("Cast", n.ops("TopK", 2, x, *inputs, axis=axis, **k)[out], to=1)

    return op


def arg(kind: str, axis: int, **more: int) -> Op:
    return lambda n, x: n.op("Cast", n.op(kind, x, axis=axis, **more), to=1)


def cumulative(axis: int) -> Op:
    return lambda n, x: n.op("CumSum", x, n.const(axis, np.int64))


def cumulative_given(n: Net, x: str) -> str:
    return n.op("CumSum", x, n.input("axis", dtype=I64))


def trilu(n: Net, x: str) -> str:
    return n.op("Trilu", x, upper=0)


def trilu_channels(n: Net, x: str) -> str:
    return n.transpose(n.op("Trilu", n.transpose(x, 0, 2, 1, 3)), 0, 2, 1, 3)


def eye(n: Net) -> None:
    x = n.gemm(n.input("x", 4, 6), 8, name="first")
    n.close(n.op("EyeLike", x))


def reverse(n: Net) -> None:
    """Time and batch are turned round, channels follow."""
    x = n.linear(n.input("x", 4, 2, 5), 8, name="first")
    n.output(n.linear(n.op("ReverseSequence", x, n.const([2, 4], np.int64)), 5, name="last"))


def reverse_summed(n: Net) -> None:
    x = n.linear(n.input("x", 4, 2, 5), 8, name="first")
    y = n.op("ReverseSequence", x, n.const([2, 4], np.int64))
    n.output(n.linear(n.reduce("ReduceSum", y, 2), 5, name="last"))


def reverse_channels(n: Net) -> None:
    x = n.gemm(n.input("x", 4, 6), 8, name="first")
    n.close(n.transpose(n.op("ReverseSequence", n.transpose(x, 1, 0), n.const([3] * 4, np.int64)), 1, 0))


def nonzero(n: Net) -> None:
    x = n.gemm(n.input("x", 4, 6), 8, name="first")
    n.output(n.op("NonZero", n.op("Relu", x)))


def suppression(n: Net) -> None:
    x = n.reshape(n.gemm(n.input("x", 4, 6), 8, name="first"), 1, 8, 4)
    scores = n.reshape(n.gemm("x", 2, name="second"), 1, 1, 8)
    n.output(n.op("NonMaxSuppression", x, scores, n.const([2], np.int64)))


def expand(*shape: int, pooled: bool = True) -> Op:
    return lambda n, x: n.op("Expand", n.op("GlobalAveragePool", x) if pooled else x, n.ints(*shape))


def expand_as(n: Net, x: str) -> str:
    """To the shape of what it was pooled from."""
    return n.op("Expand", n.op("GlobalAveragePool", x), n.op("Shape", x))


def expand_parts(n: Net, x: str) -> str:
    one = n.ints(1)
    return n.op("Expand", n.op("GlobalAveragePool", x), n.concat(one, one, n.length(x, 2), n.length(x, 3), axis=0))


def expand_channels(n: Net) -> None:
    """A gate of one channel is repeated for each of eight."""
    x = n.conv(n.image(), 8, name="first")
    gate = n.op("Sigmoid", n.conv(x, 1, name="gate"))
    n.close(n.op("Mul", x, n.op("Expand", gate, n.op("Shape", x))))


def expand_to_one(n: Net) -> None:
    """The target is computed from an axis that a cut may leave one position of."""
    x = n.conv(n.image(), 2, name="first")
    gate = n.op("Sigmoid", n.conv("image", 1, name="gate"))
    y = n.op("Expand", gate, n.op("Shape", x))
    n.output(n.conv(n.op("Mul", x, y), 5, name="last"), n.conv(y, 3, name="last.gate"))


def expand_given(n: Net, x: str) -> str:
    return n.op("Expand", x, n.op("Mul", n.input("to", "R", dtype=I64), n.ints(1)), made=(2, 8, 6, 6))


def expand_unknown(n: Net) -> None:
    x = n.op("GlobalAveragePool", n.conv(n.image("N", 3, "H", "W"), 8, name="first"))
    second = n.conv("image", 8, name="second")
    n.output(n.conv(n.op("Expand", x, n.op("Shape", second)), 5, name="last"), n.conv(second, 5, name="last.second"))


ROWS = [
    *across((7, 11, 13), "Gather", gather(ORDER)),
    between("Gather of a part", beside(gather([1, 2, 5])), 5, 3),
    between("Gather, negative indices", beside(gather([-1, -2, 0, -5])), 4, 4),
    between("Gather with repetitions", gather([0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 7]), 6, 1, 1),
    between("Gather of a small integer type", gather(ORDER, dtype=np.int32)),
    between("Gather of one position", beside(scalar), 7, frozen={"indexed": 1}),
    between("Gather of one position, kept", beside(gather([2])), 7, frozen={"fixed-axis": 1}),
    between("Gather with negative axis", gather(ORDER, axis=-3)),
    between("Gather of pixels", gather([5, 0, 3], axis=3)),
    between("Gather of even and odd", two_gathers, 4),
    between("Gather by a matrix", gather_square, 4),
    between("Gather by given indices", gather_given, frozen=INDEXED),
    row("Gather of a token", token, 8),
    row("embedding", embedding, 8),
    row("Gather of a kernel", gathered_weight, 4, frozen={"fixed-axis": 3}),
    summed("Gather", gather(ORDER)),
    dulled("Gather", gather(ORDER)),
    summed("Gather by a matrix", gather_halves, 4),
    summed("ScatterElements", scatter("ScatterElements", (2, 8, 6, 4)), frozen=REDUCED),
    summed("Scatter", scatter("Scatter", (2, 8, 6, 4)), opset=9, frozen=REDUCED),
    between("Scatter of some channels", scatter("Scatter", (2, 5, 6, 4)), opset=9, frozen=INDEXED),
    summed("GatherND", gather_nd),
    dulled("GatherND", gather_nd),
    row("GatherND of the first axis", gather_nd_first, 8),
    row("ScatterND, summed", scatter_nd_summed, 8),
    row("ReverseSequence, summed", reverse_summed, 8),
    dulled("CumSum of pixels", cumulative(2)),
    dulled("Trilu of pixels", trilu),
    dulled("Expand", expand(2, 8, 6, 6)),
    between("GatherElements", elements((2, 8, 6, 4), 3)),
    between("GatherElements of channels", elements((2, 8, 6, 6), 1), frozen=INDEXED),
    between("GatherElements of some channels", elements((2, 5, 6, 4), 3), frozen=INDEXED),
    between("GatherElements of some pixels", elements((2, 8, 3, 4), 3)),
    summed("GatherElements", elements((2, 8, 6, 4), 3), frozen=REDUCED),
    between("ScatterElements", scatter("ScatterElements", (2, 8, 6, 4))),
    between("ScatterElements of some channels", scatter("ScatterElements", (2, 5, 6, 4)), frozen=INDEXED),
    between("Scatter", scatter("Scatter", (2, 8, 6, 4)), opset=9),
    row("ScatterElements of activations", scatter_activations, 8),
    between("GatherND", gather_nd),
    between("GatherND in batches", gather_nd_batched),
    between("GatherND of channels", gather_nd_channels, frozen=INDEXED),
    between("GatherND of unknown depth", gather_nd_given, frozen=INDEXED, runs=False),
    row("ScatterND", scatter_nd, 8),
    between("ScatterND of channels", scatter_nd_channels, frozen=INDEXED),
    between("ScatterND of unknown depth", scatter_nd_given, frozen=INDEXED, runs=False),
    between("OneHot", one_hot),
    summed("OneHot", one_hot, frozen=REDUCED),
    *across((7, 10, 11), "TopK of pixels", top_k(3)),
    between("TopK of pixels, indices", top_k(3, out=1)),
    between("TopK of channels", top_k(1), frozen=POSITIONAL),
    summed("TopK of pixels", top_k(3), frozen=REDUCED),
    *(between(f"{kind} of pixels", arg(kind, 3)) for kind in ("ArgMax", "ArgMin")),
    *(between(f"{kind} of pixels, dropped", arg(kind, 2, keepdims=0)) for kind in ("ArgMax", "ArgMin")),
    *(between(f"{kind} of channels", arg(kind, 1), frozen=POSITIONAL) for kind in ("ArgMax", "ArgMin")),
    *(
        between(f"{kind} of channels from the end", arg(kind, -3, keepdims=0), frozen=POSITIONAL)
        for kind in ("ArgMax", "ArgMin")
    ),
    summed("ArgMax of pixels", arg("ArgMax", 3, select_last_index=1), frozen=REDUCED),
    summed("ArgMin of the batch", arg("ArgMin", 0, select_last_index=1), frozen=REDUCED),
    between("CumSum of pixels", cumulative(2)),
    between("CumSum of channels", cumulative(1), frozen=POSITIONAL),
    between("CumSum over a given axis", cumulative_given, frozen={"computed-axes": 8}, runs=False),
    summed("CumSum of pixels", cumulative(-1)),
    between("Trilu of pixels", trilu),
    between("Trilu of channels", trilu_channels, frozen=POSITIONAL),
    summed("Trilu of pixels", trilu),
    row("EyeLike", eye, frozen=POSITIONAL),
    row("ReverseSequence", reverse, 8),
    row("ReverseSequence of channels", reverse_channels, frozen=POSITIONAL),
    row("NonZero", nonzero, frozen=POSITIONAL),
    row("NonMaxSuppression", suppression, frozen={"other-factor": 8, "positional": 2}),
    between("Expand of pixels", expand(2, 8, 6, 6)),
    between("Expand of pixels with ones", expand(1, 1, 6, 6)),
    between("Expand of pixels, lower rank", expand(6, 6)),
    between("Expand to a higher rank", lambda n, x: n.squeeze(n.op("Expand", x, n.ints(1, 2, 8, 6, 6)), 0)),
    between("Expand, opset 8", expand(2, 8, 6, 6), opset=8),
    between("Expand as another", expand_as),
    between("Expand by computed parts", expand_parts),
    row("Expand of one channel", expand_channels, 8),
    row("Expand to what a cut leaves one of", expand_to_one, 2),
    row("Expand of an unknown picture", expand_unknown, 8, 8, dims={"N": 2, "H": 5, "W": 7}),
    between("Expand to a given shape", expand_given, frozen={"computed-shape": 8}, runs=False),
    summed("Expand", expand(2, 8, 6, 6)),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_index(case: Row) -> None:
    case.check()
