"""Reductions and softmax: sums over zeros are exact, everything else over a cut axis is not."""

from __future__ import annotations

import pytest
from building import Net
from rows import Op, Row, between, dulled, row, summed

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
KEEPING = (*SUMS, "ReduceMean", "ReduceMax", "ReduceMin")
OTHERS = ("ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
REDUCED, NORMALISED = {"reduced": 8}, {"normalised": 8}


def over(kind: str, *axes: int, keepdims: int = 1, first: str = "") -> Op:
    """The reduction, its operand made positive where the kind needs that."""

    def op(n: Net, x: str) -> str:
        x = n.op(first, x) if first else x
        return n.reduce(kind, x, *axes, keepdims=keepdims)

    return op


def no_axes(n: Net) -> None:
    """Everything is summed up."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.reshape(n.reduce("ReduceSum", x), 1, 1))


def no_axes_noop(n: Net, x: str) -> str:
    return n.op("ReduceSum", x, noop_with_empty_axes=1)


def empty_axes(n: Net) -> None:
    x = n.conv(n.image(), 8, name="first")
    n.close(n.reshape(n.op("ReduceSum", x, n.ints()), 1, 1))


def given_axes(n: Net, x: str) -> str:
    return n.op("ReduceSum", x, n.input("axes", 1, dtype=7), made=(2, 8, 6, 6))


def excitation(n: Net, x: str) -> str:
    return n.op("Mul", x, n.op("Sigmoid", n.reduce("ReduceMean", x, 2, 3)))


def dropped_middle(n: Net) -> None:
    """Without keepdims the axes move up."""
    x = n.conv(n.image(), 8, name="first")
    n.output(n.linear(n.reduce("ReduceMean", n.transpose(x, 0, 2, 1, 3), 1, 3, keepdims=0), 5, name="last"))


def normalised(n: Net, x: str) -> str:
    """F.normalize over the channels."""
    length = n.op("Clip", n.reduce("ReduceL2", x, 1), n.scalar(1e-3))
    return n.op("Div", x, n.op("Expand", length, n.op("Shape", x)))


def softmax(kind: str, axis: int | None) -> Op:
    return lambda n, x: n.op(kind, x, axis=axis)


def gumbel(n: Net, x: str) -> str:
    """Hardmax gives exact answers only where they do not tie."""
    return n.op("Add", x, n.op("Hardmax", x, axis=3))


ROWS = [
    *(between(f"{kind} of pixels", over(kind, 2, 3)) for kind in KEEPING),
    *(between(f"{kind} of pixels, opset {v}", over(kind, 2, 3), opset=v) for kind in KEEPING for v in (7, 13, 18)),
    *(between(f"{kind} of pixels, dropped", over(kind, -1, -2, keepdims=0)) for kind in KEEPING),
    *(between(f"{kind} of positive pixels", over(kind, 2, first="Exp")) for kind in OTHERS),
    *(between(f"{kind} of channels", over(kind, 1)) for kind in SUMS),
    *(between(f"{kind} of channels, dropped", over(kind, -3, keepdims=0)) for kind in SUMS),
    *(between(f"{kind} of channels, opset {v}", over(kind, 1), opset=v) for kind in SUMS for v in (7, 13, 18)),
    *(between(f"{kind} of channels without zeros", over(kind, 1, first="Sigmoid"), frozen=REDUCED) for kind in SUMS),
    *(
        between(f"{kind} of channels", over(kind, 1, first="Exp"), frozen=REDUCED)
        for kind in (*OTHERS, "ReduceMean", "ReduceMax", "ReduceMin")
    ),
    between("ReduceMean of channels with zeros", over("ReduceMean", 1), frozen=REDUCED),
    between("ReduceMax of channels with zeros", over("ReduceMax", 1), frozen=REDUCED),
    between("ReduceMean of the batch", over("ReduceMean", 0)),
    between("ReduceLogSum of pixels", over("ReduceLogSum", 3, first="Abs"), frozen={"not-finite": 8}),
    *(summed(f"{kind} of pixels", over(kind, 2, 3)) for kind in KEEPING),
    *(summed(f"{kind} of pixels", over(kind, 3, first="Exp"), frozen=REDUCED) for kind in OTHERS),
    summed("ReduceProd of pixels with zeros", over("ReduceProd", 3), frozen=REDUCED),
    summed("ReduceLogSumExp of pixels with zeros", over("ReduceLogSumExp", 3), frozen=REDUCED),
    *(dulled(f"{kind} of pixels", over(kind, 2, 3)) for kind in KEEPING),
    row("ReduceSum of everything", no_axes, 8),
    row("ReduceSum of everything by empty axes", empty_axes, 8),
    between("ReduceSum of nothing", no_axes_noop),
    between("ReduceSum over given axes", given_axes, frozen={"computed-axes": 8}, runs=False),
    between("excitation by ReduceMean", excitation),
    row("ReduceMean of the middle, dropped", dropped_middle, 8),
    between("normalised channels", normalised),
    *(
        between(f"{kind} of {what}", softmax(kind, axis), opset=v)
        for kind in ("Softmax", "LogSoftmax")
        for what, axis, v in (
            ("pixels", 3, 17),
            ("pixels from the end", -1, 13),
            ("pixels", 2, 11),
            ("pixels", None, 17),
        )
    ),
    *(
        between(f"{kind} of channels, opset {v}, axis {axis}", softmax(kind, axis), frozen=NORMALISED, opset=v)
        for kind in ("Softmax", "LogSoftmax", "Hardmax")
        for v, axis in ((17, 1), (13, -3), (11, 1), (7, None))
    ),
    between("Hardmax of pixels", gumbel),
    *(summed(f"{kind} of pixels", softmax(kind, 3), frozen=REDUCED) for kind in ("Softmax", "LogSoftmax", "Hardmax")),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_reduce(case: Row) -> None:
    case.check()
