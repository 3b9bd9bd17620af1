"""Operators that only rearrange: the ids move, nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule
from onnxprune.graph.sizes import Size, multiply


@rule("Transpose")
def transpose(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    return [tuple(x.axes[i] for i in f.attr("perm", range(x.rank)[::-1]))]


@rule("Reshape")
def reshape(f: Flow, node: object, x: Value, target: Value | None = None) -> Sequence[Axes]:
    sizes = f.attr("shape") or f.sizes(1)
    if sizes is None:
        sizes = _inferred(f)
    elif not f.attr("allowzero", 0):
        sizes = [x.axes[i].size if size == 0 else size for i, size in enumerate(sizes)]
    return [tuple(regroup(f, x.axes, [None if size == -1 else size for size in sizes]))]


def _inferred(f: Flow) -> list[Size]:
    shape = f.inferred(f.current.output[0])
    if shape is None:
        raise Refuse("computed-shape", "the target of this Reshape is computed in a way that cannot be followed")
    return list(shape)


def regroup(f: Flow, axes: Sequence[Axis], sizes: Sequence[Size]) -> list[Axis]:
    """Axes of the same elements, in the same order, at other boundaries.

    Walks from the left, then from the right, taking whole axes, splitting one or merging several wherever the lengths
    say how; what is left in the middle has lengths that are only known at run time.

        (N, 6, h, w) -> (N, 2, -1):   N = N,  6 = 2 * 3,  then (3, h, w) is left for -1
    """
    inside, outside = _complete([factor for axis in axes for factor in axis.factors or (axis,)], list(sizes))
    head = _walk(f, inside, outside, reverse=False)
    tail = _walk(f, inside, outside, reverse=True)
    if not outside:
        f.freeze_all([axis for axis in inside if axis.size != 1], "reshape", "disappears in a Reshape")
        return [*head, *tail[::-1]]
    if len(outside) == 1:
        middle = [f.merge(inside)]
    else:
        f.freeze_all(inside, "reshape", "its Reshape cannot be split into independent axes")
        middle = [fixed(size) if size is not None else f.open() for size in outside]
    return [*head, *middle, *tail[::-1]]


def _complete(axes: list[Axis], sizes: list[Size]) -> tuple[list[Axis], list[Size]]:
    """Fill the one unknown length in where all others are numbers."""
    known = [axis.size for axis in axes if isinstance(axis.size, int)]
    unknown = [i for i, size in enumerate(sizes) if size is None]
    total, rest = 1, 1
    for number in known:
        total *= number
    for size in sizes:
        rest *= size if isinstance(size, int) else 1
    numbers_only = len(known) == len(axes) and not any(isinstance(size, str) for size in sizes)
    if numbers_only and len(unknown) == 1 and rest and total % rest == 0:
        sizes[unknown[0]] = total // rest
    return axes, sizes


def _walk(f: Flow, inside: list[Axis], outside: list[Size], *, reverse: bool) -> list[Axis]:
    """Match from one end as far as lengths allow; consumes both lists and returns the new axes in walking order."""
    end = -1 if reverse else 0
    made: list[Axis] = []
    while outside:
        size = outside[end]
        while inside and inside[end].size == 1 and size != 1:
            f.freeze(inside.pop(end), "reshape", "a single position disappears in a Reshape")
        if size is None or (not inside and any(s != 1 for s in outside)):
            return made
        if not inside:
            made.append(fixed(1))
        elif inside[end].size == size:
            made.append(inside.pop(end))
        elif size == 1:
            made.append(fixed(1))
        else:
            parts = _gather(f, inside, size, reverse)
            if parts is None:
                return made
            made.append(parts[0] if len(parts) == 1 else f.merge(parts[::-1] if reverse else parts))
        outside.pop(end)
    return made


def _gather(f: Flow, inside: list[Axis], size: Size, reverse: bool) -> list[Axis] | None:
    """The axes, the last one perhaps split, whose lengths multiply to `size`; None (and nothing taken) if none do."""
    end = -1 if reverse else 0
    if not isinstance(size, int):
        return _gather_named(inside, size, reverse)
    need, count = size, 0
    while need > 1 and count < len(inside):
        length = inside[~count if reverse else count].size
        if not isinstance(length, int) or length == 0 or (need % length and length % need):
            return None
        need = need // length if need % length == 0 else -(length // need)
        count += 1
    if need not in (1,) and need >= 0:
        return None
    parts = [inside.pop(end) for _ in range(count)]
    if need < 0:
        whole = parts.pop()
        rest, taken = -need, int(whole.size) // -need
        first, second = f.split(whole, [rest, taken] if reverse else [taken, rest])
        parts.append(second if reverse else first)
        inside.insert(len(inside) if reverse else 0, first if reverse else second)
    return parts


def _gather_named(inside: list[Axis], size: Size, reverse: bool) -> list[Axis] | None:
    """The axes whose lengths, some only known at run time, multiply to the named length."""
    total: Size = 1
    for count, axis in enumerate(inside[::-1] if reverse else inside, 1):
        total = multiply(total, axis.size)
        if total == size:
            return [inside.pop(-1 if reverse else 0) for _ in range(count)]
    return None


@rule("Flatten")
def flatten(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    axis = f.attr("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    return [(f.merge(x.axes[:axis]), f.merge(x.axes[axis:]))]


@rule("Squeeze")
def squeeze(f: Flow, node: object, x: Value, axes: Value | None = None) -> Sequence[Axes]:
    given = f.axes_given()
    gone = {a % x.rank for a in given} if given is not None else {i for i, axis in enumerate(x.axes) if axis.size == 1}
    f.freeze_all([x.axes[i] for i in gone], "squeezed", "a single position is squeezed away")
    return [tuple(axis for i, axis in enumerate(x.axes) if i not in gone)]


@rule("Unsqueeze")
def unsqueeze(f: Flow, node: object, x: Value, axes: Value | None = None) -> Sequence[Axes]:
    given = f.axes_given()
    if given is None:
        raise Refuse("computed-axes", "the axes of this Unsqueeze are computed at run time")
    rank = x.rank + len(given)
    new = {axis % rank for axis in given}
    old = iter(x.axes)
    return [tuple(fixed(1) if i in new else next(old) for i in range(rank))]


@rule("DepthToSpace")
def depth_to_space(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    batch, channels, height, width = x.axes
    if not isinstance(channels.size, int):
        raise Refuse("dynamic-size", "the channels of this DepthToSpace are only known at run time")
    block = f.attr("blocksize")
    kept = channels.size // (block * block)
    if f.attr("mode", "DCR") == "DCR":
        rows, columns, depth = f.split(channels, [block, block, kept])
    else:
        depth, rows, columns = f.split(channels, [kept, block, block])
    rows, columns = (f.freeze(axis, "other-factor", "becomes pixels in DepthToSpace") for axis in (rows, columns))
    return [(batch, depth, f.merge([height, rows]), f.merge([width, columns]))]


@rule("SpaceToDepth")
def space_to_depth(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    batch, channels, _, _ = x.axes
    block = f.attr("blocksize")
    f.freeze_all(x.axes[2:], "fixed-axis", "pixels are moved into channels")
    return [(batch, f.merge([fixed(block), fixed(block), channels]), f.open(), f.open())]


@rule("Identity")
def identity(f: Flow, node: object, x: Value) -> Sequence[Axes]:
    return [x.axes]
