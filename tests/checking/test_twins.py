"""Half floats and roundings: the twins that are compared instead, and that they are twins."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from building import MS, Net
from onnx import TensorProto, helper, numpy_helper
from oracle import opened, prepared, units
from quantised import rounded, scales, step, to_float, to_int

from onnxprune.analysis.analyze import analyze
from onnxprune.checking.twins import is_half, unrounded, widened
from onnxprune.checking.verify import verify
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.normalize import normalize
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

HALVES: dict[str, tuple[int, Any]] = {
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}


def recast(proto: onnx.ModelProto, code: int, dtype: Any) -> Model:
    """The same graph with all floats in another type."""
    for item in (*proto.graph.input, *proto.graph.output):
        if item.type.tensor_type.elem_type == TensorProto.FLOAT:
            item.type.tensor_type.elem_type = code
    model = opened(proto)
    weights = {
        name: Tensor.of(name, t.array().astype(dtype)) if t.dtype == TensorProto.FLOAT else t
        for name, t in model.weights.items()
    }
    return normalize(model.replace(weights=weights))


def pictures(n: Net) -> None:
    x = n.op("Relu", n.norm(n.conv(n.image(), 8, 3, name="first")))
    n.close(n.op("Add", n.conv(x, 8, name="second"), x))


def matrices(n: Net) -> None:
    x = n.op("Tanh", n.linear(n.input("x", 2, 4, 6), 12, name="first"))
    x = n.op("LayerNormalization", n.linear(x, 6, name="second"), n.positive(6), n.weight(6))
    n.output(n.op("MatMul", x, n.weight(6, 5, name="last.weight"), name="last"))


def halved(model: Model) -> tuple[Plan, Model]:
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling), ratio=0.5)
    return plan, apply(model, plan)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("write", [pictures, matrices])
def test_half_floats_prune(write: Any, kind: str) -> None:
    code, dtype = HALVES[kind]
    net = Net(20)
    write(net)
    model = recast(net.proto(), code, dtype)
    plan, pruned = halved(model)
    verdict = verify(model, pruned, plan)
    assert verdict.ok, verdict.notes
    assert verdict.error is not None
    assert verdict.error < 1e-5
    assert (verdict.moved or 0) > 1e-3
    assert any("compared in float32" in note for note in verdict.notes)
    assert {t.dtype for t in pruned.weights.values() if t.array().dtype.kind not in "iu"} == {code}
    assert {item.type.tensor_type.elem_type for item in pruned.graph.input} == {code}


def test_double_prunes() -> None:
    net = Net(20)
    matrices(net)
    model = recast(net.proto(), TensorProto.DOUBLE, np.float64)
    plan, pruned = halved(model)
    verdict = verify(model, pruned, plan)
    assert verdict.ok, verdict.notes
    assert verdict.error is not None
    assert verdict.error < 1e-12
    assert verdict.notes == ()


def test_a_wrong_cut_of_half_floats_is_seen() -> None:
    """Float32 must not hide what is wrong."""
    net = Net(20)
    pictures(net)
    model = recast(net.proto(), TensorProto.FLOAT16, np.float16)
    plan, pruned = halved(model)
    spoilt = dict(pruned.weights)
    spoilt["last.weight"] = Tensor.of("last.weight", spoilt["last.weight"].array()[:, ::-1])
    assert not verify(model, pruned.replace(weights=spoilt), plan).ok


def test_half_floats_that_do_not_run_after_the_cut_fail() -> None:
    net = Net(20)
    pictures(net)
    model = recast(net.proto(), TensorProto.FLOAT16, np.float16)
    plan, pruned = halved(model)
    broken = dict(pruned.weights) | {"last.weight": model.weights["last.weight"]}
    verdict = verify(model, pruned.replace(weights=broken), plan)
    assert not verdict.ok


def mixed() -> Model:
    """Half weights, a float32 input, casts, constants in the branches of an If, a half ConstantOfShape."""
    branches = {}
    for name, value in (("then_branch", 2.0), ("else_branch", 3.0)):
        tensor = numpy_helper.from_array(np.array([value], np.float16))
        node = helper.make_node("Constant", [], [f"{name}.out"], value=tensor)
        out = helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT16, [1])
        branches[name] = helper.make_graph([node], name, [], [out])
    net = Net(20)
    x = net.op("Cast", net.input("x", 4, 6), to=TensorProto.FLOAT16)
    y = net.op("MatMul", x, net.const(net.rng.standard_normal((6, 8)), np.float16, name="w"))
    y = net.op("Mul", y, net.op("If", net.const(True), **branches))
    fill = net.op("ConstantOfShape", net.ints(8), value=numpy_helper.from_array(np.array([0.5], np.float16)))
    net.output(net.op("Cast", net.op("Add", y, fill), to=TensorProto.FLOAT))
    return prepared(net.proto())


def test_widened_computes_the_same() -> None:
    model = mixed()
    assert is_half(model)
    wide = widened(model)
    assert not is_half(wide)
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    (want,), (have,) = run(session(model), feeds).values(), run(session(wide), feeds).values()
    np.testing.assert_allclose(have, want, rtol=1e-2, atol=2e-2)


def test_widened_leaves_the_original_alone() -> None:
    model = mixed()
    before = model.proto.SerializeToString()
    widened(model)
    assert model.proto.SerializeToString() == before
    assert model.weights["w"].dtype == TensorProto.FLOAT16


def test_float32_is_not_half() -> None:
    net = Net()
    pictures(net)
    assert not is_half(prepared(net.proto()))


# Roundings


WIDTH = 80


def deep(n: Net, depth: int = 4, *, stored: bool = False) -> None:
    """So many activations in so many steps that a difference in the seventh digit becomes a step somewhere."""
    fine = {} if stored else {"scale": 3e-4, "zero": 32768, "dtype": np.uint16}
    x = n.input("image", 4, 3, 12, 12)
    for i in range(depth):
        x = to_float(n, to_int(n, x, **fine), **fine)
        shape = (WIDTH, 3 if i == 0 else WIDTH, 3, 3)
        w = n.weight(*shape, name=f"w{i}")
        if stored:
            w = n.const(n.rng.integers(-90, 91, shape), np.int8, name=f"q{i}")
            w = n.op("DequantizeLinear", w, scales(n, WIDTH, 0.0015), n.const([0] * WIDTH, np.int8), axis=0)
        x = n.op("Relu", n.op("Conv", x, w, pads=[1, 1, 1, 1]))
    n.close(to_float(n, to_int(n, x, **fine), **fine))


def test_deep_networks_with_roundings_verify() -> None:
    net = Net(21)
    deep(net)
    model = prepared(net.proto())
    coupling = analyze(model, strict=True)
    assert units(coupling) == (WIDTH,) * 4
    said: list[str] = []
    for seed in range(3):
        plan = select(coupling, score(model, coupling, "random", seed=seed), ratio=0.5)
        verdict = verify(model, apply(model, plan), plan)
        assert verdict.ok, verdict.notes
        assert verdict.error is not None
        assert verdict.error <= 1e-5
        assert (verdict.moved or 0) > 1e-2
        said += verdict.notes
    assert any("without the rounding" in note for note in said), "too shallow to show anything"


def test_unrounded_keeps_weights_quantised() -> None:
    net = Net(17)
    deep(net, 2, stored=True)
    model = prepared(net.proto())
    smooth = unrounded(model)
    assert smooth is not None
    kinds = [node.op_type for node in smooth.graph.node]
    assert kinds.count("DequantizeLinear") == 2
    assert "QuantizeLinear" not in kinds
    feeds = {"image": np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)}
    (want,), (have,) = run(session(model), feeds).values(), run(session(smooth), feeds).values()
    gap = np.abs(want - have).max() / np.abs(want).max()
    assert 1e-6 < gap < 0.2


@pytest.mark.parametrize("kind", ["MaxPool", "Transpose", "Reshape", "Concat", "Slice"])
def test_unrounded_passes_what_only_moves(kind: str) -> None:
    net = Net(17)
    x = to_int(net, net.image())
    moves = {
        "MaxPool": lambda: net.op("MaxPool", x, kernel_shape=[2, 2]),
        "Transpose": lambda: net.transpose(x, 0, 1, 3, 2),
        "Reshape": lambda: net.reshape(x, 2, 3, 36, 1),
        "Concat": lambda: net.concat(x, x, axis=1),
        "Slice": lambda: net.slice(x, 0, 2, axis=2),
    }
    net.close(to_float(net, moves[kind]()))
    smooth = unrounded(prepared(net.proto()))
    assert smooth is not None
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in smooth.graph.node}
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    run(session(smooth), feeds)


def computing(n: Net) -> None:
    x = to_int(n, n.image())
    w, point = n.const(n.rng.integers(-90, 91, (8, 3, 1, 1)), np.int8), n.const(0, np.int8)
    n.close(to_float(n, n.op("QLinearConv", x, *step(n), w, scales(n), point, *step(n))))


def adding(n: Net) -> None:
    a, b = to_int(n, n.image()), to_int(n, n.op("Neg", "image"))
    y = n.op(f"{MS}::QLinearAdd", a, *step(n), b, *step(n), *step(n))
    n.made[to_float(n, y)] = (2, 3, 6, 6)
    n.output(n.op("Conv", n.nodes[-1].output[0], n.weight(5, 3, 1, 1)))


def leaving(n: Net) -> None:
    """The quantised tensor is itself an answer."""
    n.output(to_int(n, n.conv(n.image(), 4)))


@pytest.mark.parametrize("write", [computing, adding, leaving, pictures])
def test_there_is_no_smooth_twin(write: Any) -> None:
    net = Net(17)
    write(net)
    assert unrounded(prepared(net.proto())) is None


def test_unrounded_of_float_weights_keeps_their_rounding() -> None:
    """Training with quantisation rounds the weights at every run; they are the same on both sides."""
    net = Net(17)
    scale, point = net.const(0.01, np.float32), net.const(0, np.int8)
    w = net.op(
        "DequantizeLinear", net.op("QuantizeLinear", net.weight(8, 3, 1, 1, name="w"), scale, point), scale, point
    )
    net.close(net.op("Conv", rounded(net, net.image()), w))
    smooth = unrounded(prepared(net.proto()))
    assert smooth is not None
    assert [node.op_type for node in smooth.graph.node].count("QuantizeLinear") == 1
