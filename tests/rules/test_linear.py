"""Matrix products: every transposition, every form of bias, every rank on either side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from building import MS, Net
from rows import Row, row


def fed(n: Net, *shape: int, channels: int = 8) -> str:
    """Channels at the end of an input of this shape."""
    return n.linear(n.input("x", *shape), channels, name="first")


def close(n: Net, y: str) -> None:
    """A layer that reads the last axis, whatever the rank."""
    n.output(n.linear(y, 5, name="last"))


def gemm(name: str, bias: Callable[[Net], list[str]], *units: int, a: int = 0, b: int = 0, **more: object) -> Row:
    """x (4, 8) @ w (8, 6) + bias, and the sum of its columns read by a layer."""
    opset = int(more.pop("opset", 17))  # type: ignore[call-overload]  # ints and mappings

    def write(n: Net) -> None:
        x = fed(n, 4, 5)
        w = n.weight(*((6, 8) if b else (8, 6)), name="second.weight")
        attributes = {key: value for key, value in (("transA", a), ("transB", b)) if value}
        y = n.op("Gemm", n.transpose(x, 1, 0) if a else x, w, *bias(n), name="second", **attributes, **more)
        close(n, y)

    return row(f"Gemm {name}", write, *(units or (8, 6)), opset=opset)


def summed_gemm(name: str, bias: Callable[[Net], list[str]], *units: int, frozen: dict[str, int] | None = None) -> Row:
    def write(n: Net) -> None:
        w = n.weight(8, 6, name="second.weight")
        close(n, n.reduce("ReduceSum", n.op("Gemm", fed(n, 4, 5), w, *bias(n), name="second"), 1, keepdims=1))

    return row(f"Gemm {name}, summed", write, *units, frozen=frozen or {})


def fused_gemm(activation: str) -> Row:
    def write(n: Net) -> None:
        w = n.weight(8, 6, name="second.weight")
        y = n.op(f"{MS}::FusedGemm", fed(n, 4, 5), w, n.weight(6), activation=activation, made=(4, 6))
        close(n, n.reduce("ReduceSum", y, 1, keepdims=1))

    if activation == "Sigmoid":
        return row("FusedGemm Sigmoid, summed", write, 8, frozen={"reduced": 6})
    return row(f"FusedGemm {activation}, summed", write, 8, 6)


def matmul(name: str, shape: tuple[int, ...], weight: tuple[int, ...], *units: int, **more: object) -> Row:
    """x (…, 8) @ w (…, 8, 6)"""

    def write(n: Net) -> None:
        close(n, n.op("MatMul", fed(n, *shape), n.weight(*weight, name="second.weight"), name="second"))

    return row(f"MatMul {name}", write, *(units or (8, 6)), **more)


def left(name: str, *weight: int, **more: object) -> Row:
    """w (…, 6, 8) @ x (…, 8, n): the channels are rows."""

    def write(n: Net) -> None:
        x = n.op("MatMul", n.weight(8, 5, name="first.weight"), n.input("x", 2, 5, 4), name="first")
        y = n.op("MatMul", n.weight(*weight, name="second.weight"), x, name="second")
        close(n, n.transpose(y, *range(len(n.shape(y)) - 2), -1 % len(n.shape(y)), -2 % len(n.shape(y))))

    return row(f"MatMul from the left {name}", write, 8, 6, **more)


def vector(n: Net) -> None:
    """A weight of rank 1 sums the channels up."""
    close(n, n.unsqueeze(n.op("MatMul", fed(n, 4, 5), n.weight(8, name="second.weight")), 1))


def vector_left(n: Net) -> None:
    x = n.op("MatMul", n.weight(8, 5, name="first.weight"), n.input("x", 5, 4), name="first")
    close(n, n.unsqueeze(n.op("MatMul", n.weight(8), x), 0))


def vector_activation(n: Net) -> None:
    x = n.op("MatMul", n.input("x", 5), n.weight(5, 8, name="first.weight"), name="first")
    close(n, n.unsqueeze(n.op("MatMul", x, n.weight(8, 6, name="second.weight"), name="second"), 0))


def heads(name: str, scale: bool, *units: int, kind: str = "MatMul", **more: object) -> Row:
    """Attention of 4 heads of size 3, written out."""

    def write(n: Net) -> None:
        x = n.input("x", 2, 5, 7)
        q, k, v = (
            n.transpose(n.reshape(n.linear(x, 12, name=name), 0, 0, 4, 3), 0, 2, *order)
            for name, order in (("q", (1, 3)), ("k", (3, 1)), ("v", (1, 3)))
        )
        if scale:
            q = n.op("Mul", q, n.scalar(0.5))
        if kind == "MatMul":
            y = n.op("MatMul", n.op("Softmax", n.op("MatMul", q, k), axis=-1), v)
        else:
            scores = n.op("Einsum", q, k, equation="bhqd,bhdk->bhqk")
            y = n.op("Einsum", n.op("Softmax", scores, axis=-1), v, equation="bhqk,bhkd->bhqd")
        close(n, n.reshape(n.transpose(y, 0, 2, 1, 3), 0, 0, 12))

    return row(f"attention {name}", write, *units, **more)


def product(n: Net) -> None:
    """Channels of one activation meet those of another in the sum."""
    x = n.input("x", 2, 5, 7)
    a, b = n.linear(x, 8, name="a"), n.linear(x, 8, name="b")
    close(n, n.op("MatMul", a, n.transpose(b, 0, 2, 1)))


def product_of_nonzero(n: Net) -> None:
    """After a sigmoid neither side holds zeros."""
    x = n.input("x", 2, 5, 7)
    a, b = (n.op("Sigmoid", n.linear(x, 8, name=name)) for name in "ab")
    close(n, n.op("MatMul", a, n.transpose(b, 0, 2, 1)))


def product_by_nonzero(n: Net) -> None:
    """One side that holds zeros is enough."""
    x = n.input("x", 2, 5, 7)
    a, b = n.op("Sigmoid", n.linear(x, 8, name="a")), n.linear(x, 8, name="b")
    close(n, n.op("MatMul", a, n.transpose(b, 0, 2, 1)))


def stretched_batch(n: Net) -> None:
    """A batch of one meets the channels as a batch."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.op("MatMul", x, n.input("m", 2, 1, 6, 4)))


