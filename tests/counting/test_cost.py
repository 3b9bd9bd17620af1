"""Every formula against a number worked out by hand; what cannot be counted must be named, not passed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.analysis.coupling import Coupling, Group, Slot
from onnxprune.counting.cost import Held, cost, params, reach
from onnxprune.counting.macs import FORMULAS, formula
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.normalize import normalize


def model(graph: str, **weights: Any) -> Model:
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "vendor" : 1]>'
    proto = onnx.parser.parse_model(f"{head} g {graph}")
    return Model(proto, {name: Tensor.of(name, array) for name, array in weights.items()})


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


X = "(float[n, 4, 10, 10] x) => (float y)"
M = "(float[n, 5, 6] x) => (float y)"
B = zeros(1, dtype=np.uint8)

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "Conv": (
        X + "{ y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b) }",
        {"w": zeros(8, 4, 3, 3), "b": zeros(8)},
        8 * 5 * 5 * 4 * 9,
    ),
    "grouped Conv": (X + "{ y = Conv<group = 2>(x, w) }", {"w": zeros(8, 2, 3, 3)}, 8 * 8 * 8 * 2 * 9),
    "depthwise Conv": (
        X + '{ y = Conv<group = 4, auto_pad = "SAME_UPPER">(x, w) }',
        {"w": zeros(4, 1, 3, 3)},
        4 * 100 * 9,
    ),
    "Conv in 1-D": (
        "(float[n, 4, 10] x) => (float y) { y = Conv<dilations = [2]>(x, w) }",
        {"w": zeros(8, 4, 3)},
        8 * 6 * 12,
    ),
    "ConvTranspose": (X + "{ y = ConvTranspose<strides = [2, 2]>(x, w) }", {"w": zeros(4, 6, 3, 3)}, 400 * 6 * 9),
    "Gemm": ("(float[n, 6] x) => (float y) { y = Gemm(x, w, b) }", {"w": zeros(6, 7), "b": zeros(7)}, 42),
    "Gemm, transposed": (
        "(float[6, 3] x) => (float y) { y = Gemm<transA = 1, transB = 1>(x, w) }",
        {"w": zeros(7, 6)},
        3 * 6 * 7,
    ),
    "MatMul": (M + "{ y = MatMul(x, w) }", {"w": zeros(6, 7)}, 5 * 6 * 7),
    "MatMul, batched": (
        "(float[2, 1, 5, 6] x) => (float y) { y = MatMul(x, w) }",
        {"w": zeros(3, 6, 7)},
        2 * 3 * 5 * 6 * 7,
    ),
    "MatMul by a vector": (M + "{ y = MatMul(x, w) }", {"w": zeros(6)}, 5 * 6),
    "vector by vector": ("(float[6] x) => (float y) { y = MatMul(x, w) }", {"w": zeros(6)}, 6),
    "of activations": (M + "{ t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t) }", {}, 5 * 6 * 5),
    "Einsum": (M + '{ y = Einsum<equation = "bij,jk->bik">(x, w) }', {"w": zeros(6, 7)}, 5 * 6 * 7),
    "Einsum with dots": (M + '{ y = Einsum<equation = "...j, kj">(x, w) }', {"w": zeros(7, 6)}, 5 * 6 * 7),
    "Einsum, one operand": (M + '{ y = Einsum<equation = "bij->bji">(x) }', {}, 0),
    "LSTM": (
        '(float[9, n, 6] x) => (float y) { y = LSTM<hidden_size = 3, direction = "bidirectional">(x, w, r) }',
        {"w": zeros(2, 12, 6), "r": zeros(2, 12, 3)},
        9 * 2 * 12 * (6 + 3),
    ),
    "GRU": (
        "(float[9, 1, 6] x) => (float y) { y = GRU<hidden_size = 3>(x, w, r) }",
        {"w": zeros(1, 9, 6), "r": zeros(1, 9, 3)},
        9 * 9 * (6 + 3),
    ),
    "ConvInteger": (
        "(uint8[n, 4, 10, 10] x) => (int32 y) { y = ConvInteger(x, w) }",
        {"w": zeros(8, 4, 3, 3, dtype=np.uint8)},
        8 * 64 * 36,
    ),
    "QLinearConv": (
        "(uint8[n, 4, 10, 10] x) => (uint8 y) { y = QLinearConv(x, s, z, w, s, z, s, z) }",
        {"w": zeros(8, 4, 3, 3, dtype=np.uint8), "s": np.float32(1), "z": np.uint8(0)},
        8 * 64 * 36,
    ),
    "QLinearMatMul": (
        "(uint8[n, 5, 6] x) => (uint8 y) { y = QLinearMatMul(x, s, z, w, s, z, s, z) }",
        {"w": zeros(6, 7, dtype=np.uint8), "s": np.float32(1), "z": np.uint8(0)},
        210,
    ),
    "MatMulInteger": (
        "(uint8[n, 5, 6] x) => (int32 y) { y = MatMulInteger(x, w) }",
        {"w": zeros(6, 7, dtype=np.uint8)},
        210,
    ),
    "dequantised weight": (
        X + "{ v = DequantizeLinear(w, s) y = Conv(x, v) }",
        {"w": zeros(8, 4, 3, 3, dtype=np.int8), "s": np.float32(1)},
        8 * 64 * 36,
    ),
    "FusedConv and on": (
        X + "{ t = com.microsoft.FusedConv(x, w, b) g = com.microsoft.Gelu(t) y = Conv(g, v) }",
        {"w": zeros(8, 4, 3, 3), "b": zeros(8), "v": zeros(2, 8, 1, 1)},
        8 * 64 * 36 + 2 * 64 * 8,
    ),
    "FusedGemm": (
        "(float[n, 6] x) => (float y) { y = com.microsoft.FusedGemm<transB = 1>(x, w) }",
        {"w": zeros(7, 6)},
        42,
    ),
    "FusedMatMul": (M + "{ y = com.microsoft.FusedMatMul<transB = 1>(x, w) }", {"w": zeros(7, 6)}, 210),
    "FusedMatMul, transBatch": (
        "(float[5, 2, 6] x) => (float y) { y = com.microsoft.FusedMatMul<transBatchA = 1>(x, w) }",
        {"w": zeros(2, 6, 7)},
        2 * 5 * 6 * 7,
    ),
    "MatMulNBits": (
        M + "{ y = com.microsoft.MatMulNBits<K = 6, N = 7, bits = 4, block_size = 16>(x, w, s) }",
        {"w": zeros(7, 1, 8, dtype=np.uint8), "s": zeros(7)},
        210,
    ),
    "computed weight": (
        X + "{ s = Constant<value = int64[4] {8, 4, 1, 1}>() w = ConstantOfShape(s) y = Conv(x, w) }",
        {},
        3200,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_macs(name: str) -> None:
    graph, weights, expected = CASES[name]
    found = cost(model(graph, **weights))
    assert found.unknown == ()
    assert found.macs == sum(found.by_node.values()) == expected


def test_sizes_computed_by_arithmetic() -> None:
    """As TorchScript exports `x.chunk(2, 1)[1]`: the length of the slice is half of a length."""
    chunk = model(
        """(float[batch, 8, height, width] x) => (float y) {
           zero = Constant<value = int64 {0}>() one = Constant<value = int64 {1}>() two = Constant<value = int64 {2}>()
           first = Constant<value = int64[1] {0}>() axis = Constant<value = int64[1] {1}>()
           s = Shape(x) c = Gather(s, one) d = Add(c, one) h = Div(d, two) u = Unsqueeze(h, first) e = Mul(u, twice)
           half = Slice(x, u, e, axis) v = Conv(half, w) y = Conv(v, w) }""",
        w=zeros(4, 4, 1, 1), twice=np.array([2]),
    )  # fmt: skip
    found = cost(normalize(chunk), {"height": 3, "width": 5})
    assert found.unknown == ()
    assert found.macs == 2 * 4 * 15 * 4


RESIDUAL = """(float[n, 3, 32, 32] x) => (float[n, 10] y) {
  [stem] a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
  [first] b = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(a, w1)
  r = Relu(b)
  [second] c = Conv<pads = [1, 1, 1, 1]>(r, w2)
  [down] d = Conv<strides = [2, 2]>(a, w3)
  e = Add(c, d) f = GlobalAveragePool(e) g = Flatten(f)
  [head] y = Gemm<transB = 1>(g, w4, b4) }"""
RESIDUAL_WEIGHTS = {
    "w0": zeros(16, 3, 3, 3), "b0": zeros(16), "w1": zeros(32, 16, 3, 3), "w2": zeros(32, 32, 3, 3),
    "w3": zeros(32, 16, 1, 1), "w4": zeros(10, 32), "b4": zeros(10),
}  # fmt: skip


@pytest.fixture
def residual() -> Model:
    return model(RESIDUAL, **RESIDUAL_WEIGHTS)


def test_by_node(residual: Model) -> None:
    found = cost(residual)
    assert found.by_node == {
        "stem": 32 * 32 * 16 * 3 * 9,
        "first": 16 * 16 * 32 * 16 * 9,
        "second": 16 * 16 * 32 * 32 * 9,
        "down": 16 * 16 * 32 * 16,
        "head": 320,
    }
    assert found.params == sum(w.size for w in RESIDUAL_WEIGHTS.values()) == 15114
    assert found.bytes == 4 * 15114
    assert found.dims == {"n": 1}
    assert cost(residual, {"n": 3}).macs == 3 * found.macs
    assert cost(residual, {"x:0": 3}).macs == 3 * found.macs


def test_free_dimensions_are_bound_by_default() -> None:
    free = model("(float[batch, 3, height, width] x) => (float y) { y = Conv(x, w) }", w=zeros(2, 3, 1, 1))
    assert cost(free).macs == 224 * 224 * 6
    assert cost(free, {"height": 10, "width": 10}).macs == 600
    for dim in free.graph.input[0].type.tensor_type.shape.dim:
        dim.ClearField("value")
    assert cost(free).macs == 224 * 224 * 6
    free.graph.input[0].type.tensor_type.ClearField("shape")
    assert cost(free).dims == {"x:0": 1, "x:1": 3, "x:2": 224, "x:3": 224}
    with pytest.raises(UserError, match="no free dimension 'heights'"):
        cost(model("(float[height] x) => (float y) { y = Relu(x) }"), {"heights": 3})


UNKNOWN = {
    "another domain": M + "{ y = Relu(x) [odd] z = vendor.Mix(x) }",
    "onnxruntime's attention": M + "{ y = Relu(x) [odd] z = com.microsoft.Attention(x, x) }",
    "a shape that depends on data": M + "{ y = NonZero(x) f = Cast<to = 1>(y) [odd] z = MatMul(f, f) }",
    "three operands": M + '{ y = Relu(x) [odd] z = Einsum<equation = "bij,bij,bij->b">(x, x, x) }',
    "a branch": "(bool c, float[2, 2] x) => (float y) { y = Relu(x) [odd] z = If(c) <then_branch = t () => "
    "(float[2, 2] u) { u = MatMul(x, x) }, else_branch = e () => (float[2, 2] v) { v = Relu(x) }> }",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_counted_is_named(name: str) -> None:
    found = cost(model(UNKNOWN[name]))
    assert found.unknown == ("odd",)
    assert found.macs == 0


def test_branches_that_do_not_multiply_cost_nothing() -> None:
    assert cost(model(UNKNOWN["a branch"].replace("MatMul", "Add"))).reservations == ()


def test_weights_in_bodies_are_said_to_be_left_out() -> None:
    weight = "w = Constant <value = float[2, 2] {1.0, 2.0, 3.0, 4.0}>() u = Add(x, w)"
    found = cost(model(UNKNOWN["a branch"].replace("u = MatMul(x, x)", weight)))
    assert (found.params, found.inside) == (0, 4)
    assert found.reservations == ("The 4 parameters in bodies of If, Loop and Scan are not counted.",)


def test_params() -> None:
    made = model(
        "(float[2] x) => (float y) { k = Constant<value = float[3] {1.0, 2.0, 3.0}>() y = Add(x, x) }",
        f=zeros(2, 3), h=zeros(5, dtype=np.float16), q=zeros(4, 4, dtype=np.int8), zero=zeros(4, dtype=np.int8),
        i=zeros(6, dtype=np.int64),
    )  # fmt: skip
    assert params(made) == 6 + 5 + 16 + 3
    assert cost(made).bytes == 24 + 10 + 16 + 4 + 48


def test_what_normalisation_takes_apart_is_counted_once() -> None:
    shared = model(
        "(float[n, 4] x) => (float y) { a = Gemm(x, v, b) y = Gemm(a, w, b) }",
        v=zeros(4, 4), w=zeros(4, 4), b=zeros(4),
    )  # fmt: skip
    apart = normalize(shared)
    assert len(apart.weights) == 4
    assert (params(apart), cost(apart).bytes) == (params(shared), cost(shared).bytes) == (36, 144)
    cut = {name: w.take(0, np.arange(2)) if name == "b" else w for name, w in apart.weights.items()}
    assert params(apart.replace(weights=cut)) == 32 + 4 + 2, "once cut they differ"


def test_a_sequence_input_hides_nothing_else() -> None:
    made = model("(float[5, 6] x, float s) => (float y) { y = MatMul(x, w) }", w=zeros(6, 7))
    made.graph.input[1].type.CopyFrom(onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, None)))
    assert cost(made).macs == 210


def test_a_formula_is_registered_once() -> None:
    with pytest.raises(ValueError, match="Conv already has a formula"):
        formula("Conv")(FORMULAS["Conv"])


def slot(tensor: str, axis: int, size: int, role: str, positions: range | None = None, weight: bool = True) -> Slot:
    index = np.array(positions if positions is not None else range(size))
    return Slot(tensor, axis, size, weight, role, index, np.arange(len(index)))


def test_reach(residual: Model) -> None:
    stem = Group("stem", ("stem",), ("Conv",), 16, (
        slot("w0", 0, 16, "out"), slot("b0", 0, 16, "shift"), slot("w1", 1, 16, "in"), slot("w3", 1, 16, "in"),
        slot("a", 1, 16, "", weight=False),
    ))  # fmt: skip
    half = Group("first", ("first",), ("Conv",), 16, (
        slot("w1", 0, 32, "out", range(16)), slot("w2", 1, 32, "in", range(16)),
    ))  # fmt: skip
    total = cost(residual)
    found = reach(residual, Coupling((stem, half), (), {}), total)
    of = total.by_node
    assert found.by_group == {
        "stem": Held(432 + 16 + 4608 + 512, of["stem"] + of["first"] + of["down"]),
        "first": Held(2304 + 4608, of["first"] // 2 + of["second"] // 2),
    }
    assert found.macs == total.macs - of["head"]
    assert found.share == found.macs / total.macs
    sides = slot("w2", 0, 32, "out", range(16)), slot("w2", 1, 32, "in", range(16))
    both = Group("both", ("second",), ("Conv",), 16, sides)
    assert reach(residual, Coupling((both,), (), {}), total).by_group == {"both": Held(6912, of["second"] * 3 // 4)}
    assert reach(residual, Coupling((), (), {}), total).share == 0


def test_reach_behind_a_transposition_and_without_weights() -> None:
    made = model(
        "(float[2, 5, 6] x) => (float y) { t = Transpose(w) [a] h = MatMul(x, t) u = Transpose<perm = [0, 2, 1]>(h) "
        "[b] y = MatMul(h, u) }",
        w=zeros(8, 6),
    )
    heads = Group("a", ("a",), ("MatMul",), 4, (
        slot("w", 0, 8, "out", range(4)),
        slot("h", 2, 8, "", range(4), weight=False), slot("u", 1, 8, "", range(4), weight=False),
    ))  # fmt: skip
    total = cost(made)
    assert total.by_node == {"a": 2 * 5 * 6 * 8, "b": 2 * 5 * 8 * 5}
    assert reach(made, Coupling((heads,), (), {}), total).by_group == {"a": Held(24, 240 + 200)}
