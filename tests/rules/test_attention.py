"""Fused attention and what stands around it: heads go whole, and the counts that operators store go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from building import MS, Net
from oracle import check
from pruning import checked, halved, stored
from rows import Row, Write, row

HEADS, SIZE = 4, 3
WIDE = HEADS * SIZE
TOKENS = (2, 5, 8)


def tokens(n: Net) -> str:
    return n.input("tokens", *TOKENS)


def project(n: Net, x: str, *widths: int) -> list[str]:
    return [n.linear(x, width, name=name) for name, width in zip(("q", "k", "v"), widths, strict=False)]


def standard(n: Net, *more: str, kv: int = HEADS, size_v: int = SIZE, **attributes: Any) -> None:
    """ai.onnx Attention on rank 3."""
    q, k, v = project(n, tokens(n), WIDE, kv * SIZE, kv * size_v)
    y = n.op("Attention", q, k, v, *more, q_num_heads=HEADS, kv_num_heads=kv, **attributes)
    n.output(n.linear(y, 6, name="last"))


def standard_rank_4(n: Net, kv: int = HEADS, size_v: int = SIZE) -> None:
    made = []
    sizes = ((HEADS, SIZE), (kv, SIZE), (kv, size_v))
    for x, (heads, size) in zip(project(n, tokens(n), *(a * b for a, b in sizes)), sizes, strict=True):
        made.append(n.transpose(n.reshape(x, 0, 0, heads, size), 0, 2, 1, 3))
    y = n.op("Attention", *made)
    n.output(n.linear(n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, HEADS * size_v), 6, name="last"))


def standard_with_past(n: Net) -> None:
    """A cache that comes from outside holds all heads."""
    q, k, v = project(n, tokens(n), WIDE, WIDE, WIDE)
    past = [n.input(name, 2, HEADS, 3, SIZE) for name in ("past_key", "past_value")]
    y, *present = n.ops("Attention", 3, q, k, v, "", *past, q_num_heads=HEADS, kv_num_heads=HEADS)
    n.output(n.linear(y, 6, name="last"), *present)


def standard_with_constant_past(n: Net) -> None:
    """A prefix that has been learned is cut with its heads."""
    q, k, v = project(n, tokens(n), WIDE, WIDE, WIDE)
    past = [n.op("Expand", n.weight(1, HEADS, 3, SIZE), n.ints(2, HEADS, 3, SIZE)) for _ in range(2)]
    y = n.ops("Attention", 3, q, k, v, "", *past, q_num_heads=HEADS, kv_num_heads=HEADS)[0]
    n.output(n.linear(y, 6, name="last"))


def multi_head(n: Net, *more: str, size_v: int = SIZE, rank_4: bool = False, **attributes: Any) -> None:
    """com.microsoft MultiHeadAttention."""
    q, k, v = project(n, tokens(n), WIDE, WIDE, HEADS * size_v)
    if rank_4:
        k, v = (n.transpose(n.reshape(x, 0, 0, HEADS, -1), 0, 2, 1, 3) for x in (k, v))
    made = (2, 5, HEADS * size_v)
    y = n.op(f"{MS}::MultiHeadAttention", q, k, v, *more, num_heads=HEADS, made=made, **attributes)
    n.output(n.linear(y, 6, name="last"))


def packed(n: Net, packed_kv: bool = False) -> None:
    x = tokens(n)
    if packed_kv:
        q = n.linear(x, WIDE, name="q")
        kv = n.reshape(n.linear(x, 2 * WIDE, name="kv"), 0, 0, HEADS, 2, SIZE)
        inputs = [q, kv]
    else:
        inputs = [n.reshape(n.linear(x, 3 * WIDE, name="qkv"), 0, 0, HEADS, 3, SIZE)]
    y = n.op(f"{MS}::MultiHeadAttention", *inputs, num_heads=HEADS, made=(2, 5, WIDE))
    n.output(n.linear(y, 6, name="last"))


def grouped(n: Net, kv: int = 2, rotary: bool = False, sink: bool = False, packed: bool = False) -> None:
    """com.microsoft GroupQueryAttention, as exported for generation."""
    size = 16  # what the kernel wants of rotary tables
    x = n.input("tokens", 1, 5, 8)
    if packed:
        q, k, v = n.linear(x, (HEADS + 2 * kv) * size, name="qkv"), "", ""
    else:
        q, k, v = project(n, x, HEADS * size, kv * size, kv * size)
    past = [n.op("Expand", n.weight(1, kv, 3, size), n.ints(1, kv, 3, size)) for _ in range(2)]
    lengths, total = n.const([7], np.int32), n.const(8, np.int32)
    tables = [n.weight(8, size // 2, name=name) for name in ("cos", "sin")] if rotary else ["", ""]
    more = ["", "", n.weight(HEADS, name="sink")] if sink else []
    y = n.ops(
        f"{MS}::GroupQueryAttention",
        3,
        q,
        k,
        v,
        *past,
        lengths,
        total,
        *tables,
        *more,
        num_heads=HEADS,
        kv_num_heads=kv,
        do_rotary=int(rotary),
    )[0]
    n.made[y] = (1, 5, HEADS * size)
    n.output(n.linear(y, 6, name="last"))


def four_bits(n: Net, x: str, inner: int, outer: int, name: str) -> str:
    blocks = inner // 16
    w = n.const(n.rng.integers(0, 256, (outer, blocks, 8)), np.uint8, name=name)
    scale = n.const(n.rng.uniform(0.02, 0.05, outer * blocks), np.float32)
    return n.op(f"{MS}::MatMulNBits", x, w, scale, N=outer, K=inner, bits=4, block_size=16, made=(1, 5, outer))


def grouped_of_four_bits(n: Net) -> None:
    """As generators are shipped: both projections packed, a head as long as two blocks."""
    qkv = four_bits(n, n.input("tokens", 1, 5, 64), 64, 8 * 32, "qkv")
    more = [n.const([4], np.int32), n.const(5, np.int32)]
    y = n.ops(f"{MS}::GroupQueryAttention", 3, qkv, "", "", "", "", *more, num_heads=4, kv_num_heads=2)[0]
    n.made[y] = (1, 5, 128)
    n.output(n.op("MatMul", four_bits(n, y, 128, 16, "out"), n.weight(16, 6, name="last.weight"), name="last"))


def projecting(n: Net, *more: str, sizes: tuple[int, int, int] | None = None, bias: bool = True) -> None:
    """com.microsoft Attention: the three projections are one weight inside."""
    x = tokens(n)
    q, k, v = sizes or (WIDE,) * 3
    w = n.weight(8, q + k + v, name="qkv.weight", scale=0.5)
    b = [n.weight(q + k + v, name="qkv.bias")] if bias else []
    y = n.op(f"{MS}::Attention", x, w, *b, *more, num_heads=HEADS, qkv_hidden_sizes=sizes, made=(2, 5, v))
    n.output(n.linear(y, 6, name="last"))


def projecting_made(n: Net) -> None:
    """Its input channels are made by a layer in front, and go as well."""
    x = n.op("Relu", n.linear(tokens(n), 6, name="first"))
    y = n.op(
        f"{MS}::Attention", x, n.weight(6, 3 * WIDE, name="qkv"), n.weight(3 * WIDE), num_heads=HEADS, made=(2, 5, WIDE)
    )
    n.output(n.linear(y, 6, name="last"))


def rotated(n: Net, vendor: bool = False, rank_4: bool = False) -> None:
    size = 4
    x = n.linear(tokens(n), HEADS * size, name="first")
    tables = [n.weight(10, size // 2, name=name) for name in ("cos", "sin")]
    positions = n.const(np.tile(np.arange(5), (2, 1)))
    if rank_4:
        x = n.transpose(n.reshape(x, 0, 0, HEADS, size), 0, 2, 1, 3)
    if vendor:
        made = (2, HEADS, 5, size) if rank_4 else (2, 5, HEADS * size)
        y = n.op(f"{MS}::RotaryEmbedding", x, positions, *tables, num_heads=HEADS, made=made)
    else:
        y = n.op("RotaryEmbedding", x, *tables, positions, num_heads=None if rank_4 else HEADS)
    if rank_4:
        y = n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, HEADS * size)
    n.output(n.linear(y, 6, name="last"))


def vendor_rotary_without_count(n: Net) -> None:
    """Without num_heads the tables tell how long a head is."""
    x = n.linear(tokens(n), 16, name="first")
    tables = [n.weight(10, 2, name=name) for name in ("cos", "sin")]
    positions = n.const(np.tile(np.arange(5), (2, 1)))
    y = n.op(f"{MS}::RotaryEmbedding", x, positions, *tables, made=(2, 5, 16))
    n.output(n.linear(y, 6, name="last"))


def held(n: Net) -> None:
    """A mask from outside knows every head, so none goes; the scale depends on the head size, so that stays as well."""
    made = [n.transpose(n.reshape(x, 0, 0, HEADS, SIZE), 0, 2, 1, 3) for x in project(n, tokens(n), WIDE, WIDE, WIDE)]
    y = n.op("Attention", *made, n.input("mask", 2, HEADS, 5, 5))
    n.output(n.linear(n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, WIDE), 6, name="last"))


def rotated_held(n: Net, vendor: bool = False) -> None:
    """Heads that cannot go, and a head size that the tables know."""
    x = n.transpose(n.reshape(n.linear(tokens(n), HEADS * 4, name="first"), 0, 0, HEADS, 4), 0, 2, 1, 3)
    x = n.op("Add", x, n.input("heads", 1, HEADS, 1, 1))
    tables = [n.weight(10, 2, name=name) for name in ("cos", "sin")]
    positions = n.const(np.tile(np.arange(5), (2, 1)))
    inputs = [positions, *tables] if vendor else [*tables, positions]
    kind = f"{MS}::RotaryEmbedding" if vendor else "RotaryEmbedding"
    y = n.op(kind, x, *inputs, num_heads=HEADS if vendor else None, made=(2, HEADS, 5, 4))
    n.output(n.linear(n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, HEADS * 4), 6, name="last"))


def summed(write: Write) -> Write:
    """The channels of what comes out are added up before the last layer reads them."""

    def instead(n: Net) -> None:
        write(n)
        n.outputs.clear()
        product = next(node for node in n.nodes if node.name == "last")
        x = product.input[0]
        product.input[0], product.input[1] = n.reduce("ReduceSum", x, -1), n.weight(1, 6, name="last.one")
        n.nodes.append(n.nodes.pop(n.nodes.index(product)))
        n.output(n.op("Identity", product.output[0]))

    return instead


MASK = (1, 1, 5, 5)
OPSET = {"opset": 23}
STANDARD: list[Row] = [
    row("Attention", standard, HEADS, **OPSET),
    row("Attention, opset 24", standard, HEADS, opset=24),
    row("Attention, causal", lambda n: standard(n, is_causal=1), HEADS, **OPSET),
    row("Attention with a scale", lambda n: standard(n, scale=0.3), HEADS, **OPSET),
    row("Attention with a softcap", lambda n: standard(n, softcap=2.0), HEADS, **OPSET),
    row("Attention, other head size of values", lambda n: standard(n, size_v=5), HEADS, **OPSET),
    row("Attention with a mask", lambda n: standard(n, n.weight(5, 5)), HEADS, **OPSET),
    row("Attention with a mask for all heads", lambda n: standard(n, n.weight(*MASK)), HEADS, **OPSET),
    row("Attention with a position bias", lambda n: standard(n, n.weight(1, HEADS, 5, 5)), HEADS, **OPSET),
    row("Attention with a mask from outside", lambda n: standard(n, n.input("mask", 2, 1, 5, 5)), HEADS, **OPSET),
    row(
        "Attention with a bias from outside",
        lambda n: standard(n, n.input("mask", 2, HEADS, 5, 5)),
        frozen={"fixed-axis": 36},
        **OPSET,
    ),
    row("Attention with grouped queries", lambda n: standard(n, kv=2), 2, **OPSET),
    row("Attention with grouped queries and a bias", lambda n: standard(n, n.weight(1, HEADS, 5, 5), kv=2), 2, **OPSET),
    row("Attention with one key head", lambda n: standard(n, kv=1), frozen={"fixed-axis": 18}, **OPSET),
    row("Attention on rank 4", standard_rank_4, HEADS, **OPSET),
    row("Attention on rank 4, grouped queries", lambda n: standard_rank_4(n, kv=2, size_v=5), 2, **OPSET),
    row("Attention with a cache from outside", standard_with_past, frozen={"fixed-axis": 36}, **OPSET),
    row("Attention with a learned prefix", standard_with_constant_past, HEADS, **OPSET),
    row("Attention of heads that are held", held, frozen={"other-factor": 3 * WIDE}, **OPSET),
    row("Attention, summed", summed(standard), HEADS, **OPSET),
]
VENDOR: list[Row] = [
    row("MultiHeadAttention", multi_head, HEADS),
    row("MultiHeadAttention with a bias", lambda n: multi_head(n, n.weight(3 * WIDE, name="b")), HEADS),
    row(
        "MultiHeadAttention, other head size of values",
        lambda n: multi_head(n, n.weight(2 * WIDE + HEADS * 5), size_v=5),
        HEADS,
    ),
    row("MultiHeadAttention with a position bias", lambda n: multi_head(n, "", "", n.weight(1, HEADS, 5, 5)), HEADS),
    row("MultiHeadAttention with a mask", lambda n: multi_head(n, "", "", n.weight(1, 1, 5, 5)), HEADS),
    row(
        "MultiHeadAttention with padding", lambda n: multi_head(n, "", n.const([[1, 1, 1, 1, 0]] * 2, np.int32)), HEADS
    ),
    row("MultiHeadAttention, keys of rank 4", lambda n: multi_head(n, rank_4=True), HEADS),
    row("MultiHeadAttention, causal", lambda n: multi_head(n, unidirectional=1), HEADS),
    row("GroupQueryAttention", grouped, 2),
    row("GroupQueryAttention, all heads", lambda n: grouped(n, kv=4), 4),
    row("GroupQueryAttention with rotary tables", lambda n: grouped(n, rotary=True), 2),
    row("GroupQueryAttention with a sink", lambda n: grouped(n, sink=True), 2),
    row("GroupQueryAttention, packed", lambda n: grouped(n, packed=True), 2),
    row("GroupQueryAttention, packed, all heads", lambda n: grouped(n, packed=True, kv=4, rotary=True), 4),
    row("GroupQueryAttention of four bits", grouped_of_four_bits, 16, 2),
    row("Attention of com.microsoft", projecting, HEADS),
    row("Attention of com.microsoft without a bias", lambda n: projecting(n, bias=False), HEADS, runs=False),
    row(
        "Attention of com.microsoft with a mask",
        lambda n: projecting(n, n.const([[1, 1, 1, 1, 0]] * 2, np.int32)),
        HEADS,
    ),
    row("Attention of com.microsoft with sizes", lambda n: projecting(n, sizes=(12, 12, 20)), HEADS),
    row(
        "Attention of com.microsoft with a position bias",
        lambda n: projecting(n, "", "", n.weight(1, HEADS, 5, 5)),
        HEADS,
    ),
    row("Attention of com.microsoft behind a layer", projecting_made, HEADS, 6),
    row("Attention of com.microsoft, summed", summed(projecting), HEADS),
    row("MultiHeadAttention, summed", summed(multi_head), HEADS),
    row("GroupQueryAttention, summed", summed(grouped), 2),
    row(
        "MultiHeadAttention, the role of its bias",
        lambda n: multi_head(n, n.weight(3 * WIDE, name="b")),
        HEADS,
        roles={"b:0": "shift"},
    ),
]
ROTARY: list[Row] = [
    row("RotaryEmbedding", rotated, HEADS, **OPSET),
    row("RotaryEmbedding on rank 4", lambda n: rotated(n, rank_4=True), HEADS, **OPSET),
    row("RotaryEmbedding of com.microsoft", lambda n: rotated(n, vendor=True), HEADS),
    row("RotaryEmbedding of com.microsoft on rank 4", lambda n: rotated(n, vendor=True, rank_4=True), HEADS),
    row("RotaryEmbedding of com.microsoft without a count", vendor_rotary_without_count, HEADS),
    row("RotaryEmbedding of heads that are held", rotated_held, frozen={"other-factor": 16}, **OPSET),
    row(
        "RotaryEmbedding of com.microsoft, heads held",
        lambda n: rotated_held(n, vendor=True),
        frozen={"other-factor": 16},
    ),
    row("RotaryEmbedding, summed", summed(rotated), HEADS, **OPSET),
    row("RotaryEmbedding of com.microsoft, summed", summed(lambda n: rotated(n, vendor=True)), HEADS),
]


@pytest.mark.parametrize("case", [*STANDARD, *VENDOR, *ROTARY], ids=str)
def test_attention(case: Row) -> None:
    case.check()


@pytest.mark.parametrize(
    ("write", "op", "expected"),
    [
        (standard, "Attention", {"q_num_heads": 2, "kv_num_heads": 2}),
        (lambda n: standard(n, kv=2, size_v=5), "Attention", {"q_num_heads": 2, "kv_num_heads": 1}),
        (multi_head, "MultiHeadAttention", {"num_heads": 2}),
        (grouped, "GroupQueryAttention", {"num_heads": 2, "kv_num_heads": 1}),
        (lambda n: grouped(n, packed=True), "GroupQueryAttention", {"num_heads": 2, "kv_num_heads": 1}),
        (projecting, "Attention", {"num_heads": 2}),
        (lambda n: projecting(n, sizes=(12, 12, 20)), "Attention", {"num_heads": 2, "qkv_hidden_sizes": [6, 6, 10]}),
        (lambda n: rotated(n, vendor=True), "RotaryEmbedding", {"num_heads": 2}),
        (rotated, "RotaryEmbedding", {"num_heads": 2}),
        (vendor_rotary_without_count, "RotaryEmbedding", {}),
    ],
)
def test_stored_counts_follow(write: Write, op: str, expected: Mapping[str, object]) -> None:
    net = Net(23)
    write(net)
    (found,) = stored(halved(net.proto()), op)
    kept = {name: value for name, value in found.items() if name.endswith(("heads", "sizes"))}
    assert kept == expected


def test_a_scale_that_was_implied_stays() -> None:
    """The scale comes from the head size, which a cut leaves alone."""
    net = Net(23)
    standard(net)
    (found,) = stored(halved(net.proto()), "Attention")
    assert "scale" not in found


@pytest.mark.parametrize("write", [standard, standard_rank_4, multi_head, grouped, projecting])
def test_attention_off_leaves_fused_attention_alone(write: Write) -> None:
    net = Net(23)
    write(net)
    coupling = checked(net.proto(), [], attention="off")
    assert {item.reason.code for item in coupling.frozen} <= {"attention-off", "other-factor", "graph-output"}


def test_dims_of_values_go_where_the_operator_lets_them() -> None:
    """Queries and keys keep their dimensions, for the scale depends on them; heads stay, for dims were asked for."""
    net = Net(23)
    standard_rank_4(net, size_v=6)
    checked(net.proto(), [6], attention="dims")
    net = Net(23)
    standard(net)
    checked(net.proto(), [], attention="dims")


@pytest.mark.parametrize("packed_kv", [False, True])
def test_packed_projections_are_refused(packed_kv: bool) -> None:
    net = Net(17)
    packed(net, packed_kv)
    check(net.proto(), expected=(), runs=False)