def batched_weights(n: Net) -> None:
    """One matrix for each channel."""
    x = n.conv(n.image(), 8, name="first")
    n.close(n.op("MatMul", x, n.weight(8, 6, 4, name="second.weight"), name="second"))


def fused_matmul(a: int, b: int, batch: int = 0) -> Row:
    def write(n: Net) -> None:
        x = fed(n, 2, 4, 5)
        w = n.weight(*((6, 8) if b else (8, 6)), name="second.weight")
        x = n.transpose(x, 0, 2, 1) if a else x
        close(n, n.op(f"{MS}::FusedMatMul", x, w, transA=a, transB=b, alpha=0.5, made=(2, 4, 6)))

    return row(f"FusedMatMul transA={a} transB={b}", write, 8, 6)


def fused_batches(n: Net) -> None:
    x = fed(n, 2, 3, 4, 5)
    close(n, n.op(f"{MS}::FusedMatMul", x, n.weight(3, 4, 8, 6), transBatchA=1, made=(3, 4, 2, 6)))


def tied(n: Net) -> None:
    """An embedding whose table is the last layer, too."""
    table = n.weight(20, 8, name="table", scale=1.0)
    x = n.op("Gather", table, n.input("ids", 2, 5, dtype=7))
    x = n.op("Add", x, n.linear(n.op("Relu", n.linear(x, 6, name="up")), 8, name="down"))
    n.output(n.op("MatMul", x, n.transpose(table, 1, 0)))


def einsum(
    name: str, equation: str, weight: tuple[int, ...], *units: int, shape: tuple[int, ...] = (2, 4, 5), **more: object
) -> Row:
    def write(n: Net) -> None:
        x = fed(n, *shape)
        close(n, n.op("Einsum", x, n.weight(*weight, name="second.weight"), equation=equation, name="second"))

    return row(f"Einsum {name}", write, *units, **more)


def einsum_order(n: Net) -> None:
    n.close(
        n.op("Einsum", fed(n, 2, 4, 5), n.weight(8, 6, name="second.weight"), equation="btc,cd->bdt", name="second")
    )


def einsum_sum(n: Net) -> None:
    """A letter that disappears is summed over."""
    x = n.op("Sigmoid", fed(n, 2, 4, 5))
    close(n, n.op("Einsum", x, equation="btc->bt"))


def einsum_sum_of_zeros(n: Net) -> None:
    close(n, n.op("Einsum", fed(n, 2, 4, 5), equation="btc->bt"))


def einsum_three(n: Net) -> None:
    x = fed(n, 4, 5)
    close(
        n, n.op("Einsum", x, n.weight(8, 6, name="second.weight"), n.weight(6), equation="nc,cd,d->nd", name="second")
    )


