"""Operators that put axes together or take them apart: ids are concatenated, sliced, padded, repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.facts import LONGEST, NOBODY, Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule


@rule("Concat")
def concat(f: Flow, node: object, *xs: Value) -> Sequence[Axes]:
    along = f.attr("axis", 1) % xs[0].rank
    return [
        tuple(
            _chain(f, col) if i == along else f.tie(*col)
            for i, col in enumerate(zip(*(x.axes for x in xs), strict=True))
        )
    ]


def _chain(f: Flow, column: Sequence[Axis]) -> Axis:
    if any(isinstance(axis.size, str) for axis in column):
        f.freeze_all(column, "dynamic-size", "is concatenated with an axis whose length is only known at run time")
        return f.open()
    if all(axis.fixed for axis in column) or sum(int(axis.size) for axis in column) > LONGEST:
        f.freeze_all(column, "too-long", "is part of an axis too long to follow")
        return fixed(sum(int(axis.size) for axis in column))
    ids = np.concatenate([axis.ids for axis in column])
    return Axis(ids.size, ids, all(axis.zero for axis in column if not axis.fixed))


@rule("Split", "SplitToSequence")
def split(f: Flow, node: object, x: Value, sizes: Value | None = None) -> Sequence[Axes]:
    if f.current.op_type == "SplitToSequence":
        raise Refuse("sequence", "its parts become a sequence")
    along = f.attr("axis", 0) % x.rank
    axis, count = x.axes[along], len(f.current.output)
    given = f.attr("split") or (f.ints(1) if f.has(1) else None)
    if isinstance(axis.size, str):
        f.freeze(axis, "dynamic-size", "is split although its length is only known at run time")
        return [_with(x.axes, along, f.open()) for _ in range(count)]
    if given is None:
        if f.has(1):
            raise Refuse("computed-split", "the sizes of this Split are computed at run time")
        step = -(-axis.size // count)
        given = [min(step, axis.size - i * step) for i in range(count)]
    ends = np.cumsum(given)
    return [_with(x.axes, along, part(axis, slice(end - size, end))) for size, end in zip(given, ends, strict=True)]


def part(axis: Axis, which: slice | np.ndarray) -> Axis:
    """Some positions of an axis, in the order given."""
    ids = axis.ids[which]
    return fixed(int(ids.size)) if axis.fixed else Axis(int(ids.size), ids, axis.zero)


def _with(axes: Axes, at: int, axis: Axis) -> Axes:
    return tuple(axis if i == at else old for i, old in enumerate(axes))


@rule("Slice")
def slice_(f: Flow, node: object, x: Value, *inputs: Value | None) -> Sequence[Axes]:
    older = f.attr("starts") is not None
    starts = f.attr("starts") if older else f.sizes(1)
    ends = f.attr("ends") if older else f.sizes(2)
    axes = f.attr("axes") if older else (f.ints(3) if f.has(3) else None)
    steps = None if older or not f.has(4) else f.ints(4)
    if not older and f.has(3) and axes is None:
        raise Refuse("computed-axes", "the axes of this Slice are computed at run time")
    count = len(starts) if starts is not None else len(axes) if axes is not None else x.rank
    axes = list(range(count)) if axes is None else axes
    result = list(x.axes)
    for i, axis in enumerate(a % x.rank for a in axes):
        bounds = [None if values is None else values[i] for values in (starts, ends)]
        step = 1 if older or not f.has(4) else (None if steps is None else steps[i])
        result[axis] = _cut(f, x.axes[axis], bounds[0], bounds[1], step)
    return [tuple(result)]


def _cut(f: Flow, axis: Axis, start: int | str | None, end: int | str | None, step: int | None) -> Axis:
    if start == 0 and step == 1 and (end == axis.size or (isinstance(end, int) and end >= 2**31 - 1)):
        return axis
    if isinstance(axis.size, str):
        f.freeze(axis, "dynamic-size", "is sliced although its length is only known at run time")
        return f.open()
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int)):
        f.freeze(axis, "computed-slice", "the bounds of its Slice are computed at run time")
        return f.open()
    if step != 1 and not axis.fixed:
        axis = f.freeze(
            axis, "strided-slice", "is sliced with a stride, which what remains after a cut would not follow"
        )
    return part(axis, slice(start, end, step))  # NumPy clamps bounds as ONNX does


@rule("Pad")
def pad(f: Flow, node: object, x: Value, *inputs: Value | None) -> Sequence[Axes]:
    pads = f.attr("pads") or f.attr("paddings") or f.sizes(1)
    axes = f.axes_given("", 3) if f.has(3) else None
    axes = list(range(x.rank)) if axes is None else [axis % x.rank for axis in axes]
    value = f.array(2) if f.has(2) else None
    constant = f.attr("mode", "constant") == "constant"
    zeros = constant and f.attr("value", 0.0) == 0 and (not f.has(2) or (value is not None and not value.any()))
    amounts = {axis: (None, None) if pads is None else (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    padded = {axis: amount for axis, amount in amounts.items() if amount != (0, 0)}
    result = []
    for i, axis in enumerate(x.axes):
        # along other axes ones are put beside the zeros of a cut channel; along its own they are new positions
        clean = zeros or not constant or set(padded) <= {i}
        axis = axis.with_zero(axis.zero and clean)
        result.append(_padded(f, axis, *padded[i], constant) if i in padded else axis)
    return [tuple(result)]


def _padded(f: Flow, axis: Axis, before: int | str | None, after: int | str | None, constant: bool) -> Axis:
    if not (isinstance(before, int) and isinstance(after, int) and isinstance(axis.size, int)):
        f.freeze(axis, "padded", "is padded by an amount that is only known at run time")
        return f.open()
    if not constant or axis.fixed or axis.size + before + after > LONGEST:
        f.freeze(axis, "padded", "is padded by its own values")
        return fixed(axis.size + before + after)
    ids = np.concatenate([np.repeat(NOBODY, max(before, 0)), axis.ids, np.repeat(NOBODY, max(after, 0))])
    if min(before, after) >= 0:
        return Axis(ids.size, ids, axis.zero)
    gone = np.r_[: max(-before, 0), axis.size + min(after, 0) : axis.size]
    f.freeze(part(axis, gone), "padded", "is cropped by a negative pad")
    return part(Axis(ids.size, ids, axis.zero), slice(max(-before, 0), ids.size + min(after, 0)))


@rule("Tile")
def tile(f: Flow, node: object, x: Value, repeats: Value | None = None, *rest: Value | None) -> Sequence[Axes]:
    counts = f.sizes(1)
    result = []
    for i, axis in enumerate(x.axes):
        times = counts[i] if counts is not None and i < len(counts) else None
        if times == 1:
            result.append(axis)
        elif isinstance(times, int) and isinstance(axis.size, int):
            result.append(f.merge([fixed(times), axis]))
        else:
            f.freeze(axis, "dynamic-size", "is repeated a number of times that is only known at run time")
            result.append(f.open())
    return [tuple(result)]
