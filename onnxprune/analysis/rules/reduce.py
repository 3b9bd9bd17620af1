"""Reductions and softmax. A sum over a cut axis is exact where the cut positions hold zeros; a mean is not."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Value, rule

SUMS = "ReduceSum ReduceL1 ReduceL2 ReduceSumSquare"
KEEPS_ZERO = f"{SUMS} ReduceMean ReduceMax ReduceMin"


@rule(*SUMS.split(), "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
def reduce(f: Flow, node: object, x: Value, axes: Value | None = None) -> Sequence[Axes]:
    op = f.current.op_type
    given = f.axes_given()
    if not given:
        given = [] if f.attr("noop_with_empty_axes", 0) else list(range(x.rank))
    over = {i % x.rank for i in given if x.rank}
    for i in over:
        f.account(x.axes[i])
        if not (op in SUMS.split() and x.axes[i].zero):
            f.inexact(x.axes[i], "reduced", f"is reduced by {op} and its cut positions would count")
    for i, axis in enumerate(x.axes):
        if op == "ReduceLogSum" and i not in over and axis.zero:
            f.inexact(axis, "not-finite", "ReduceLogSum is not finite at the zeros of its cut positions")
    zero = op in KEEPS_ZERO.split()
    kept = f.attr("keepdims", 1)
    out = [
        fixed(1) if i in over else axis.with_zero(axis.zero and zero)
        for i, axis in enumerate(x.axes)
        if kept or i not in over
    ]
    return [tuple(out)]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    """Before opset 13 everything from `axis` on is one long row."""
    first = f.attr("axis", 1 if f.opset < 13 else -1) % x.rank
    over = range(first, x.rank) if f.opset < 13 else [first]
    for i in over:
        f.inexact(x.axes[i], "normalised", "is normalised by a softmax over it")
    return [tuple(axis.with_zero(False) for axis in x.axes)]
