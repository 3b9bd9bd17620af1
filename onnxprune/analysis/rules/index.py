"""Operators that pick or place positions by index, and those for which the position itself has a meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.elementwise import broadcast
from onnxprune.analysis.rules.join import part
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule


@rule("Gather")
def gather(f: Flow, node: object, data: Value, indices: Value) -> Sequence[Axes]:
    along = f.attr("axis", 0) % data.rank
    axis = data.axes[along]
    for i in range(data.rank):
        if i != along:
            f.mark(data, i, "out")
    return [(*data.axes[:along], *_picked(f, axis, f.array(1), indices.axes), *data.axes[along + 1 :])]


def _picked(f: Flow, axis: Axis, picks: np.ndarray | None, places: Axes) -> Sequence[Axis]:
    """The axes that constant indices make of one axis; `places` are those of the index tensor, which run beside."""
    if axis.fixed:
        return places
    if picks is None or axis.factors:
        f.freeze(axis, "indexed", "is indexed by values that are computed at run time")
        return places
    if picks.ndim == 0:
        f.freeze(part(axis, np.array([int(picks)])), "indexed", "a single position is picked from it")
        return ()
    picked = part(axis, picks.ravel().astype(np.int64))
    shape = [int(n) for n in picks.shape]
    made = [picked] if len(shape) == 1 else f.split(picked, shape)
    for place, new in zip(places, made, strict=True):
        if not new.fixed and not place.fixed:
            f.tie(new, place)
    return made


@rule("GatherElements", "ScatterElements", "Scatter")
def elements(f: Flow, node: object, data: Value, indices: Value, *updates: Value) -> Sequence[Axes]:
    """Away from the indexed axis the data, indices and updates run side by side."""
    along = f.attr("axis", 0) % data.rank
    others = [indices, *updates]
    f.freeze_all(
        [x.axes[along] for x in (data, *others)], "indexed", "is indexed by values that are computed at run time"
    )
    result = [
        fixed(data.axes[i].size if updates else indices.axes[i].size)
        if i == along
        else _beside(f, data.axes[i], [x.axes[i] for x in others], bool(updates))
        for i in range(data.rank)
    ]
    return [tuple(result)]


def _beside(f: Flow, axis: Axis, others: Sequence[Axis], whole: bool) -> Axis:
    """Indices may also run along the first part of an axis only."""
    if all(other.size == axis.size for other in others):
        return f.tie(axis, *others, zero=False)
    f.freeze_all([axis, *others], "indexed", "is indexed in part")
    return fixed(axis.size if whole else others[0].size)


@rule("GatherND")
def gather_nd(f: Flow, node: object, data: Value, indices: Value) -> Sequence[Axes]:
    batch, depth = f.attr("batch_dims", 0), indices.axes[-1].size
    if not isinstance(depth, int):
        raise Refuse("indexed", "the depth of this GatherND is only known at run time")
    picks = f.array(1)
    if depth == 1 and not batch and picks is not None:
        return [(*_picked(f, data.axes[0], picks[..., 0], indices.axes[:-1]), *data.axes[1:])]
    f.freeze_all(data.axes[: batch + depth], "indexed", "is indexed by values that are computed at run time")
    f.freeze_all(indices.axes, "indexed", "holds indices")
    return [(*(fixed(a.size) for a in indices.axes[:-1]), *data.axes[batch + depth :])]


@rule("ScatterND")
def scatter_nd(f: Flow, node: object, data: Value, indices: Value, updates: Value) -> Sequence[Axes]:
    depth = indices.axes[-1].size
    if not isinstance(depth, int):
        raise Refuse("indexed", "the depth of this ScatterND is only known at run time")
    f.freeze_all(data.axes[:depth], "indexed", "is indexed by values that are computed at run time")
    f.freeze_all(indices.axes, "indexed", "holds indices")
    f.freeze_all(updates.axes[: indices.rank - 1], "indexed", "runs along indices")
    kept = [f.tie(a, b) for a, b in zip(data.axes[depth:], updates.axes[indices.rank - 1 :], strict=True)]
    return [(*(fixed(axis.size) for axis in data.axes[:depth]), *kept)]


@rule("OneHot")
def one_hot(f: Flow, node: object, indices: Value, depth: Value, values: Value) -> Sequence[Axes]:
    axes = [axis.with_zero(False) for axis in indices.axes]
    axes.insert(f.attr("axis", -1) % (len(axes) + 1), f.open())
    return [tuple(axes)]


@rule("TopK")
def top_k(f: Flow, node: object, x: Value, k: Value | None = None) -> Sequence[Axes]:
    along = f.attr("axis", -1) % x.rank
    f.freeze(x.axes[along], "positional", "is sorted: its positions are answers")
    axes = tuple(f.open() if i == along else axis.with_zero(False) for i, axis in enumerate(x.axes))
    return [axes, axes]


@rule("ArgMax", "ArgMin")
def arg_max(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    along = f.attr("axis", 0) % x.rank
    f.freeze(x.axes[along], "positional", "its positions are answers")
    kept = [fixed(1)] if f.attr("keepdims", 1) else []
    rest = [axis.with_zero(False) for axis in x.axes]
    return [(*rest[:along], *kept, *rest[along + 1 :])]


@rule("CumSum")
def cumulative(f: Flow, node: object, x: Value, axis: Value) -> Sequence[Axes]:
    given = f.ints(1)
    if not given:
        raise Refuse("computed-axes", "the axis of this CumSum is computed at run time")
    along = given[0] % x.rank
    return [tuple(f.freeze(a, "positional", "is summed in order") if i == along else a for i, a in enumerate(x.axes))]


@rule("Trilu", "EyeLike", "ReverseSequence")
def positional(f: Flow, node: object, x: Value, *rest: Value | None) -> Sequence[Axes]:
    at = range(2) if f.current.op_type == "ReverseSequence" else range(x.rank - 2, x.rank)
    return [
        tuple(
            f.freeze(a, "positional", "each position has its own meaning") if i in at else a
            for i, a in enumerate(x.axes)
        )
    ]


@rule("NonZero")
def non_zero(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    f.freeze_all(x.axes, "positional", "its positions are answers")
    return [(fixed(x.rank), f.open())]


@rule("NonMaxSuppression")
def suppression(f: Flow, node: object, *xs: Value | None) -> Sequence[Axes]:
    for x in xs:
        f.freeze_all(x.axes if x else (), "positional", "its positions are answers")
    return [(f.open(), fixed(3))]


@rule("Expand")
def expand(f: Flow, node: object, x: Value, shape: Value) -> Sequence[Axes]:
    target = f.sizes(1)
    content = f.content(1)
    if target is None or content is None:
        known = f.inferred(f.current.output[0])
        if known is None:
            raise Refuse("computed-shape", "the target of this Expand is computed in a way that cannot be followed")
        target = list(known)
    new = [fixed(size) if size is not None and size != -1 else f.open() for size in target]
    wanted = [_stretched(f, x, i - len(new), axis) for i, axis in enumerate(new)]
    made = broadcast(f, [x.axes, tuple(wanted)], "first")
    array = f.array(0)
    nothing = array is not None and not array.any()  # a state that starts at zero, for instance
    return [tuple(axis.with_zero(axis.zero or nothing) for axis in made)]


def _stretched(f: Flow, x: Value, i: int, axis: Axis) -> Axis:
    """A single position repeated to a known length: each copy can go by itself."""
    alone = x.rank < -i or x.axes[i].size == 1
    if alone:
        return f.copied(axis.size) if isinstance(axis.size, int) else axis
    return x.axes[i] if x.axes[i].size == axis.size else axis
