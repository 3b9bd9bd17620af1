"""Shape arithmetic: what `evaluate` says without running is what running gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxprune.graph.contents import LIMIT, TRACED, Entry, constant, evaluate, sizes_of
from onnxprune.graph.sizes import BINARY, Size, multiply

INT64 = TensorProto.INT64
OLD, NEW = 11, 18
"""Opsets with axes as attributes and as inputs."""


def run(node: onnx.NodeProto, arrays: Sequence[np.ndarray | None], opset: int) -> list[np.ndarray]:
    feeds = {name: array for name, array in zip(node.input, arrays, strict=True) if array is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=name) for name in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [np.asarray(x) for x in ReferenceEvaluator(model).run(None, feeds)]  # type: ignore[arg-type]  # arrays


def agree(op: str, *arrays: Any, opset: int = NEW, outputs: int = 1, **attributes: Any) -> None:
    """`evaluate` gives what the reference computes."""
    given = [None if a is None else np.asarray(a) for a in arrays]
    names = ["" if a is None else f"x{i}" for i, a in enumerate(given)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attributes)
    contents = [None if a is None else constant(a) for a in given]
    found = evaluate(node, contents, given[0].shape if given and given[0] is not None else None)
    assert found is not None, f"{op} was not followed"
    for mine, want in zip(found, run(node, given, opset), strict=True):
        assert mine.shape == want.shape
        assert sizes_of(mine) == [int(n) for n in want.ravel()]


@st.composite
def vectors(draw: st.DrawFn, least: int = 1, most: int = 5, low: int = -9, high: int = 9) -> np.ndarray:
    return np.array(draw(st.lists(st.integers(low, high), min_size=least, max_size=most)), np.int64)


few = settings(max_examples=25)


@few
@given(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min", "Equal"]), vectors(3, 3), vectors(3, 3))
def test_binary(op: str, a: np.ndarray, b: np.ndarray) -> None:
    agree(op, a, b)
    agree(op, a, b[0])
    agree(op, a.reshape(3, 1), b)


@few
@given(st.sampled_from(["Div", "Mod"]), vectors(3, 3, -40, 40), vectors(3, 3, 1, 9), st.booleans())
def test_division_truncates_and_remainders_follow_the_divisor(
    op: str, a: np.ndarray, b: np.ndarray, negative: bool
) -> None:
    agree(op, a, -b if negative else b)


def test_division_of_numbers_beyond_floating_point() -> None:
    agree("Div", [2**61 + 3], [7])


def test_division_by_zero_is_not_evaluated() -> None:
    node = helper.make_node("Div", ["a", "b"], ["y"])
    (found,) = evaluate(node, [constant(np.array([4])), constant(np.array([0]))], (1,)) or ()
    assert sizes_of(found) == [None]


@few
@given(vectors(4, 4), st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([1, 2, -1, -2]))
def test_slice(x: np.ndarray, start: int, end: int, step: int) -> None:
    agree("Slice", x, [start], [end], [0], [step])
    agree("Slice", x, [start], [end])
    huge = 2**63 - 1
    agree("Slice", x, [start], [huge], [-1], [1])
    agree("Slice", x, [-1], [-huge], [0], [-1])


@few
@given(vectors(4, 4), st.integers(-4, 3), st.integers(-4, 4))
def test_slice_by_attributes(x: np.ndarray, start: int, end: int) -> None:
    node = helper.make_node("Slice", ["x"], ["y"], starts=[start], ends=[end], axes=[0])
    (found,) = evaluate(node, [constant(x)], x.shape) or ()
    assert sizes_of(found) == x[start:end].tolist()


@few
@given(vectors(3, 3), st.lists(st.integers(-3, 2), min_size=1, max_size=4))
def test_gather(x: np.ndarray, picks: list[int]) -> None:
    agree("Gather", x, np.array(picks))
    agree("Gather", x, np.array(picks[0]))
    agree("Gather", x, np.array([picks]))
    agree("Gather", x.reshape(1, 3), np.array(picks), axis=1)


def test_gather_beyond_the_end_is_left_to_the_runtime() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"])
    assert evaluate(node, [constant(np.array([1, 2])), constant(np.array([2]))], (2,)) is None


@few
@given(vectors(2, 2), vectors(3, 3), vectors(1, 1))
def test_concat_and_split(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    agree("Concat", a, b, c, axis=0)
    joined = np.concatenate([a, b, c])
    agree("Split", joined, [1, 3, 2], outputs=3)
    agree("Split", joined, [1, 3, 2], outputs=3, axis=0)
    agree("Split", joined, outputs=3, num_outputs=3)
    agree("Split", joined, outputs=2, opset=OLD, split=[2, 4])


@few
@given(vectors(6, 6))
def test_moves(x: np.ndarray) -> None:
    agree("Identity", x)
    agree("Neg", x)
    agree("Reshape", x, [2, 3])
    agree("Reshape", x, [-1, 2])
    agree("Reshape", x[:1], [1])
    agree("Expand", x[:1], [1])
    agree("Expand", x, [2, 1])
    for axes in ([0], [1], [-1], [0, 2]):
        agree("Unsqueeze", x, axes)
        agree("Unsqueeze", x, opset=OLD, axes=axes)
    agree("Squeeze", x.reshape(1, 6, 1), [0])
    agree("Squeeze", x.reshape(1, 6, 1), [-1, 0])
    agree("Squeeze", x.reshape(1, 6, 1))
    agree("Squeeze", x.reshape(1, 6, 1), opset=OLD, axes=[2])
    agree("Cast", x, to=TensorProto.INT32)


@few
@given(vectors(1, 4, 1, 9))
def test_products_and_fills(x: np.ndarray) -> None:
    agree("ReduceProd", x)
    agree("ReduceProd", x, keepdims=0)
    agree("ReduceProd", x, opset=OLD, axes=[0])
    value = onnx.numpy_helper.from_array(np.array([3], np.int64))
    agree("ConstantOfShape", x[:2], value=value)


@few
@given(st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([1, 2, -1, -3]))
def test_range(start: int, stop: int, step: int) -> None:
    agree("Range", *(np.array(n, np.int64) for n in (start, stop, step)))


@few
@given(vectors(3, 3), vectors(3, 3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_where(a: np.ndarray, b: np.ndarray, which: list[bool]) -> None:
    agree("Where", np.array(which), a, b)
    agree("Where", np.array(which[0]), a, b[:1])


@pytest.mark.parametrize(("start", "end"), [(None, None), (1, None), (-2, None), (0, 2), (1, -1), (-9, 9)])
def test_shape(start: int | None, end: int | None) -> None:
    bounds = {key: value for key, value in (("start", start), ("end", end)) if value is not None}
    node = helper.make_node("Shape", ["x"], ["y"], **bounds)
    (found,) = evaluate(node, [None], (2, "H", None, 4)) or ()
    assert sizes_of(found) == [2, "H", None, 4][start:end]
    assert [entry.sources for entry in found] == [frozenset([("x", i)]) for i in range(4)[start:end]]


def test_every_traced_operator_is_tested_here() -> None:
    tested = "Shape Concat Where Identity Cast Gather Slice Unsqueeze Squeeze Reshape Expand Split ReduceProd Range"
    assert set(tested.split()) | {"ConstantOfShape", "Neg", *BINARY} == TRACED


def test_what_is_too_large_or_no_integer_is_data() -> None:
    assert constant(np.zeros(LIMIT + 1, np.int64)) is None
    assert constant(np.zeros(LIMIT, np.int64)) is not None
    assert constant(np.zeros(3, np.float32)) is None
    big = helper.make_node("ConstantOfShape", ["x"], ["y"], value=onnx.numpy_helper.from_array(np.array([1])))
    assert evaluate(big, [constant(np.array([LIMIT + 1]))], (1,)) is None


def test_numbers_remember_where_they_come_from() -> None:
    a, b = Entry(2, frozenset([("x", 0)])), Entry(3, frozenset([("y", 1)]))
    one, two = np.array([a, None], object)[:1], np.array([b, None], object)[:1]

    def sources(op: str, *xs: Any) -> frozenset[tuple[str, int]]:
        node = helper.make_node(op, [f"x{i}" for i in range(len(xs))], ["y"])
        (found,) = evaluate(node, xs, None) or ()
        return frozenset().union(*(entry.sources for entry in found))

    both = {("x", 0), ("y", 1)}
    assert sources("Mul", one, two) == both
    assert sources("Where", two, one, one) == both, "a choice depends on what it was decided by"
    assert sources("ReduceProd", np.concatenate([one, two])) == both
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    (found,) = evaluate(cast, [one], None) or ()
    assert (found[0].size, found[0].sources) == (None, {("x", 0)}), "a fraction is not followed, its origin is"


def test_an_operator_that_is_not_listed_ends_the_trace() -> None:
    assert evaluate(helper.make_node("Sqrt", ["x"], ["y"]), [constant(np.array([4]))], (1,)) is None
    assert evaluate(helper.make_node("Add", ["x", "z"], ["y"]), [constant(np.array([4])), None], (1,)) is None


# Spelling

NAMES = ("a", "b", "2*a", "2*a+1", "a + 1", "a//2", "batch-size")
"""Lengths as exporters name them."""


def value_of(name: str, a: int, b: int) -> int:
    return {"a": a, "b": b, "2*a": 2 * a, "2*a+1": 2 * a + 1, "a + 1": a + 1, "a//2": a // 2, "batch-size": 7 * b}[name]


def expression(rng: random.Random, depth: int, points: Sequence[tuple[int, int]]) -> tuple[Size, list[int]]:
    """A random computation: how it is spelled, and its values at some lengths."""
    if depth == 0 or rng.random() < 0.2:
        if rng.random() < 0.4:
            number = rng.randint(1, 6)
            return number, [number] * len(points)
        name = rng.choice(NAMES)
        return name, [value_of(name, a, b) for a, b in points]
    op = rng.choice(["Mul", "Mul", "Add", "Sub", "Div"])
    (x, xs), (y, ys) = expression(rng, depth - 1, points), expression(rng, depth - 1, points)
    if op == "Div" and 0 in ys:
        return x, xs
    number = {"Mul": lambda p, q: p * q, "Add": lambda p, q: p + q, "Sub": lambda p, q: p - q}.get(op)
    values = [number(p, q) if number else int(p / q) for p, q in zip(xs, ys, strict=True)]
    return BINARY[op](x, y), values


def test_equal_spellings_are_equal_lengths() -> None:
    """Else a Reshape would be matched at borders where there are none."""
    rng = random.Random(0)
    points = [(11, 5), (24, 13), (37, 101)]
    seen: dict[Size, list[int]] = {}
    repeated = 0
    for _ in range(20_000):
        spelled, values = expression(rng, 3, points)
        if spelled is not None:
            repeated += spelled in seen and not isinstance(spelled, int)
            assert seen.setdefault(spelled, values) == values, spelled
    assert repeated > 1000


@pytest.mark.parametrize(
    ("a", "b", "product"),
    [
        (2, 3, 6),
        ("n", 1, "n"),
        (0, "n", 0),
        (0, None, 0),
        (None, 2, None),
        ("n", 12, "12*n"),
        ("12*n", 2, "24*n"),
        ("m", "n", "m*n"),
        ("n", "m", "m*n"),
        ("2*n+1", 3, "3*(2*n+1)"),
        ("n + 1", "m", "(n + 1)*m"),
        ("3*(2*n+1)", 2, "6*(2*n+1)"),
    ],
)
def test_a_product_has_one_spelling(a: Size, b: Size, product: Size) -> None:
    assert multiply(a, b) == product


def test_only_what_is_sure_compares() -> None:
    equal = BINARY["Equal"]
    assert [equal("n", "n"), equal("n", "m"), equal("n", -1), equal("n", 4), equal(None, 4)] == [1, None, 0, None, None]
