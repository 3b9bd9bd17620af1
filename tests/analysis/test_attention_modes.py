"""Decomposed attention, as exporters write it: whole heads, dims within all heads alike, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from building import Dim, Net
from pruning import checked, halved

HEADS, SIZE = 4, 6
WIDE = HEADS * SIZE
STATIC: tuple[Dim, ...] = (2, 5, 8)
DYNAMIC: tuple[Dim, ...] = ("batch", "time", 8)


@dataclass
class Attention:
    """One self-attention layer with its choices."""

    net: Net
    tokens: tuple[Dim, ...] = STATIC
    heads: int = HEADS
    kv: int = HEADS
    size: int = SIZE

    def __post_init__(self) -> None:
        self.x = self.net.input("tokens", *self.tokens)

    def split(self, x: str, heads: int) -> str:
        """(batch, time, heads * size) -> (batch, heads, time, size)"""
        return self.net.transpose(self.net.reshape(x, 0, 0, heads, self.size), 0, 2, 1, 3)

    def project(self) -> tuple[str, str, str]:
        n, wide = self.net, self.heads * self.size
        q, k, v = (
            n.linear(self.x, w, name=name) for name, w in zip("qkv", (wide, *[self.kv * self.size] * 2), strict=True)
        )
        return self.split(q, self.heads), self.split(k, self.kv), self.split(v, self.kv)

    def scores(self, q: str, k: str) -> str:
        n = self.net
        return n.op("Mul", n.op("MatMul", q, n.transpose(k, 0, 1, 3, 2)), n.scalar(self.size**-0.5))

    def join(self, scores: str, v: str) -> str:
        n = self.net
        y = n.op("MatMul", n.op("Softmax", scores, axis=-1), v)
        return n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, self.heads * self.size)

    def close(self, y: str) -> None:
        n = self.net
        w = n.weight(self.heads * self.size, 7, name="last.weight")
        n.output(n.op("MatMul", y, w, name="last"))


def plain(n: Net, tokens: tuple[Dim, ...] = STATIC) -> None:
    a = Attention(n, tokens)
    q, k, v = a.project()
    a.close(a.join(a.scores(q, k), v))


def scaled_before(n: Net) -> None:
    """The legacy exporter multiplies both sides by the root of the scale."""
    a = Attention(n)
    q, k, v = a.project()
    root = n.scalar(SIZE**-0.25)
    scores = n.op("MatMul", n.op("Mul", q, root), n.op("Mul", n.transpose(k, 0, 1, 3, 2), root))
    a.close(a.join(scores, v))


def causal(n: Net) -> None:
    a = Attention(n)
    q, k, v = a.project()
    mask = n.const(np.tril(np.ones((1, 1, 5, 5), bool)))
    scores = n.op("Where", mask, a.scores(q, k), n.scalar(-1e9))
    a.close(a.join(scores, v))


def einsum(n: Net, tokens: tuple[Dim, ...] = STATIC) -> None:
    """Without any transposition: the heads are the third axis."""
    a = Attention(n, tokens)
    q, k, v = (n.reshape(n.linear(a.x, WIDE, name=name), 0, 0, HEADS, SIZE) for name in "qkv")
    scores = n.op("Einsum", q, k, equation="bqhd,bkhd->bhqk")
    scores = n.op("Softmax", n.op("Mul", scores, n.scalar(SIZE**-0.5)), axis=-1)
    y = n.op("Einsum", scores, v, equation="bhqk,bkhd->bqhd")
    a.close(n.reshape(y, 0, 0, WIDE))


def einsum_projections(n: Net) -> None:
    """Keras: the projections keep heads and dims apart, in weights of rank 3."""
    a = Attention(n)
    q, k, v = (
        n.op("Einsum", a.x, n.weight(8, HEADS, SIZE, name=f"{x}.weight", scale=0.4), equation="abc,cde->abde", name=x)
        for x in "qkv"
    )
    scores = n.op("Softmax", n.op("Einsum", q, k, equation="aecd,abcd->acbe"), axis=2)
    y = n.op("Einsum", scores, v, equation="acbe,abcd->aecd")
    n.output(n.op("Einsum", y, n.weight(HEADS, SIZE, 7, name="last.weight"), equation="abcd,cde->abe", name="last"))


def grouped(n: Net, tokens: tuple[Dim, ...] = STATIC, slopes: bool = False) -> None:
    """Each key-value head is expanded to the query heads it serves."""
    a = Attention(n, tokens, kv=2)
    q, k, v = a.project()
    dynamic = isinstance(tokens[1], str)

    def repeat(x: str) -> str:
        wide = n.unsqueeze(x, 2)
        if dynamic:
            parts = [n.length(a.x, 0), n.ints(2), n.ints(2), n.length(a.x, 1), n.ints(SIZE)]
            wide = n.op("Expand", wide, n.concat(*parts, axis=0))
            target = n.concat(n.length(a.x, 0), n.ints(HEADS), n.length(a.x, 1), n.ints(SIZE), axis=0)
            return n.op("Reshape", wide, target)
        return n.reshape(n.op("Expand", wide, n.ints(2, 2, 2, 5, SIZE)), 2, HEADS, 5, SIZE)

    scores = a.scores(q, repeat(k))
    if slopes:
        distance = n.const(-np.abs(np.arange(5)[:, None] - np.arange(5)), np.float32)
        scores = n.op("Add", scores, n.op("Mul", n.positive(HEADS, 1, 1, name="slopes"), distance))
    a.close(a.join(scores, repeat(v)))


def one_key_head(n: Net) -> None:
    """Multi-query attention: keys and values are broadcast over the heads."""
    a = Attention(n, kv=1)
    q, k, v = a.project()
    a.close(a.join(a.scores(q, k), v))


def packed(n: Net, order: str, tokens: tuple[Dim, ...] = STATIC) -> None:
    """One projection for all three: (3, heads, size) as in ViT, (heads, 3, size) as in GPT-NeoX, (heads, size, 3)."""
    a = Attention(n, tokens)
    x = n.linear(a.x, 3 * WIDE, name="qkv")
    sizes = {"3": 3, "h": HEADS, "d": SIZE}
    x = n.reshape(x, 0, 0, *(sizes[c] for c in order))
    x = n.transpose(x, 2 + order.index("3"), 0, 2 + order.index("h"), 1, 2 + order.index("d"))
    q, k, v = (n.op("Gather", x, n.const(i, np.int64), axis=0) for i in range(3))
    a.close(a.join(a.scores(q, k), v))


def packed_split(n: Net) -> None:
    """GPT-2: the three parts are split before the heads are."""
    a = Attention(n)
    parts = n.split(n.linear(a.x, 3 * WIDE, name="qkv"), 2, WIDE, WIDE, WIDE)
    q, k, v = (a.split(x, HEADS) for x in parts)
    a.close(a.join(a.scores(q, k), v))


def packed_split_in_heads(n: Net) -> None:
    """GPT-NeoX: each head is split into its three parts."""
    a = Attention(n)
    x = n.transpose(n.reshape(n.linear(a.x, 3 * WIDE, name="qkv"), 0, 0, HEADS, 3 * SIZE), 0, 2, 1, 3)
    q, k, v = n.split(x, 3, SIZE, SIZE, SIZE)
    a.close(a.join(a.scores(q, k), v))


def rotary(n: Net, interleaved: bool = False, tokens: tuple[Dim, ...] = STATIC) -> None:
    """x * cos + rotated x * sin, with tables for the positions."""
    a = Attention(n, tokens)
    q, k, v = a.project()
    cos, sin = (n.weight(1, 1, 5, SIZE, name=name) for name in ("cos", "sin"))

    def turn(x: str) -> str:
        if interleaved:
            pairs = n.reshape(x, 0, 0, 0, SIZE // 2, 2)
            even, odd = (n.slice(pairs, i, i + 1, axis=4) for i in (0, 1))
            return n.reshape(n.concat(n.op("Neg", odd), even, axis=4), 0, 0, 0, SIZE)
        first, second = n.slice(x, 0, SIZE // 2, axis=3), n.slice(x, SIZE // 2, 2**63 - 1, axis=3)
        return n.concat(n.op("Neg", second), first, axis=3)

    def rotated(x: str) -> str:
        return n.op("Add", n.op("Mul", x, cos), n.op("Mul", turn(x), sin))

    a.close(a.join(a.scores(rotated(q), rotated(k)), v))


def position_bias(n: Net) -> None:
    """A learned bias for each head and pair of positions."""
    a = Attention(n)
    q, k, v = a.project()
    a.close(a.join(n.op("Add", a.scores(q, k), n.weight(1, HEADS, 5, 5, name="bias")), v))


def relative_bias(n: Net) -> None:
    """T5, Swin: a table (distances, heads) is looked up for each pair."""
    a = Attention(n)
    q, k, v = a.project()
    distance = n.const((np.arange(5)[:, None] - np.arange(5)) % 9)
    bias = n.unsqueeze(n.transpose(n.op("Gather", n.weight(9, HEADS, name="table"), distance), 2, 0, 1), 0)
    a.close(a.join(n.op("Add", a.scores(q, k), bias), v))


def alibi(n: Net) -> None:
    """A slope for each head times the distance."""
    a = Attention(n)
    q, k, v = a.project()
    distance = n.const(-np.abs(np.arange(5)[:, None] - np.arange(5)), np.float32)
    a.close(a.join(n.op("Add", a.scores(q, k), n.op("Mul", n.positive(HEADS, 1, 1, name="slopes"), distance)), v))


def cross(n: Net) -> None:
    """Keys and values come from another sequence of another length."""
    a = Attention(n)
    other = n.input("memory", 2, 3, 8)
    q = a.split(n.linear(a.x, WIDE, name="q"), HEADS)
    k, v = (a.split(n.linear(other, WIDE, name=name), HEADS) for name in "kv")
    a.close(a.join(a.scores(q, k), v))


def merged_batch(n: Net) -> None:
    """torch.nn.MultiheadAttention: (batch * heads, time, size) and products of rank 3."""
    a = Attention(n)
    x = n.transpose(a.x, 1, 0, 2)
    made = [n.transpose(n.reshape(n.linear(x, WIDE, name=name), 5, 2 * HEADS, SIZE), 1, 0, 2) for name in "qkv"]
    scores = n.op("Mul", n.op("MatMul", made[0], n.transpose(made[1], 0, 2, 1)), n.scalar(SIZE**-0.5))
    y = n.transpose(n.op("MatMul", n.op("Softmax", scores, axis=-1), made[2]), 1, 0, 2)
    w = n.weight(WIDE, 7, name="last.weight")
    n.output(n.op("MatMul", n.reshape(y, 5, 2, WIDE), w, name="last"))


def single(n: Net) -> None:
    """One head, as in a non-local block: its channels are ordinary ones."""
    a = Attention(n)
    q, k, v = (n.linear(a.x, WIDE, name=name) for name in "qkv")
    y = n.op("MatMul", n.op("Softmax", n.op("MatMul", q, n.transpose(k, 0, 2, 1)), axis=-1), v)
    a.close(y)


Write = Callable[[Net], None]
DIMS = (SIZE, SIZE)
"""Queries and keys share their dimensions, values have others."""
SHARED = (SIZE,)
"""A reshape to (3, heads, size) gives all three the same dimensions."""
CASES: dict[str, tuple[Write, tuple[int, ...], tuple[int, ...]]] = {
    # name: (graph, groups by heads, groups by dims)
    "plain": (plain, (HEADS,), DIMS),
    "scaled before the product": (scaled_before, (HEADS,), DIMS),
    "causal": (causal, (HEADS,), DIMS),
    "einsum": (einsum, (HEADS,), DIMS),
    "einsum in the projections": (einsum_projections, (HEADS,), DIMS),
    "grouped queries": (grouped, (2,), DIMS),
    "grouped queries with ALiBi": (lambda n: grouped(n, slopes=True), (2,), DIMS),
    "one key head": (one_key_head, (HEADS,), DIMS),
    "packed, 3 x heads x size": (lambda n: packed(n, "3hd"), (HEADS,), SHARED),
    "packed, heads x 3 x size": (lambda n: packed(n, "h3d"), (HEADS,), SHARED),
    "packed, heads x size x 3": (lambda n: packed(n, "hd3"), (HEADS,), SHARED),
    "packed and split": (packed_split, (HEADS,), DIMS),
    "packed and split within heads": (packed_split_in_heads, (HEADS,), DIMS),
    "rotary": (rotary, (HEADS,), (SIZE // 2, SIZE)),
    "rotary in pairs": (lambda n: rotary(n, interleaved=True), (HEADS,), (SIZE // 2, SIZE)),
    "position bias": (position_bias, (HEADS,), DIMS),
    "relative bias": (relative_bias, (HEADS,), DIMS),
    "ALiBi": (alibi, (HEADS,), DIMS),
    "cross": (cross, (HEADS,), DIMS),
    "batch and heads in one axis": (merged_batch, (HEADS,), DIMS),
    "single head": (single, (WIDE, WIDE), (WIDE, WIDE)),
}
MOVING: dict[str, tuple[Write, tuple[int, ...], tuple[int, ...]]] = {
    "plain": (lambda n: plain(n, DYNAMIC), (HEADS,), DIMS),
    "einsum": (lambda n: einsum(n, DYNAMIC), (HEADS,), DIMS),
    "grouped queries": (lambda n: grouped(n, DYNAMIC), (2,), DIMS),
    "packed, 3 x heads x size": (lambda n: packed(n, "3hd", DYNAMIC), (HEADS,), SHARED),
    "packed, heads x 3 x size": (lambda n: packed(n, "h3d", DYNAMIC), (HEADS,), SHARED),
}


@pytest.mark.parametrize("name", CASES)
def test_whole_heads(name: str) -> None:
    net = Net()
    CASES[name][0](net)
    checked(net.proto(), CASES[name][1])


@pytest.mark.parametrize("name", CASES)
def test_dims_within_all_heads(name: str) -> None:
    net = Net()
    CASES[name][0](net)
    checked(net.proto(), CASES[name][2], attention="dims")


@pytest.mark.parametrize("name", [name for name in CASES if name != "single head"])
def test_nothing_when_off(name: str) -> None:
    net = Net()
    CASES[name][0](net)
    coupling = checked(net.proto(), (), attention="off")
    assert len(coupling.frozen) > 1


@pytest.mark.parametrize("name", MOVING)
def test_batch_and_length_at_run_time(name: str) -> None:
    for mode, expected in zip(("heads", "dims"), MOVING[name][1:], strict=True):
        net = Net()
        MOVING[name][0](net)
        checked(net.proto(), expected, attention=mode)


def test_projections_shrink_together() -> None:
    """Half of the heads: half of each projection, and the scale is what it was."""
    net = Net()
    plain(net)
    pruned = halved(net.proto())
    shapes = {name: tensor.shape for name, tensor in pruned.weights.items() if name.endswith(".weight")}
    assert shapes == dict.fromkeys(["q.weight", "k.weight", "v.weight"], (8, WIDE // 2)) | {
        "last.weight": (WIDE // 2, 7)
    }
