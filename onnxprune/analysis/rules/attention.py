"""Fused attention: whole heads go, and with grouped queries whole key-value groups.

The channels of queries, keys and values are heads x head size. The scale depends on the head size, so it stays:

    query (batch, time, kv * rep * size)     key (batch, time, kv * size)     value (batch, time, kv * size_v)
    a unit is one kv head: rep query heads, one key head, one value head, and rep * size_v outputs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.join import part
from onnxprune.analysis.rules.norm import ACROSS
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule


def heads_of(f: Flow, axis: Axis, heads: Axis, repeats: int = 1) -> Axis:
    """Tie a channel axis to its heads; returns it."""
    count = int(heads.size) * repeats
    if not isinstance(axis.size, int) or not count or axis.size % count:
        raise Refuse("uneven-heads", "its channels do not divide into the attention heads")
    return f.tie(axis, f.merge([heads, fixed(axis.size // int(heads.size))]), zero=axis.zero)


def _whole(f: Flow, count: int) -> Axis:
    """The ids of heads that go whole, for the operator knows nothing smaller."""
    heads = f.fresh(count)
    if f.attention == "heads":
        f.prefer(heads)
    else:
        f.freeze(heads, "attention-off", "counts attention heads, which were asked to stay")
    return heads


def _groups(f: Flow, heads: int, kv_heads: int) -> tuple[Axis, int]:
    """The ids of the heads that can go, and how many query heads each of them serves."""
    if not heads or not kv_heads or heads % kv_heads:
        raise Refuse("uneven-heads", "the query heads do not divide into key-value heads")
    return _whole(f, kv_heads), heads // kv_heads


def _bias(f: Flow, bias: Value | None, groups: Axis, repeats: int) -> None:
    """A position bias (batch, heads, time, time), the batch perhaps left out; its head axis may be 1."""
    if bias is not None and bias.rank >= 3 and bias.axes[-3].size != 1:
        f.tie(bias.axes[-3], f.merge([groups, fixed(repeats)]))


@rule("Attention")
def attention(
    f: Flow, node: object, q: Value, k: Value, v: Value, mask: Value | None = None, *past: Value | None
) -> Sequence[Axes]:
    """The standard operator: rank 4 has the heads as an axis, rank 3 has them within the channels."""
    if q.rank == 4:
        heads, kv_heads = int(q.axes[1].size), int(k.axes[1].size)
    else:
        heads, kv_heads = f.attr("q_num_heads", 0), f.attr("kv_num_heads", 0)
    groups, repeats = _groups(f, heads, kv_heads)
    _bias(f, mask, groups, repeats)
    for value in past[:2]:
        if value is not None:
            f.tie(value.axes[1], groups)
    wide = f.merge([groups, fixed(repeats)])
    if q.rank == 4:
        f.tie(q.axes[1], wide)
        f.tie(k.axes[1], groups)
        zero = f.tie(v.axes[1], groups).zero
        f.freeze_all(
            [q.axes[3], k.axes[3]], "head-size", "is the head size, on which the scale of the attention depends"
        )
        if f.attention != "dims" and not groups.fixed:
            f.freeze(v.axes[3], "head-dims", "is a dimension within attention heads (cut with --attention dims)")
        out: Axes = (q.axes[0], wide.with_zero(zero), q.axes[2], v.axes[3])
    else:
        heads_of(f, q.axes[2], groups, repeats)
        heads_of(f, k.axes[2], groups)
        heads_of(f, v.axes[2], groups)
        channels = f.merge([groups, fixed(repeats), fixed(int(v.axes[2].size) // kv_heads)])
        out = (q.axes[0], q.axes[1], channels.with_zero(v.axes[2].zero))
    present = (fixed(q.axes[0].size), groups, f.open(), f.open())
    scores = (fixed(q.axes[0].size), wide.with_zero(False), f.open(), f.open())
    return [out, present, present, scores][: len(f.current.output)]


@rule("com.microsoft::MultiHeadAttention")
def multi_head(
    f: Flow,
    node: object,
    q: Value,
    k: Value | None = None,
    v: Value | None = None,
    bias: Value | None = None,
    padding: Value | None = None,
    positions: Value | None = None,
    *past: Value | None,
) -> Sequence[Axes]:
    heads = _whole(f, f.attr("num_heads"))
    if k is None or v is None or q.rank != 3:
        raise Refuse("packed-attention", "queries, keys and values are packed into one tensor")
    channels = []
    for value in (q, k, v):
        channels.append(value.axes[1 if value.rank == 4 else 2])
        if value.rank == 4:
            f.tie(channels[-1], heads)
        else:
            heads_of(f, channels[-1], heads)
    if bias is not None:
        f.mark(bias, 0, "shift")
        sizes = [int(q.axes[2].size), int(q.axes[2].size), int(bias.axes[0].size) - 2 * int(q.axes[2].size)]
        for start, size in zip((0, sizes[0], sizes[0] + sizes[1]), sizes, strict=True):
            heads_of(f, part(bias.axes[0], slice(start, start + size)), heads)
    _bias(f, positions, heads, 1)
    for cache in past[:2]:
        if cache is not None:
            f.tie(cache.axes[1], heads)
    wide = v.axes[2].size if v.rank == 3 else int(v.axes[3].size) * int(heads.size)
    out = f.merge([heads, fixed(int(wide) // int(heads.size))])
    present = (fixed(q.axes[0].size), heads, f.open(), f.open())
    return [(q.axes[0], q.axes[1], out.with_zero(channels[2].zero)), present, present][: len(f.current.output)]


@rule("com.microsoft::GroupQueryAttention")
def grouped_query(
    f: Flow, node: object, q: Value, k: Value | None, v: Value | None, *rest: Value | None
) -> Sequence[Axes]:
    """Without `k` and `v` the first input holds all three, side by side: q | k | v."""
    groups, repeats = _groups(f, f.attr("num_heads"), f.attr("kv_num_heads"))
    kv_heads = f.attr("kv_num_heads")
    counts = [kv_heads * repeats, kv_heads, kv_heads]
    if k is None or v is None:
        size = int(q.axes[2].size) // sum(counts)
        ends = np.cumsum(counts) * size
        parts = [part(q.axes[2], slice(end - n * size, end)) for n, end in zip(counts, ends, strict=True)]
    else:
        parts = [q.axes[2], k.axes[2], v.axes[2]]
    for axis, n in zip(parts, counts, strict=True):
        heads_of(f, axis, groups, n // kv_heads)
    for value in rest[:2]:
        if value is not None:
            f.tie(value.axes[1], groups)
    _bias(f, rest[7] if len(rest) > 7 else None, groups, repeats)
    if len(rest) > 8 and rest[8] is not None:
        f.tie(rest[8].axes[0], f.merge([groups, fixed(repeats)]))  # head_sink
    out = f.merge([groups, fixed(int(parts[0].size) // kv_heads)])
    present = (fixed(q.axes[0].size), groups, f.open(), f.open())
    return [(q.axes[0], q.axes[1], out.with_zero(parts[2].zero)), present, present][: len(f.current.output)]


@rule("com.microsoft::Attention")
def fused_projection(
    f: Flow, node: object, x: Value, w: Value, bias: Value | None = None, *rest: Value | None
) -> Sequence[Axes]:
    """The projections are inside: W (input, q | k | v)."""
    heads = _whole(f, f.attr("num_heads"))
    total = int(w.axes[1].size)
    sizes = f.attr("qkv_hidden_sizes") or [total // 3] * 3
    f.contract(x.axes[2], w.axes[0])
    f.mark(w, 0, "in")
    f.mark(w, 1, "out")
    f.mark(bias, 0, "shift")
    start = 0
    for size in sizes:
        heads_of(f, part(w.axes[1], slice(start, start + size)), heads)
        if bias is not None:
            heads_of(f, part(bias.axes[0], slice(start, start + size)), heads)
        start += size
    past, positions = (rest[i] if len(rest) > i else None for i in (1, 2))
    if past is not None:
        f.tie(past.axes[2], heads)
    _bias(f, positions, heads, 1)
    out = f.merge([heads, fixed(sizes[2] // int(heads.size))])
    present = (fixed(2), fixed(x.axes[0].size), heads, f.open(), f.open())
    return [(x.axes[0], x.axes[1], out), present][: len(f.current.output)]


@rule("RotaryEmbedding", "com.microsoft::RotaryEmbedding")
def rotary(f: Flow, node: object, x: Value, *tables: Value | None) -> Sequence[Axes]:
    """Each head is turned in the same way; within a head the positions come in pairs."""
    for table in tables:
        f.freeze_all(table.axes if table else (), "positional", "is a rotary table")
    if x.rank == 4:
        size = f.freeze(x.axes[3], "head-size", "is the head size of a rotary embedding")
        return [(*x.axes[:3], size)]
    count = f.attr("num_heads", 0)
    if not count:
        caches = tables[1:] if f.current.domain == "com.microsoft" else tables  # there the positions come first
        half = next((int(t.axes[-1].size) for t in caches if t is not None and t.rank == 2 and t.weight), 0)
        count = int(x.axes[2].size) // (2 * half) if half else 0
    if not count:
        raise Refuse("uneven-heads", "the number of heads of this rotary embedding is not known")
    heads_of(f, x.axes[2], f.fresh(count))
    return [x.axes]


@rule("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def skip_layer_norm(f: Flow, node: object, x: Value, skip: Value, *params: Value | None) -> Sequence[Axes]:
    total = tuple(f.tie(a, b) for a, b in zip(x.axes[::-1], skip.axes[::-1], strict=False))[::-1]
    total = (*x.axes[: x.rank - len(total)], *total)
    simple = f.current.op_type == "SkipSimplifiedLayerNormalization"
    roles = ("scale", "shift") if simple else ("scale", "shift", "shift")
    for value, role in zip(params, roles, strict=False):
        f.mark(value, 0, role)
        if value is not None:
            f.tie(total[-1], value.axes[0])
    f.inexact(total[-1], "normalised", ACROSS)
    out = (*(axis.with_zero(False) for axis in total[:-1]), total[-1].with_zero(True))
    statistics = (*(fixed(axis.size) for axis in total[:-1]), fixed(1))
    return [out, statistics, statistics, total][: len(f.current.output)]


@rule("com.microsoft::EmbedLayerNormalization")
def embed_layer_norm(
    f: Flow,
    node: object,
    ids: Value,
    segments: Value | None,
    words: Value,
    positions: Value,
    segment_table: Value | None,
    scale: Value,
    shift: Value,
    *rest: Value | None,
) -> Sequence[Axes]:
    tables = [table for table in (words, positions, segment_table) if table is not None]
    for table in tables:
        f.mark(table, 1, "out")
        f.freeze(table.axes[0], "indexed", "is indexed by values that are computed at run time")
    for value, role in ((scale, "scale"), (shift, "shift")):
        f.mark(value, 0, role)
    hidden = f.tie(*(table.axes[1] for table in tables), scale.axes[0], shift.axes[0])
    f.inexact(hidden, "normalised", ACROSS)
    summed = (*ids.axes, hidden)
    return [summed, (fixed(ids.axes[0].size),), summed][: len(f.current.output)]