def einsum_activations(n: Net) -> None:
    a, b = n.linear(n.input("x", 2, 4, 5), 8, name="a"), n.linear(n.input("y", 2, 3, 5), 8, name="b")
    close(n, n.op("Einsum", n.op("Tanh", a), n.op("Sigmoid", b), equation="bic,bjc->bij"))


def einsum_nonzero(n: Net) -> None:
    a, b = n.linear(n.input("x", 2, 4, 5), 8, name="a"), n.linear(n.input("y", 2, 3, 5), 8, name="b")
    close(n, n.op("Einsum", n.op("Sigmoid", a), n.op("Sigmoid", b), equation="bic,bjc->bij"))


def einsum_outer(n: Net) -> None:
    x = n.input("x", 4, 5)
    close(n, n.op("Flatten", n.op("Einsum", n.linear(x, 8, name="a"), n.linear(x, 6, name="b"), equation="ni,nj->nij")))


def einsum_diagonal(n: Net) -> None:
    """A letter twice in one term."""
    x = n.op("MatMul", n.input("x", 2, 8, 5), n.weight(5, 8, name="first.weight"), name="first")
    close(n, n.op("Einsum", x, equation="nii->ni"))


def held_heads(kind: str) -> Row:
    """A mask from outside knows every head: none can go, and their dimensions stay whole unless asked for."""

    def write(n: Net) -> None:
        x = n.input("x", 2, 5, 7)
        q, k = (
            n.transpose(n.reshape(n.linear(x, 12, name=name), 0, 0, 4, 3), 0, 2, *order)
            for name, order in (("q", (1, 3)), ("k", (3, 1)))
        )
        product = n.op("MatMul", q, k) if kind == "MatMul" else n.op("Einsum", q, k, equation="bhqd,bhdk->bhqk")
        scores = n.op("Add", product, n.input("mask", 2, 4, 5, 5))
        close(n, n.op("Softmax", scores, axis=-1))

    return row(f"{kind} of heads that are held", write, frozen={"other-factor": 24})


def sums(name: str, make: Callable[[Net, str], str], *units: int, **more: object) -> Row:
    """Behind the product its columns are summed up."""

    def write(n: Net) -> None:
        close(n, n.reduce("ReduceSum", make(n, fed(n, 2, 4, 5)), -1))

    return row(f"{name}, summed", write, *units, **more)


def second(n: Net, x: str) -> str:
    return n.op("MatMul", x, n.weight(8, 6, name="second.weight"), name="second")


def second_fused(n: Net, x: str) -> str:
    return n.op(f"{MS}::FusedMatMul", x, n.weight(8, 6, name="second.weight"), made=(2, 4, 6))


def second_einsum(n: Net, x: str) -> str:
    return n.op("Einsum", x, n.weight(8, 6, name="second.weight"), equation="btc,cd->btd", name="second")


def second_exp(n: Net, x: str) -> str:
    """A matrix that holds no zeros where it is cut."""
    return n.op("MatMul", x, n.op("Exp", n.weight(8, 6, name="second.weight", scale=0.3)), name="second")


def second_exp_einsum(n: Net, x: str) -> str:
    w = n.op("Exp", n.weight(8, 6, name="second.weight", scale=0.3))
    return n.op("Einsum", x, w, equation="btc,cd->btd", name="second")


