"""Operators that store a size, and what a cut does to it. Everything else needs no mending."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.cutting.surgery import Surgery
from onnxprune.graph.attributes import attribute, set_attribute

FixUp = Callable[[Surgery, onnx.NodeProto], None]
FIXUPS: dict[str, FixUp] = {}


def fixup(*ops: str) -> Callable[[FixUp], FixUp]:
    def register(function: FixUp) -> FixUp:
        for op in ops:
            if op in FIXUPS:
                raise ValueError(f"operator {op} has two fix-ups")
            FIXUPS[op] = function
        return function

    return register


@fixup("Conv", "ConvInteger", "com.microsoft::FusedConv")
def conv(s: Surgery, node: onnx.NodeProto) -> None:
    _regroup(s, node, node.input[1], node.input[0])


@fixup("QLinearConv", "com.microsoft::QLinearConv")
def qlinear_conv(s: Surgery, node: onnx.NodeProto) -> None:
    last = len(s.shapes[node.input[3]] or ()) - 1
    _regroup(s, node, node.input[3], node.input[0], axis=last if attribute(node, "channels_last", 0) else 1)


@fixup("com.microsoft::NhwcConv")
def nhwc_conv(s: Surgery, node: onnx.NodeProto) -> None:
    last = len(s.shapes[node.input[1]] or ()) - 1
    _regroup(s, node, node.input[1], node.input[0], axis=last, inner=last)


@fixup("ConvTranspose")
def conv_transpose(s: Surgery, node: onnx.NodeProto) -> None:
    _regroup(s, node, node.input[1], node.output[0])


def _regroup(s: Surgery, node: onnx.NodeProto, weight: str, channels: str, *, axis: int = 1, inner: int = 1) -> None:
    """Axis `inner` of the weight is what one group has of the channels."""
    groups, within = attribute(node, "group", 1), s.length(weight, inner)
    if groups > 1:
        total = groups * (within + s.lost(weight, inner).size)
        set_attribute(node, "group", (total - s.lost(channels, axis).size) // within)


@fixup("com.microsoft::MatMulNBits")
def matmul_nbits(s: Surgery, node: onnx.NodeProto) -> None:
    set_attribute(node, "N", s.length(node.input[1], 0))
    set_attribute(node, "K", attribute(node, "K") - s.lost(node.input[1], 1).size * attribute(node, "block_size"))


@fixup("LSTM", "GRU", "RNN")
def recurrent(s: Surgery, node: onnx.NodeProto) -> None:
    set_attribute(node, "hidden_size", s.length(node.input[2], 2))


@fixup("com.microsoft::DynamicQuantizeLSTM")
def quantised_recurrent(s: Surgery, node: onnx.NodeProto) -> None:
    set_attribute(node, "hidden_size", s.length(node.input[2], 1))


@fixup("GroupNormalization")
def group_norm(s: Surgery, node: onnx.NodeProto) -> None:
    """Whole groups went if what is left of every group is all or nothing."""
    groups, lost = attribute(node, "num_groups"), s.lost(node.input[0], 1)
    size = (s.length(node.input[0], 1) + lost.size) // groups
    _, counts = np.unique(lost // size, return_counts=True)
    if counts.size and (counts == size).all():
        set_attribute(node, "num_groups", groups - counts.size)


@fixup("Shape")
def shape(s: Surgery, node: onnx.NodeProto) -> None:
    """Of an axis like batch * heads, shape arithmetic goes on seeing the old length: it may divide it by the heads."""
    name = node.input[0]
    if not any(tensor == name for tensor, _ in s.periods):
        return
    rank = s.axis(name, -1) + 1
    axes = range(rank)[attribute(node, "start", 0) : attribute(node, "end", rank)]
    s.restore({i: s.periods[name, axis] for i, axis in enumerate(axes) if (name, axis) in s.periods}, len(axes))


@fixup("Reshape")
def reshape(s: Surgery, node: onnx.NodeProto) -> None:
    """0 copies and -1 computes: they stay where they still give what is wanted."""
    found = s.sizes(1) or [None] * len(s.before(node.output[0]) or ())
    folded = _folded(s, node, found)
    wanted = _target(s, node, found)
    if len(folded) == 1 and -1 not in found:  # batch * heads has no length yet: -1 computes it
        wanted[next(iter(folded))] = -1
        folded = {}
    s.settle(1, wanted)
    s.scale(1, folded, len(found))


def _folded(s: Surgery, node: onnx.NodeProto, found: Sequence[int | str | None]) -> dict[int, tuple[int, int]]:
    """Entries for axes like batch * heads that shrink, as (kept, of). Computed ones still have the old length."""
    offset = len(s.before(node.output[0]) or found) - len(found)
    places = {i: (node.output[0], i + offset) for i in range(len(found)) if found[i] not in (-1, 0, 1)}
    return {i: s.periods[place] for i, place in places.items() if place in s.periods}


def _target(s: Surgery, node: onnx.NodeProto, found: Sequence[int | str | None]) -> list[int | None]:
    source, goal = s.after(node.input[0]), s.goal(node.output[0], s.sizes(1, old=True), len(found))
    zero_copies = not attribute(node, "allowzero", 0) and source is not None
    wanted: list[int | None] = []
    for i, (have, want) in enumerate(zip(found, goal, strict=True)):
        copies = have == 0 and zero_copies and i < len(source or ()) and (source or ())[i] == want
        wanted.append(None if have == -1 or copies or not isinstance(want, int) else want)
    return wanted


@fixup("Expand")
def expand(s: Surgery, node: onnx.NodeProto) -> None:
    """A 1 in the target leaves the axis as it is, unless only the cut has made it 1."""
    old, found = s.sizes(1, old=True), s.sizes(1)
    if found is None:
        return
    rank = max(len(found), len(s.before(node.output[0]) or ()))
    tail = s.goal(node.output[0], [None] * (rank - len(found)) + (old or []), rank)[rank - len(found) :]
    s.settle(1, [None if (old and old[i] == 1) or not isinstance(n, int) else n for i, n in enumerate(tail)])
    s.scale(1, _folded(s, node, found), len(found))


@fixup("ConstantOfShape")
def constant_of_shape(s: Surgery, node: onnx.NodeProto) -> None:
    old = s.sizes(0, old=True)
    if old:
        s.settle(0, [n if isinstance(n, int) else None for n in s.goal(node.output[0], old, len(old))])
        s.scale(0, _folded(s, node, old), len(old))


@fixup("Tile")
def tile(s: Surgery, node: onnx.NodeProto) -> None:
    """Repeats do not change, whatever they were computed from."""
    repeats = s.sizes(1, old=True)
    if repeats:
        s.settle(1, [n if isinstance(n, int) else None for n in repeats])


@fixup("Resize")
def resize(s: Surgery, node: onnx.NodeProto) -> None:
    goal = s.after(node.output[0])
    if goal is None or len(node.input) < 4 or not node.input[3]:
        return
    axes = [axis % len(goal) for axis in attribute(node, "axes", range(len(goal)))]
    shrunk = [goal[axis] if s.lost(node.output[0], axis).size else None for axis in axes]
    s.settle(3, [n if isinstance(n, int) else None for n in shrunk])


@fixup("Squeeze")
def squeeze(s: Surgery, node: onnx.NodeProto) -> None:
    """Without axes every single position is squeezed, also one that a cut has left."""
    before, after = s.before(node.input[0]), s.after(node.input[0])
    if attribute(node, "axes") is not None or len(node.input) > 1 or before is None or after is None:
        return
    axes = [axis for axis, size in enumerate(before) if size == 1]
    if len(axes) < list(after).count(1):
        if not axes:
            node.op_type = "Identity"  # an empty list of axes would mean all of them again
        elif s.opset < 13:
            set_attribute(node, "axes", axes)
        else:
            s.put(1, np.array(axes, np.int64))


@fixup("Split")
def split(s: Surgery, node: onnx.NodeProto) -> None:
    axis = s.axis(node.input[0], attribute(node, "axis", 0))
    if not s.lost(node.input[0], axis).size:
        return
    old = attribute(node, "split") or s.sizes(1, old=True) or [None] * len(node.output)
    sizes = [
        size - s.lost(name, axis).size if isinstance(size, int) else s.length(name, axis)
        for name, size in zip(node.output, old, strict=True)
    ]
    if s.opset < 13:
        set_attribute(node, "split", sizes)
        return
    s.put(1, np.array(sizes, np.int64))
    kept = [item for item in node.attribute if item.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)


@fixup("Slice")
def slice_(s: Surgery, node: onnx.NodeProto) -> None:
    """New bounds on the axes that shrink: how many kept positions lie before the old ones."""
    older = attribute(node, "starts") is not None
    bounds: list[Any] = [
        attribute(node, name) if older else s.sizes(i, old=True)
        for i, name in ((1, "starts"), (2, "ends"), (3, "axes"))
    ]
    starts, ends, axes = bounds
    if starts is None or ends is None:
        return  # computed bounds: the rule let no cut through
    axes = list(range(len(starts))) if axes is None else axes
    name = node.input[0]
    wanted: list[list[int | None]] = [[None] * len(axes), [None] * len(axes)]
    for i, axis in enumerate(s.axis(name, axis) for axis in axes):
        if not s.lost(name, axis).size:
            continue
        size = s.length(name, axis) + s.lost(name, axis).size
        ends_at = [_position(bound, size) for bound in (starts[i], ends[i])]
        wanted[0][i], wanted[1][i] = s.rank_after(name, axis, ends_at)
    if older:
        for key, old, new in (("starts", starts, wanted[0]), ("ends", ends, wanted[1])):
            set_attribute(node, key, [a if b is None else b for a, b in zip(old, new, strict=True)])
    else:
        s.settle(1, wanted[0])
        s.settle(2, wanted[1])


def _position(bound: int, size: int) -> int:
    return min(max(bound + size if bound < 0 else bound, 0), size)


@fixup("Gather", "GatherND")
def gather(s: Surgery, node: onnx.NodeProto) -> None:
    """Constant indices into a shrunken axis move up; those of removed positions went with the index tensor itself.

    A GatherND is cut only along the one axis that it indexes, the first.
    """
    data, index = node.input[0], node.input[1]
    axis = s.axis(data, attribute(node, "axis", 0))
    if not s.lost(data, axis).size or index not in s.weights:
        return
    old = s.weights[index].array()
    size = s.length(data, axis) + s.lost(data, axis).size
    positions = np.where(old < 0, old + size, old).ravel()
    s.put(1, np.array(s.rank_after(data, axis, positions), old.dtype).reshape(old.shape))


@fixup("Attention", "com.microsoft::MultiHeadAttention", "com.microsoft::GroupQueryAttention")
def attention(s: Surgery, node: onnx.NodeProto) -> None:
    """Counts of heads shrink as the channels do; the head size stays."""
    for name, index in (("num_heads", 0), ("q_num_heads", 0), ("kv_num_heads", 1)):
        heads = attribute(node, name, 0)
        if heads:
            set_attribute(node, name, _scaled(s, node.input[index] or node.input[0], 2, heads))


@fixup("RotaryEmbedding", "com.microsoft::RotaryEmbedding")
def rotary(s: Surgery, node: onnx.NodeProto) -> None:
    heads = attribute(node, "num_heads", 0)
    if heads and len(s.before(node.input[0]) or ()) == 3:
        set_attribute(node, "num_heads", _scaled(s, node.input[0], 2, heads))


@fixup("com.microsoft::Attention")
def fused_projection(s: Surgery, node: onnx.NodeProto) -> None:
    heads, total = attribute(node, "num_heads"), s.length(node.input[1], 1)
    lost = s.lost(node.input[1], 1)
    sizes = attribute(node, "qkv_hidden_sizes") or [(total + lost.size) // 3] * 3
    ends = np.cumsum(sizes)
    gone = [int(((lost >= end - size) & (lost < end)).sum()) for size, end in zip(sizes, ends, strict=True)]
    set_attribute(node, "num_heads", heads * (sizes[0] - gone[0]) // sizes[0])
    if attribute(node, "qkv_hidden_sizes") is not None:
        set_attribute(node, "qkv_hidden_sizes", [size - less for size, less in zip(sizes, gone, strict=True)])


def _scaled(s: Surgery, name: str, axis: int, count: int) -> int:
    """A count that shrinks in proportion to an axis."""
    size = s.length(name, axis)
    return count * size // (size + s.lost(name, axis).size)
