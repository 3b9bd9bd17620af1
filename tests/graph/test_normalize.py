"""Normalising changes no result, gives every use of a small constant its own weight, and refuses what cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import UserError
from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.files.store import load, save
from onnxprune.graph.normalize import merge_clones, normalize, restore

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, shape: Sequence[int | str] | None = None, dtype: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int) -> TensorProto:
    rng = np.random.default_rng(abs(hash(shape)) % 1000)
    return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name)


def build(
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **more: object,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    settings: dict[str, object] = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8}
    return helper.make_model(graph, **(settings | more))  # type: ignore[arg-type]  # pass-through


def opened(proto: onnx.ModelProto, folder: Path) -> Model:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return load(folder / "m.onnx")


def outputs_of(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    made = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([out.name for out in made.get_outputs()], made.run(None, feeds), strict=True))


def check_same(folder: Path, model: Model, **feeds: np.ndarray) -> None:
    """The model computes what its file computes, and that is not nothing."""
    expected = outputs_of(folder / "m.onnx", feeds)
    found = run(session(model), feeds)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.any(array)
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)


X = np.random.default_rng(5).standard_normal((2, 4), dtype=np.float32)


def shared_bias() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b"], ["h"], name="fc1"),
        helper.make_node("Relu", ["h"], ["r"], name="act"),
        helper.make_node("Gemm", ["r", "w2", "b"], ["y"], name="fc2"),
        helper.make_node("Reshape", ["h", "shape"], ["a"], name="rs1"),
        helper.make_node("Reshape", ["r", "shape"], ["c"], name="rs2"),
        helper.make_node("MatMul", ["h", "w2"], ["z"], name="tied"),
    ]
    weights = [
        weight("w1", 4, 4),
        weight("w2", 4, 4),
        weight("b", 4),
        numpy_helper.from_array(np.array([8, 1]), "shape"),
    ]
    return build(nodes, weights, [value("x", ["n", 4])], [value(name) for name in "yacz"])


def test_shared_small_constants_are_cloned_and_matrices_are_not(tmp_path: Path) -> None:
    model = opened(shared_bias(), tmp_path)
    done = normalize(model)
    assert list(done.weights) == ["w1", "w2", "b", "shape", "b::fc2:2", "shape::rs2:1"]
    assert [list(node.input) for node in done.graph.node] == [
        ["x", "w1", "b"],
        ["h"],
        ["r", "w2", "b::fc2:2"],
        ["h", "shape"],
        ["r", "shape::rs2:1"],
        ["h", "w2"],
    ]
    check_same(tmp_path, done, x=X)
    assert list(model.graph.node[2].input) == ["r", "w2", "b"]  # the argument is as it was


def test_normalising_twice_changes_nothing(tmp_path: Path) -> None:
    once = normalize(opened(shared_bias(), tmp_path))
    twice = normalize(once)
    assert twice.proto == once.proto
    assert twice.weights.keys() == once.weights.keys()


def test_equal_clones_are_merged_again_and_others_stay(tmp_path: Path) -> None:
    model = opened(shared_bias(), tmp_path)
    done = normalize(model)
    back = merge_clones(done)
    assert list(back.weights) == list(model.weights)
    assert back.proto == model.proto
    check_same(tmp_path, back, x=X)
    cut = {**done.weights, "b::fc2:2": done.weights["b::fc2:2"].zero(0, np.array([1]))}
    assert list(merge_clones(done.replace(weights=cut)).weights) == ["w1", "w2", "b", "shape", "b::fc2:2"]
    both = {**cut, "b": done.weights["b"].zero(0, np.array([1]))}
    assert "b::fc2:2" not in merge_clones(done.replace(weights=both)).weights
    assert "b::fc2:2" in done.graph.node[2].input


def test_names_that_only_look_like_clones_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["h"], name="a1"),
        helper.make_node("Add", ["h", "b::a1:1"], ["y"], name="a2"),
    ]
    same = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in ("b", "b::a1:1")]
    model = opened(build(nodes, same, [value("x", ["n", 4])], [value("y")]), tmp_path)
    assert merge_clones(model) is model


def test_one_node_reading_a_constant_twice_gets_two(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["b", "b"], ["s"], name="add"),
        helper.make_node("Mul", ["x", "s"], ["y"], name="mul"),
    ]
    done = normalize(opened(build(nodes, [weight("b", 12)], [value("x", ["n", 12])], [value("y")]), tmp_path))
    assert list(done.graph.node[0].input) == ["b", "b::add:1"]
    check_same(tmp_path, done, x=np.ones((2, 12), np.float32))


def test_constants_of_every_kind_become_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["t"], value=weight("", 4)),
        helper.make_node("Constant", [], ["f"], value_float=0.5),
        helper.make_node("Constant", [], ["fs"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Constant", [], ["i"], value_int=1),
        helper.make_node("Constant", [], ["is"], value_ints=[-1, 2]),
        helper.make_node("Add", ["x", "t"], ["a"]),
        helper.make_node("Mul", ["a", "f"], ["b"]),
        helper.make_node("Add", ["b", "fs"], ["c"]),
        helper.make_node("Gather", ["c", "i"], ["d"], axis=1),
        helper.make_node("Reshape", ["c", "is"], ["e"]),
    ]
    proto = build(nodes, [], [value("x", ["n", 4])], [value("d"), value("e"), value("fs", [4])])
    done = normalize(opened(proto, tmp_path))
    assert {name: (item.dtype, item.shape) for name, item in done.weights.items()} == {
        "t": (F, (4,)),
        "f": (F, ()),
        "fs": (F, (4,)),
        "i": (I64, ()),
        "is": (I64, (2,)),
    }
    assert [node.op_type for node in done.graph.node] == ["Add", "Mul", "Add", "Gather", "Reshape"]
    check_same(tmp_path, done, x=X)


def test_sparse_and_string_constants_stay_nodes(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "v"), weight("", 1), [4])
    nodes = [
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
        helper.make_node("Constant", [], ["t"], value_string="a"),
        helper.make_node("Identity", ["s"], ["y"]),
        helper.make_node("Identity", ["t"], ["z"]),
    ]
    done = normalize(opened(build(nodes, [], [], [value("y"), value("z")]), tmp_path))
    assert [node.op_type for node in done.graph.node] == ["Constant", "Constant", "Identity", "Identity"]


def test_inputs_that_are_initializers_become_plain_weights(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")
    inputs = [value("w", [4, 4]), value("x", [2, 4]), value("b", [4])]
    proto = build([node], [weight("w", 4, 4), weight("b", 4)], inputs, [value("y")], ir_version=3)
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", 8))
    done = normalize(opened(proto, tmp_path))
    assert [item.name for item in done.graph.input] == ["x"]
    assert done.proto.ir_version == 4
    check_same(tmp_path, done, x=X)


def test_default_values_are_inputs_again_when_they_are_written(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc"),
        helper.make_node("Gemm", ["y", "v", "b"], ["z"], name="fc2"),
    ]
    inputs = [value("w", [4, "out"]), value("x", ["n", 4]), value("b", [4]), value("unread", [4])]
    weights = [weight(name, 4, 4) for name in "wv"] + [weight("b", 4), weight("unread", 4)]
    proto = build(nodes, weights, inputs, [value("z", ["n", 4])])
    done = normalize(opened(proto, tmp_path))
    assert [item.name for item in done.graph.input] == ["x"]
    assert normalize(done).inputs == done.inputs
    back = restore(done)
    assert list(back.graph.input) == inputs[:3]  # in their order; what nobody reads has no value any more
    assert list(back.weights) == ["w", "v", "b"]
    save(back, tmp_path / "back.onnx")
    onnx.checker.check_model(tmp_path / "back.onnx", full_check=True)
    for feeds in ({"x": X}, {"x": X, "b": np.full(4, 5.0, np.float32)}):
        old, new = (outputs_of(tmp_path / name, feeds) for name in ("m.onnx", "back.onnx"))
        np.testing.assert_array_equal(new["z"], old["z"])
    cut = restore(done.replace(weights={**done.weights, "w": done.weights["w"].take(1, np.arange(3))}))
    assert cut.graph.input[0] == inputs[0]  # a free length stays free
    cut = restore(done.replace(weights={**done.weights, "b": done.weights["b"].take(0, np.arange(3))}))
    assert cut.graph.input[2] == value("b", [3])


def test_functions_are_inlined_with_their_subgraphs(tmp_path: Path) -> None:
    inner = [helper.make_node("Mul", ["a", "s"], ["m"]), helper.make_node("Scale2", ["m"], ["b"], domain="my")]
    deeper = [helper.make_node("Constant", [], ["two"], value_float=2.0), helper.make_node("Mul", ["a", "two"], ["b"])]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    functions = [
        helper.make_function("my", "Scale", ["a", "s"], ["b"], inner, imports),
        helper.make_function("my", "Scale2", ["a"], ["b"], deeper, imports),
    ]
    nodes = [
        helper.make_node("Scale", ["x", "w"], ["h"], domain="my", name="first"),
        helper.make_node("Scale", ["h", "w"], ["y"], domain="my", name="second"),
        helper.make_node("Add", ["y", "y"], ["z"], name="last"),
    ]
    proto = build(
        nodes, [weight("w", 4)], [value("x", ["n", 4])], [value("z")], opset_imports=imports, functions=functions
    )
    done = normalize(opened(proto, tmp_path))
    assert not done.proto.functions
    assert [node.op_type for node in done.graph.node] == ["Mul", "Mul", "Mul", "Mul", "Add"]
    assert done.graph.node[-1].name == "last"
    assert len(done.weights) == 4
    check_same(tmp_path, done, x=X)


@pytest.mark.parametrize("version", [15, 18])
def test_functions_for_another_opset_are_inlined_too(tmp_path: Path, version: int) -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    body = [helper.make_node("Softmax", ["a"], ["c"]), helper.make_node("Squeeze", ["c"], ["b"])]
    function = helper.make_function("my", "Soft", ["a"], ["b"], body, [helper.make_opsetid("", version)])
    nodes = [helper.make_node("Soft", ["x"], ["y"], domain="my", name="call")]
    proto = build(nodes, [], [value("x", [2, 4])], [value("y")], opset_imports=imports, functions=[function])
    done = normalize(opened(proto, tmp_path))
    assert [node.op_type for node in done.graph.node] == ["Softmax", "Squeeze"]
    check_same(tmp_path, done, x=X)


def test_a_function_that_cannot_be_inlined_stays_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> onnx.ModelProto:
        raise RuntimeError("boom")

    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    function = helper.make_function("my", "Soft", ["a"], ["b"], [helper.make_node("Softmax", ["a"], ["b"])], imports)
    nodes = [helper.make_node("Soft", ["x"], ["y"], domain="my")]
    proto = build(nodes, [], [value("x", [2, 4])], [value("y")], opset_imports=imports, functions=[function])
    monkeypatch.setattr("onnx.inliner.inline_local_functions", failing)
    model = opened(proto, tmp_path)
    done = normalize(model)
    assert done.graph.node[0].op_type == "Soft"
    assert len(done.proto.functions) == 1
    assert not model.graph.node[0].name  # named in the copy only
    check_same(tmp_path, done, x=X)


def branching() -> onnx.ModelProto:
    """Both branches read `b` and `h` from outside; `b` feeds two nodes of the main graph too."""
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(op, ["h", "b"], ["out"])], name, [], [value("out")])
        for name, op in (("then", "Add"), ("else", "Mul"))
    }
    nodes = [
        helper.make_node("Add", ["x", "b"], ["h"], name="a1"),
        helper.make_node("Add", ["h", "b"], ["k"], name="a2"),
        helper.make_node("If", ["flag"], ["picked"], name="if", **branches),
        helper.make_node("Add", ["picked", "k"], ["y"], name="a3"),
    ]
    inputs = [value("x", ["n", 4]), value("flag", [], TensorProto.BOOL)]
    return build(nodes, [weight("b", 4)], inputs, [value("y")])


def test_captured_constants_are_neither_cloned_nor_dropped(tmp_path: Path) -> None:
    done = normalize(opened(branching(), tmp_path))
    assert list(done.weights) == ["b"]
    for flag in (True, False):
        check_same(tmp_path, done, x=X, flag=np.array(flag))


def test_unsorted_graphs_are_sorted_through_their_subgraphs(tmp_path: Path) -> None:
    proto = branching()
    order = [proto.graph.node[index] for index in (2, 1, 3, 0)]
    model = opened(proto, tmp_path)
    scrambled = onnx.ModelProto()
    scrambled.CopyFrom(proto)
    del scrambled.graph.node[:]
    scrambled.graph.node.extend(order)
    del scrambled.graph.initializer[:]
    done = normalize(model.replace(proto=scrambled))
    assert [node.name for node in done.graph.node] == ["a1", "if", "a2", "a3"]
    check_same(tmp_path, done, x=X, flag=np.array(True))


def test_names_are_completed_and_made_unique(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="twin"),
        helper.make_node("Relu", ["b"], ["c"], name="twin"),
        helper.make_node("Relu", ["c"], ["y"], name="Relu_a"),
    ]
    done = normalize(opened(build(nodes, [], [value("x", ["n", 4])], [value("y")]), tmp_path))
    assert [node.name for node in done.graph.node] == ["Relu_a_2", "twin", "twin_c", "Relu_a"]


def test_what_is_dead_or_stale_goes_and_what_is_named_elsewhere_stays(tmp_path: Path) -> None:
    proto = build([helper.make_node("Relu", ["x"], ["h"])], [], [value("x", ["n", 4])], [value("h"), value("out")])
    proto.graph.initializer.extend([weight("out", 3), weight("dead", 3), weight("scale", 1), weight("bound", 2)])
    proto.graph.value_info.append(value("h", [9, 9]))
    proto.graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(key="S", value="scale")
    proto.training_info.add().update_binding.add(key="bound", value="h")
    helper.set_model_props(proto, {"k": "v"})
    done = normalize(opened(proto, tmp_path))
    assert set(done.weights) == {"out", "scale", "bound"}
    assert not done.graph.value_info
    assert done.proto.metadata_props[0].value == "v"


def test_quantised_matrices_stay_shared(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.arange(16, dtype=np.int8).reshape(4, 4), "q")
    mask = numpy_helper.from_array(np.ones((4, 4), bool), "mask")
    nodes = [helper.make_node("Identity", [name], [f"{name}{copy}"]) for name in ("q", "mask") for copy in range(2)]
    outputs = [value(f"{name}{copy}") for name in ("q", "mask") for copy in range(2)]
    done = normalize(opened(build(nodes, [table, mask], [], outputs), tmp_path))
    assert list(done.weights) == ["q", "mask", "mask::Identity_mask1:0"]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([("Relu", ["gone"], ["y"])], "'Relu_y' reads 'gone', which nothing produces"),
        ([("Relu", ["x"], ["h"])], "nothing produces its output 'y'"),
        ([("Relu", ["x"], ["y"]), ("Relu", ["x"], ["y"])], "'y'.*two producers"),
        ([("Relu", ["x"], ["w"]), ("Relu", ["w"], ["y"])], "'w'.*two producers"),
        ([("Relu", ["x"], ["x"]), ("Relu", ["x"], ["y"])], "'x'.*two producers"),
        (
            [("Add", ["x", "k"], ["h"]), ("Add", ["h", "w"], ["k"]), ("Relu", ["k"], ["y"])],
            "'Add_h' is part of a cycle",
        ),
        ([("Constant", [], ["w"]), ("Relu", ["w"], ["y"])], "'w'"),
    ],
)
def test_graphs_that_cannot_run_are_refused(
    tmp_path: Path, nodes: list[tuple[str, list[str], list[str]]], says: str
) -> None:
    made = [
        helper.make_node(op, given, made, **({"value_int": 1} if op == "Constant" else {})) for op, given, made in nodes
    ]
    with pytest.raises(UserError, match=says):
        normalize(opened(build(made, [weight("w", 4)], [value("x", ["n", 4])], [value("y")]), tmp_path))


def test_the_long_name_of_the_default_domain_is_shortened(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")
    done = normalize(opened(build([node], [], [value("x", ["n", 4])], [value("y")]), tmp_path))
    assert done.graph.node[0].domain == ""
