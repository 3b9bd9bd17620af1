"""Reductions over some axes or all, and the places of extremes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op


@op(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    sizes=(1,),
)
def reduce(s: Step) -> fx.Node:
    axes, keep = s.axes(), bool(s.attr("keepdims", 1))
    if s.node.op_type == "ReduceMean" and isinstance(axes, list) and axes:
        return s.emit(mean, s.tensor(0), axes, keep)
    return s.emit(reduced, s.node.op_type[6:], s.tensor(0), axes, keep, bool(s.attr("noop_with_empty_axes", 0)))


def mean(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    return x.mean(list(axes), keepdim=keep) if x.is_floating_point() else reduced("Mean", x, axes, keep, False)


def reduced(kind: str, x: Tensor, axes: Sequence[int] | None, keep: bool, noop: bool) -> Tensor:
    axes = list(axes) if axes is not None else []
    if noop and not axes:  # nothing is reduced, but what is done to each element is done
        return _each(kind, x)
    over = list(axes or range(x.dim()))
    if not over:
        return _each(kind, x)
    match kind:
        case "Max":
            return torch.amax(x, over, keep)
        case "Min":
            return torch.amin(x, over, keep)
        case "Mean":
            if x.is_floating_point():
                return x.mean(over, keepdim=keep)
            total = x.sum(over, keepdim=keep)
            return torch.div(total, x.numel() // max(1, total.numel()), rounding_mode="trunc").to(x.dtype)
        case "Prod":
            for axis in sorted((axis % x.dim() for axis in over), reverse=True):
                x = x.prod(axis, keepdim=keep, dtype=x.dtype)
            return x
        case "LogSumExp":
            return torch.logsumexp(x, over, keep)
        case "L2":
            return _root(x, over, keep)
    total = _each(kind, x, last=False).sum(over, keepdim=keep, dtype=x.dtype)
    return torch.log(total) if kind == "LogSum" else total


def _each(kind: str, x: Tensor, *, last: bool = True) -> Tensor:
    if kind in ("L1", "L2") and (kind == "L1" or last):
        return x.abs()
    if kind == "SumSquare":
        return x * x
    return x.log() if kind == "LogSum" and last else x


def _root(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        length: Tensor = torch.linalg.vector_norm(x, 2, list(axes), keep)
        return length
    return (x * x).sum(list(axes), keepdim=keep).double().sqrt().to(x.dtype)


@op("ArgMax", "ArgMin")
def arg_extreme(s: Step) -> fx.Node:
    keep, late = bool(s.attr("keepdims", 1)), bool(s.attr("select_last_index", 0))
    return s.emit(place, s.tensor(0), s.attr("axis", 0), keep, late, s.node.op_type == "ArgMax")


def place(x: Tensor, axis: int, keep: bool, late: bool, largest: bool) -> Tensor:
    """Of equal ones the first, or the last."""
    find = torch.argmax if largest else torch.argmin
    if not late:
        return find(x, axis, keep)
    return x.shape[axis] - 1 - find(x.flip(axis), axis, keep)


@op("CumSum", sizes=(1,))
def cumsum(s: Step) -> fx.Node:
    axis = s.numbers(1)
    axis = axis[0] if isinstance(axis, list) else axis
    return s.emit(summed, s.tensor(0), axis, bool(s.attr("exclusive", 0)), bool(s.attr("reverse", 0)))


def summed(x: Tensor, axis: int, exclusive: bool, backwards: bool) -> Tensor:
    x = x.flip(axis) if backwards else x
    total = x.cumsum(axis, dtype=x.dtype)
    total = total - x if exclusive else total
    return total.flip(axis) if backwards else total


@op("TopK", sizes=(1,))
def top_k(s: Step) -> Sequence[fx.Node | None]:
    k = s.attr("k") if s.attr("k") is not None else s.numbers(1)
    k = k[0] if isinstance(k, list) else k
    largest, ordered = bool(s.attr("largest", 1)), bool(s.attr("sorted", 1))
    return s.several(s.emit(top, s.tensor(0), k, s.attr("axis", -1), largest, ordered))


def top(x: Tensor, k: int | Sequence[int], axis: int, largest: bool, ordered: bool) -> tuple[Tensor, Tensor]:
    """Of equal ones the first come first, which torch's own topk does not promise."""
    count = k if isinstance(k, int | torch.SymInt) else k[0]
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)
