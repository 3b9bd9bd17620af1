"""What small integer tensors hold: the shape arithmetic of a graph, evaluated without running it.

An entry is a number, the name of a length that is only known at run time, or nothing; and it remembers which axes it
was computed from. Evaluated on the sizes before and after a cut, it tells which stored sizes follow by themselves
(`Shape -> Gather -> Reshape`) and which must be rewritten (`12` heads in a constant). An operator that is not listed
here ends the trace: its outputs are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.graph.attributes import attribute
from onnxprune.graph.sizes import BINARY, Size, multiply

LIMIT = 4096
"""Larger integer tensors are data, not sizes."""

Slot = tuple[str, int]


@dataclass(frozen=True)
class Entry:
    """One element of an integer tensor."""

    size: Size
    sources: frozenset[Slot] = frozenset()


Content = np.ndarray[Any, np.dtype[np.object_]]
UNKNOWN = Entry(None)


def constant(array: np.ndarray[Any, Any]) -> Content | None:
    """The content of a constant, None where it is no small integer tensor."""
    if array.size > LIMIT or array.dtype.kind not in "iub":
        return None
    return _fill(array.shape, [Entry(int(value)) for value in array.ravel()])


def sizes_of(content: Content) -> list[Size]:
    """The entries without their sources, flat."""
    return [entry.size for entry in content.ravel()]


def _fill(shape: tuple[int, ...], entries: Sequence[Entry]) -> Content:
    out: Content = np.empty(len(entries), object)
    for i, entry in enumerate(entries):
        out[i] = entry
    return out.reshape(shape)


def _elementwise(combine: Callable[[Size, Size], Size], *xs: Content) -> Content:
    total = xs[0]
    for x in xs[1:]:
        left, right = np.broadcast_arrays(total, x)
        pairs = zip(left.ravel(), right.ravel(), strict=True)
        total = _fill(left.shape, [Entry(combine(a.size, b.size), a.sources | b.sources) for a, b in pairs])
    return total


def _where(condition: Content, yes: Content, no: Content) -> Content:
    grids = np.broadcast_arrays(condition, yes, no)
    picked = []
    for c, a, b in zip(*(grid.ravel() for grid in grids), strict=True):
        if c.size is None or isinstance(c.size, str):
            picked.append(a if a == b else Entry(None, a.sources | b.sources | c.sources))
        else:
            chosen = a if c.size else b
            picked.append(Entry(chosen.size, chosen.sources | c.sources))
    return _fill(grids[0].shape, picked)


def _ints(content: Content | None) -> list[int] | None:
    if content is None:
        return None
    sizes = sizes_of(content)
    return [s for s in sizes if isinstance(s, int)] if all(isinstance(s, int) for s in sizes) else None


def _axes(node: onnx.NodeProto, xs: Sequence[Content | None]) -> list[int] | None:
    """The axes of Unsqueeze, Squeeze and ReduceProd: an attribute first, an input later."""
    given = attribute(node, "axes", None)
    return list(given) if given is not None else _ints(xs[1]) if len(xs) > 1 else None


def _slice(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    if attribute(node, "starts", None) is not None:
        starts, ends = attribute(node, "starts", []), attribute(node, "ends", [])
        axes: list[int] | None = attribute(node, "axes", list(range(len(starts))))
        steps: list[int] | None = [1] * len(starts)
    else:
        given = [_ints(value) if value is not None else None for value in xs[1:]]
        if len(given) < 2 or given[0] is None or given[1] is None:
            return None
        starts, ends = given[0], given[1]
        present = [i < len(xs) and xs[i] is not None for i in (3, 4)]
        axes = given[2] if present[0] else list(range(len(starts)))
        steps = given[3] if present[1] else [1] * len(starts)
    if axes is None or steps is None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n = x.shape[axis]
        picks = range(n)[_bounded(start, n) : _bounded(end, n) : step] if step > 0 else range(n)[start:end:step]
        x = np.take(x, list(picks), axis)
    return x


def _bounded(value: int, n: int) -> int:
    return max(-n, min(value, n))


def evaluate(
    node: onnx.NodeProto, xs: Sequence[Content | None], shape: Sequence[int | str | None] | None
) -> list[Content] | None:
    """Contents of the node's outputs, or None. `shape` is that of its first input, for Shape and Size."""
    op = node.op_type
    if op == "Shape":
        return _shape(node, shape)
    x = xs[0] if xs else None
    if op in BINARY and all(value is not None for value in xs):
        return [_elementwise(BINARY[op], *[value for value in xs if value is not None])]
    if op == "Where" and all(value is not None for value in xs):
        condition, yes, no = (value for value in xs if value is not None)
        return [_where(condition, yes, no)]
    if x is None or op not in _STRUCTURAL:
        return _concat(node, xs) if op == "Concat" else None
    out = _STRUCTURAL[op](node, x, xs)
    if out is None or (isinstance(out, np.ndarray) and out.size > LIMIT):
        return None
    return list(out) if isinstance(out, list) else [out]


