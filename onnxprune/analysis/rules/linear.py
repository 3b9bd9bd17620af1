"""Matrix products: one axis of each side is summed over, the others go on."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.facts import Axis, fixed
from onnxprune.analysis.rules.conv import ZERO_STAYS
from onnxprune.analysis.rules.elementwise import broadcast
from onnxprune.analysis.rules.registry import Axes, Flow, Refuse, Value, rule


@rule("Gemm", "com.microsoft::FusedGemm")
def gemm(f: Flow, node: object, a: Value, b: Value, c: Value | None = None) -> Sequence[Axes]:
    row, inner = reversed(a.axes) if f.attr("transA", 0) else a.axes
    other, column = reversed(b.axes) if f.attr("transB", 0) else b.axes
    _mark(f, a, 0 if f.attr("transA", 0) else 1, 1 if f.attr("transA", 0) else 0)
    _mark(f, b, 1 if f.attr("transB", 0) else 0, 0 if f.attr("transB", 0) else 1)
    f.contract(inner, other)
    out: Axes = (row, column)
    if c is not None:
        for axis in range(c.rank):
            f.mark(c, axis, "shift")
        out = tuple(broadcast(f, [out, c.axes], "all"))
    if f.attr("activation", "") not in ZERO_STAYS:
        out = tuple(axis.with_zero(False) for axis in out)
    return [out]


@rule("MatMul", "com.microsoft::FusedMatMul")
def matmul(f: Flow, node: object, a: Value, b: Value) -> Sequence[Axes]:
    if f.attr("transBatchA", 0) or f.attr("transBatchB", 0):
        raise Refuse("unexpected-form", "a batch axis is transposed inside this FusedMatMul")
    left, right = list(a.axes), list(b.axes)
    if f.attr("transA", 0):
        left[-2:] = reversed(left[-2:])
    if f.attr("transB", 0):
        right[-2:] = reversed(right[-2:])
    _mark(f, a, -2 if f.attr("transA", 0) else -1, -1 if f.attr("transA", 0) else -2)
    _mark(f, b, -1 if f.attr("transB", 0) else -2, -2 if f.attr("transB", 0) else -1)
    if b.rank == 1:
        _mark(f, b, 0, None)
    f.contract(left[-1], right[-2] if b.rank > 1 else right[0])
    batch = broadcast(f, [tuple(left[:-2]), tuple(right[:-2])], "any")
    rows: list[Axis] = left[-2:-1]
    columns = right[-1:] if b.rank > 1 else []
    if not (a.weight or b.weight):
        f.heads(batch, [left[-1], *rows, *columns])
    return [(*batch, *rows, *columns)]


def _mark(f: Flow, value: Value, inner: int, outer: int | None) -> None:
    f.mark(value, inner, "in")
    if outer is not None:
        f.mark(value, outer, "out")


@rule("Einsum")
def einsum(f: Flow, node: object, *xs: Value) -> Sequence[Axes]:
    """Equal letters are tied; a letter that does not come out again is summed over."""
    terms, out = _parse(f.attr("equation", ""), [x.rank for x in xs])
    axes: dict[str, list[tuple[Value, int]]] = {}
    for term, x in zip(terms, xs, strict=True):
        for i, letter in enumerate(term):
            axes.setdefault(letter, []).append((x, i))
    made: dict[str, Axis] = {}
    for letter, places in axes.items():
        present = [x.axes[i] for x, i in places if x.axes[i].size != 1] or [fixed(1)]
        zero = any(axis.zero for axis in present)
        made[letter] = f.tie(*present, zero=zero)
        f.account(made[letter])
        if letter not in out and not zero:
            f.inexact(made[letter], "sum-of-nonzero", "is summed over although its cut positions would not be zero")
        for x, i in places:
            f.mark(x, i, "out" if letter in out and len(present) == 1 else "in")
    if len(xs) == 2 and not any(x.weight for x in xs):
        shared = [letter for letter in out if all(letter in term for term in terms)]
        f.heads([made[letter] for letter in shared], [made[letter] for letter in made if letter not in shared])
    return [tuple(made[letter] for letter in out)]


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of each term and of the result; an ellipsis becomes capital letters of its own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    hidden = max(
        (rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True) if "..." in t), default=0
    )
    wild = "".join(chr(0x391 + i) for i in range(hidden))
    full = []
    for term, rank in zip(terms, ranks, strict=True):
        own = rank - len(term.replace("...", ""))
        full.append(term.replace("...", wild[hidden - own :] if own else ""))
    if not arrow:
        letters = "".join(full)
        right = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(letters) - set(wild) if letters.count(c) == 1)
        )
    return full, right.replace("...", wild)