ROWS = [
    sums("MatMul", second, 8, 6),
    sums("FusedMatMul", second_fused, 8, 6),
    sums("Einsum", second_einsum, 8, 6),
    sums("MatMul with a computed matrix", second_exp, 8, frozen={"reduced": 6}),
    sums("Einsum with a computed matrix", second_exp_einsum, 8, frozen={"reduced": 6}),
    held_heads("MatMul"),
    held_heads("Einsum"),
    gemm("plain", lambda n: [n.weight(6)]),
    gemm("transB", lambda n: [n.weight(6)], b=1),
    gemm("transA", lambda n: [n.weight(6)], a=1),
    gemm("transA and transB", lambda n: [n.weight(6)], a=1, b=1),
    gemm("opset 7", lambda n: [n.weight(6)], b=1, opset=7),
    gemm("opset 9", lambda n: [n.weight(6)], b=1, opset=9),
    gemm("alpha and beta", lambda n: [n.weight(6)], b=1, alpha=0.5, beta=2.0),
    gemm("without bias", lambda n: []),
    gemm("bias (1, N)", lambda n: [n.weight(1, 6)]),
    gemm("bias (M, N)", lambda n: [n.weight(4, 6)]),
    gemm("bias (M, 1)", lambda n: [n.weight(4, 1)]),
    gemm("bias (1, 1)", lambda n: [n.weight(1, 1)]),
    gemm("bias scalar", lambda n: [n.scalar(0.7)]),
    summed_gemm("bias (N)", lambda n: [n.weight(6)], 8, 6),
    summed_gemm("without bias", lambda n: [], 8, 6),
    summed_gemm("bias scalar", lambda n: [n.scalar(0.7)], 8, frozen={"reduced": 6}),
    summed_gemm("bias (M, 1)", lambda n: [n.weight(4, 1)], 8, frozen={"reduced": 6}),
    fused_gemm("Relu"),
    fused_gemm("Sigmoid"),
    matmul("2 x 2", (4, 5), (8, 6)),
    matmul("3 x 2", (2, 4, 5), (8, 6)),
    matmul("4 x 2", (2, 3, 4, 5), (8, 6)),
    matmul("2 x 3", (4, 5), (2, 8, 6)),
    matmul("3 x 3", (2, 4, 5), (2, 8, 6)),
    matmul("3 x 3 stretched", (2, 4, 5), (1, 8, 6)),
    matmul("4 x 3", (2, 3, 4, 5), (3, 8, 6)),
    matmul("4 x 4", (2, 3, 4, 5), (1, 3, 8, 6)),
    row("MatMul 2 x 1", vector, 8),
    row("MatMul 1 x 2 from the left", vector_left, 8),
    row("MatMul 1 x 2", vector_activation, 8, 6),
    left("2 x 3", 6, 8),
    left("3 x 3", 1, 6, 8),
    left("4 x 3", 3, 1, 6, 8),
    row("MatMul of activations", product, 8),
    row("MatMul of activations without zeros", product_of_nonzero, frozen={"sum-of-nonzero": 16}),
    row("MatMul of activations, one with zeros", product_by_nonzero, 8),
    row("MatMul with a stretched batch", stretched_batch, 8),
    row("MatMul with a matrix per channel", batched_weights, 8, frozen={"convolved": 4}),
    row("tied embedding", tied, 8, 6, frozen={"indexed": 20}),
    heads("by heads", False, 4),
    heads("scaled", True, 4),
    *(fused_matmul(a, b) for a in (0, 1) for b in (0, 1)),
    row("FusedMatMul with transposed batches", fused_batches, frozen={"unexpected-form": 8}, runs=False),
    einsum("as MatMul", "btc,cd->btd", (8, 6), 8, 6),
    einsum("as transposed MatMul", "btc,dc->btd", (6, 8), 8, 6),
    einsum("without an arrow", "ab,bc", (8, 6), 8, 6, shape=(4, 5)),
    einsum("with spaces", "b t c , c d -> b t d", (8, 6), 8, 6),
    einsum("with an ellipsis", "...c,cd->...d", (8, 6), 8, 6),
    einsum("with an ellipsis on both sides", "...tc,...cd->...td", (2, 8, 6), 8, 6),
    einsum("as Mul", "btc,c->btc", (8,), 8),
    row("Einsum with an order of its own", einsum_order, 8, 6),
    row("Einsum as a sum", einsum_sum_of_zeros, 8),
    row("Einsum as a sum of nonzeros", einsum_sum, frozen={"sum-of-nonzero": 8}),
    row("Einsum of three", einsum_three, 8),
    row("Einsum of activations", einsum_activations, 8),
    row("Einsum of activations without zeros", einsum_nonzero, frozen={"sum-of-nonzero": 16}),
    row("Einsum as an outer product", einsum_outer, 8, frozen={"other-factor": 6}),
    row("Einsum of a diagonal", einsum_diagonal, frozen={"fixed-axis": 8}),
    heads("by heads, as Einsum", False, 4, kind="Einsum"),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_linear(case: Row) -> None:
    case.check()


def test_what_a_product_makes_and_reads() -> None:
    """Roles decide which rows a criterion sees."""
    from oracle import prepared

    from onnxprune.analysis.analyze import analyze

    net = Net()
    x = fed(net, 4, 5)
    close(net, net.op("MatMul", x, net.weight(8, 6, name="second.weight"), name="second"))
    roles = {str(s): s.role for g in analyze(prepared(net.proto())).groups for s in g.weights}
    assert roles == {
        "first.weight:1": "out",
        "first.bias:0": "shift",
        "second.weight:0": "in",
        "second.weight:1": "out",
        "last.weight:0": "in",
    }