def _shape(node: onnx.NodeProto, shape: Sequence[int | str | None] | None) -> list[Content] | None:
    if shape is None:
        return None
    entries = [Entry(size, frozenset([(node.input[0], axis)])) for axis, size in enumerate(shape)]
    entries = entries[attribute(node, "start", 0) : attribute(node, "end", len(entries))]
    return [_fill((len(entries),), entries)]


def _concat(node: onnx.NodeProto, xs: Sequence[Content | None]) -> list[Content] | None:
    known = [x for x in xs if x is not None]
    if len(known) < len(xs) or any(x.ndim != 1 for x in known):
        return None
    return [np.concatenate(known)]


def _split(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> list[Content] | None:
    sizes = attribute(node, "split", None) or (_ints(xs[1]) if len(xs) > 1 else None)
    count = len(node.output)
    if sizes is None:
        if x.shape[0] % count:
            return None
        sizes = [x.shape[0] // count] * count
    return np.split(x, np.cumsum(sizes)[:-1]) if x.ndim == 1 and sum(sizes) == x.shape[0] else None


def _gather(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    picks = _ints(xs[1])
    index = xs[1]
    if picks is None or index is None or x.ndim == 0:
        return None
    axis = attribute(node, "axis", 0)
    if any(not -x.shape[axis] <= i < x.shape[axis] for i in picks):
        return None
    out: Content = np.take(x, np.array(picks, np.int64).reshape(index.shape), axis)
    return np.asarray(out, object)


def _reshape(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    target = _ints(xs[1])
    return None if target is None or 0 in target else x.reshape(target)


def _expand(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    """Numbers repeated to a shape that no cut changes: exporters write Expand(Shape(w), [1]), which is Shape(w)."""
    target = _ints(xs[1])
    if xs[1] is None or target is None or any(entry.sources for entry in xs[1].ravel()):
        return None
    try:
        shape = np.broadcast_shapes(x.shape, tuple(target))
    except ValueError:
        return None
    return np.broadcast_to(x, shape) if int(np.prod(shape, dtype=np.int64)) <= LIMIT else None


def _unsqueeze(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    axes = _axes(node, xs)
    return None if axes is None else np.expand_dims(x, tuple(axes))


def _squeeze(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content:
    axes = _axes(node, xs)
    return x.reshape(
        [n for i, n in enumerate(x.shape) if (n != 1 if axes is None else i not in _positive(axes, x.ndim))]
    )


def _positive(axes: Sequence[int], rank: int) -> set[int]:
    return {axis % rank if rank else 0 for axis in axes}


def _cast(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content:
    if attribute(node, "to", 0) in _INTEGERS:
        return x
    return _fill(x.shape, [Entry(None, entry.sources) for entry in x.ravel()])


_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}


def _reduce_prod(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    if x.ndim != 1:
        return None
    total = Entry(1)
    for entry in x:
        total = Entry(multiply(total.size, entry.size), total.sources | entry.sources)
    return _fill((1,) if attribute(node, "keepdims", 1) else (), [total])


def _range(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    bounds = [_ints(value) for value in xs]
    if any(bound is None for bound in bounds):
        return None
    start, stop, step = (bound[0] for bound in bounds if bound)
    numbers = range(start, stop, step) if step else range(0)
    return _fill((len(numbers),), [Entry(i) for i in numbers]) if len(numbers) <= LIMIT else None


def _constant_of_shape(node: onnx.NodeProto, x: Content, xs: Sequence[Content | None]) -> Content | None:
    shape = _ints(x)
    value = attribute(node, "value", None)
    if shape is None or int(np.prod(shape, dtype=np.int64)) > LIMIT:
        return None
    if value is None or value.data_type not in _INTEGERS:
        return None
    number = int(onnx.numpy_helper.to_array(value).ravel()[0])
    return _fill(tuple(shape), [Entry(number)] * int(np.prod(shape, dtype=np.int64)))


_Structural = Callable[[onnx.NodeProto, Content, Sequence["Content | None"]], "Content | list[Content] | None"]
_STRUCTURAL: Mapping[str, _Structural] = {
    "Identity": lambda node, x, xs: x,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": lambda node, x, xs: _slice(node, x, xs),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Expand": _expand,
    "Split": _split,
    "ReduceProd": _reduce_prod,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Neg": lambda node, x, xs: _fill(
        x.shape, [Entry(-e.size if isinstance(e.size, int) else None, e.sources) for e in x.ravel()]
    ),
}

COUNTS = {"Range", "ConstantOfShape"}
"""Of these the number of elements depends on what they are given."""

TRACED = {"Shape", "Concat", "Where", *BINARY, *_STRUCTURAL}
"""Operators through which sizes are followed; a size that leaves by another one escapes."""
