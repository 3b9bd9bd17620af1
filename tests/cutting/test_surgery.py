"""What a plan does to stored sizes: shared constants, models pruned before, lengths only known at run time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.cutting.plan import Cut, Plan, SlotRef
from onnxprune.errors import UserError
from onnxprune.files.model import Model

F = TensorProto.FLOAT


def weight(name: str, *shape: int) -> TensorProto:
    rng = np.random.default_rng(len(name))
    return numpy_helper.from_array((rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32), name)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def opened(folder: Path, nodes, inputs, outputs, weights) -> Model:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(o, F, None) for o in outputs], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return onnxprune.load(folder / "m.onnx")


def halved(model: Model, ratio: float = 0.5) -> tuple[Model, Plan]:
    coupling = onnxprune.analyze(model, strict=True)
    plan = onnxprune.select(coupling, onnxprune.score(model, coupling, "l2"), ratio=ratio)
    return onnxprune.apply(model, plan), plan


def attention(folder: Path, heads: int = 4, size: int = 8) -> Model:
    """Exported with a dynamic batch: heads and batch are merged, and the batch is got back by division."""
    width = heads * size
    value = helper.make_tensor_value_info("x", F, ["batch", "time", width])
    nodes = [helper.make_node("MatMul", ["x", f"w{part}"], [part], name=part) for part in "qkv"]
    # batch * heads, computed; then (batch * heads, time, size)
    nodes += [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], name="batch"),
        helper.make_node("Mul", ["batch", "heads"], ["both"], name="both"),
        helper.make_node("Concat", ["both", "minus", "size"], ["flat"], axis=0, name="flat"),
    ]
    for part in "qkv":
        nodes += [
            helper.make_node("Reshape", [part, "split"], [f"{part}4"], name=f"{part}_split"),
            helper.make_node("Transpose", [f"{part}4"], [f"{part}t"], perm=[0, 2, 1, 3], name=f"{part}_turn"),
            helper.make_node("Reshape", [f"{part}t", "flat"], [f"{part}f"], name=f"{part}_flat"),
        ]
    nodes += [
        helper.make_node("Transpose", ["kf"], ["kT"], perm=[0, 2, 1], name="turn"),
        helper.make_node("MatMul", ["qf", "kT"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1, name="softmax"),
        helper.make_node("MatMul", ["weights", "vf"], ["mixed"], name="mixed"),
        helper.make_node("Shape", ["mixed"], ["mixed_shape"], name="mixed_shape"),
        helper.make_node("Gather", ["mixed_shape", "zero"], ["merged"], name="merged"),
        helper.make_node("Div", ["merged", "heads"], ["again"], name="again"),
        helper.make_node("Concat", ["again", "heads", "minus", "size"], ["back"], axis=0, name="back"),
        helper.make_node("Reshape", ["mixed", "back"], ["out4"], name="unflat"),
        helper.make_node("Transpose", ["out4"], ["outt"], perm=[0, 2, 1, 3], name="unturn"),
        helper.make_node("Concat", ["again", "minus", "width"], ["join"], axis=0, name="join"),
        helper.make_node("Reshape", ["outt", "join"], ["out3"], name="joined"),
        helper.make_node("MatMul", ["out3", "wo"], ["y"], name="project"),
    ]
    weights = [weight(f"w{part}", width, width) for part in "qkvo"]
    weights += [ints("zero", 0), ints("heads", heads), ints("minus", -1), ints("size", size), ints("width", width)]
    weights += [ints("split", 0, 0, heads, size)]
    return opened(folder, nodes, [value], ["y"], weights)


def test_heads_merged_with_the_batch_are_cut_and_hold_at_any_batch(tmp_path: Path) -> None:
    model = attention(tmp_path)
    pruned, plan = halved(model)
    assert {group.name: (group.units, group.removed) for group in plan.groups} == {"q": (4, 2)}
    assert plan.periods()
    for batch in (1, 2, 3):
        verdict = onnxprune.verify(model, pruned, plan, dims={"batch": batch, "time": 5})
        assert verdict.ok, verdict.notes
        assert (verdict.moved or 0) > 1e-2


def test_a_pruned_model_can_be_pruned_again(tmp_path: Path) -> None:
    model, _ = halved(attention(tmp_path, heads=8), 0.25)
    onnxprune.save(model, tmp_path / "once.onnx")
    once = onnxprune.load(tmp_path / "once.onnx")
    twice, plan = halved(once, 0.34)
    assert onnxprune.verify(once, twice, plan, dims={"batch": 3, "time": 5}).ok


@pytest.mark.parametrize("reader", ["body", "output"])
def test_a_constant_with_another_reader_is_not_rewritten_under_it(tmp_path: Path, reader: str) -> None:
    value = helper.make_tensor_value_info("x", F, ["n", 3, 1, 2])
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv"),
        helper.make_node("Reshape", ["a", "target"], ["b"], name="flat"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="product"),
    ]
    outputs, inputs = ["y"], [value]
    if reader == "body":
        shown = [helper.make_tensor_value_info(name, F, None) for name in ("t", "e")]
        taken = helper.make_graph([helper.make_node("Reshape", ["u", "target"], ["t"])], "taken", [], shown[:1])
        other = helper.make_graph([helper.make_node("Identity", ["u"], ["e"])], "other", [], shown[1:])
        nodes.append(helper.make_node("If", ["flag"], ["z"], then_branch=taken, else_branch=other, name="if"))
        inputs += [helper.make_tensor_value_info("u", F, ["k", 128])]
        inputs += [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
        outputs.append("z")
    weights = [weight("w1", 64, 3, 1, 1), weight("w2", 128, 16), ints("target", -1, 128)]
    model = opened(tmp_path, nodes, inputs, outputs, weights)
    if reader == "output":
        model.graph.output.append(helper.make_tensor_value_info("target", TensorProto.INT64, [2]))
    pruned, plan = halved(model)
    assert pruned.weights["target"].array().tolist() == [-1, 128]
    flat = next(node for node in pruned.graph.node if node.name == "flat")
    assert pruned.weights[flat.input[1]].array().tolist() == [-1, 64]
    assert onnxprune.verify(model, pruned, plan).ok


def test_a_constant_with_one_reader_keeps_its_name(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", F, ["n", 3, 1, 2])
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv"),
        helper.make_node("Reshape", ["a", "target"], ["b"], name="flat"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="product"),
    ]
    model = opened(
        tmp_path, nodes, [value], ["y"], [weight("w1", 64, 3, 1, 1), weight("w2", 128, 16), ints("target", -1, 128)]
    )
    pruned, _ = halved(model)
    assert pruned.weights["target"].array().tolist() == [-1, 64]


def test_a_plan_that_cuts_an_output_or_misses_a_weight_does_not_verify(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", F, ["n", 4])
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["y"], name="product")]
    model = opened(tmp_path, nodes, [value], ["y"], [weight("w1", 4, 6)])
    cut = Cut("product", (1,), (SlotRef("w1", 1, 6, "out"), SlotRef("y", 1, 6)))
    plan = Plan((cut,))
    verdict = onnxprune.verify(model, onnxprune.apply(model, plan), plan)
    assert not verdict.ok
    assert "cuts axis 1 of the graph output 'y'" in verdict.notes[0]
    inner = Plan((Cut("product", (1,), (SlotRef("w1", 1, 6, "out"),)),))
    verdict = onnxprune.verify(model, model, inner)
    assert "'w1' has the shape (4, 6) where the plan leaves (4, 5)" in verdict.notes[0]


def test_another_interface_does_not_verify(tmp_path: Path) -> None:
    model = attention(tmp_path)
    pruned, plan = halved(model)
    proto = onnx.ModelProto()
    proto.CopyFrom(pruned.proto)
    proto.graph.output[0].name = "scores"
    verdict = onnxprune.verify(model, pruned.replace(proto=proto), plan, mode="structural")
    assert not verdict.ok
    assert "['scores'] where the original has ['y']" in verdict.notes[0]
    with pytest.raises(UserError, match="verification failed"):
        verdict.require()
