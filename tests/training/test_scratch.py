"""New weights have the sizes that their role asks for; what does not train stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import image_model

from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.graph.normalize import normalize
from onnxprune.training.scratch import reinitialised

RNG = np.random.default_rng(0)


def test_a_network_with_batch_normalisation() -> None:
    model = image_model(width=64)
    training = [name for name in model.weights if not name.endswith((".mean", ".var", "head.bias"))]
    found, left = reinitialised(model, training, 0)
    assert left == []
    arrays = {name: weight.array() for name, weight in found.weights.items()}
    for name, fan in (("conv2.weight", 64 * 9), ("conv3.weight", 128 * 9)):
        assert arrays[name].std() == pytest.approx(np.sqrt(2 / fan), rel=0.02)
        assert not np.array_equal(arrays[name], model.weights[name].array())
        assert arrays[name].dtype == np.float32
    assert arrays["head.weight"].std() == pytest.approx(np.sqrt(1 / 64), rel=0.06)
    for part, value in (("scale", 1), ("shift", 0), ("mean", 0), ("var", 1)):
        assert (arrays[f"conv1.bn.{part}"] == value).all()
    again, _ = reinitialised(model, training, 0)
    other, _ = reinitialised(model, training, 1)
    assert np.array_equal(again.weights["conv1.weight"].array(), arrays["conv1.weight"])
    assert not np.array_equal(other.weights["conv1.weight"].array(), arrays["conv1.weight"])


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], shape: list[int]) -> Model:
    tensors = {n: numpy_helper.from_array(RNG.standard_normal(s).astype(np.float32) + 7, n) for n, s in weights.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return normalize(Model(proto, {name: Tensor.of_proto(item) for name, item in tensors.items()}))


def test_other_roles() -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up.w", "up.b"], ["a"], strides=[2, 2]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("Mul", ["b", "gamma"], ["c"]),
        helper.make_node("Add", ["c", "beta"], ["d"]),
        helper.make_node("Transpose", ["w"], ["w_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["d", "w_t"], ["e"]),
        helper.make_node("MatMul", ["e", "v"], ["f"]),
        helper.make_node("Mul", ["f", "scalar"], ["g"]),
        helper.make_node("Sub", ["g", "odd"], ["y"]),
    ]
    weights = {
        "up.w": (32, 48, 2, 2), "up.b": (48,), "slope": (48, 1, 1), "gamma": (48, 1, 1), "beta": (48, 1, 1),
        "w": (300, 8), "v": (300, 200), "scalar": (), "odd": (200,),
    }  # fmt: skip
    model = model_of(nodes, weights, [1, 32, 4, 4])
    found, left = reinitialised(model, list(weights), 0)
    arrays = {name: weight.array() for name, weight in found.weights.items()}
    assert left == ["odd", "scalar"]
    for name in left:
        assert np.array_equal(arrays[name], model.weights[name].array())
    assert arrays["up.w"].std() == pytest.approx(np.sqrt(2 / 32), rel=0.03)  # four products of which one each
    assert (arrays["up.b"] == 0).all()
    assert (arrays["slope"] == 0.25).all()
    assert (arrays["gamma"] == 1).all()
    assert (arrays["beta"] == 0).all()
    assert arrays["w"].std() == pytest.approx(np.sqrt(1 / 8), rel=0.05)  # it is read through a Transpose
    assert arrays["v"].std() == pytest.approx(np.sqrt(1 / 300), rel=0.02)


def test_what_does_not_train_stays() -> None:
    model = image_model()
    found, _ = reinitialised(model, ["conv1.weight"], 0)
    changed = [name for name, w in found.weights.items() if not np.array_equal(w.array(), model.weights[name].array())]
    assert changed == ["conv1.weight"]  # statistics were 0 and 1 before
