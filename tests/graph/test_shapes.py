"""Shapes come from the graph and its small constants; odd models give less, never an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from onnxprune.files.model import Model
from onnxprune.files.store import load
from onnxprune.graph.normalize import normalize
from onnxprune.graph.shapes import infer

F = TensorProto.FLOAT


def model_of(folder: Path, custom: bool = False) -> Model:
    """Conv, a reshape by shape arithmetic over its output, a matrix product; optionally a custom op before the last."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "w": rng.random((8, 3, 5, 5), dtype=np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "minus": np.array([-1]),
        "fc": rng.random((8 * 16, 40), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[2] * 4, strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["c", "target"], ["flat"]),
        helper.make_node("Mystery", ["flat"], ["odd"], domain="my")
        if custom
        else helper.make_node("Relu", ["flat"], ["odd"]),
        helper.make_node("MatMul", ["odd", "fc"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", F, ["batch", 3, 8, None])]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", F, None)], weights)
    graph.value_info.append(helper.make_tensor_value_info("c", F, [7, 7, 7, 7]))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), folder / "m.onnx")
    return load(folder / "m.onnx")


def test_every_value_gets_its_shape_without_reading_big_weights(tmp_path: Path) -> None:
    model = normalize(model_of(tmp_path))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")  # reading a weight from here on would fail; the small ones are in memory
    found = infer(model, {"batch": 2, "x:3": 8})
    assert {name: found[name] for name in ("x", "c", "s", "target", "flat", "y")} == {
        "x": (F, (2, 3, 8, 8)),
        "c": (F, (2, 8, 4, 4)),
        "s": (TensorProto.INT64, (4,)),
        "target": (TensorProto.INT64, (2,)),
        "flat": (F, (2, 128)),
        "y": (F, (2, 40)),
    }
    assert found["w"] == (F, (8, 3, 5, 5))
    assert found["minus"] == (TensorProto.INT64, (1,))


def test_unbound_dims_keep_their_names_and_old_value_info_is_not_believed(tmp_path: Path) -> None:
    found = infer(model_of(tmp_path))
    assert found["x"] == (F, ("batch", 3, 8, None))
    assert found["c"][1] == ("batch", 8, 4, found["c"][1][3])  # type: ignore[index]  # not None here
    assert infer(model_of(tmp_path), {"x:0": 5})["y"] == (F, (5, 40))
    assert infer(model_of(tmp_path), {"x:1": 5})["x"] == (F, ("batch", 3, 8, None))  # a fixed size is not overruled


def test_shapes_follow_edited_weights(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    cut = model.replace(weights={**model.weights, "w": model.weights["w"].take(0, np.array([1, 2]))})
    assert infer(cut, {"batch": 1, "x:3": 8})["c"] == (F, (1, 2, 4, 4))


def test_custom_operators_leave_a_gap(tmp_path: Path) -> None:
    found = infer(model_of(tmp_path, custom=True), {"batch": 2, "x:3": 8})
    assert found["flat"] == (F, (2, 128))
    assert "odd" not in found
    assert found["fc"] == (F, (128, 40))


@pytest.mark.parametrize("fails", [1, 2])
def test_when_inference_fails_less_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    real, calls = shape_inference.infer_shapes, []

    def failing(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        calls.append(options["data_prop"])
        if len(calls) <= fails:
            raise RuntimeError("boom")
        return real(proto, **options)

    monkeypatch.setattr(shape_inference, "infer_shapes", failing)
    found = infer(model_of(tmp_path), {"batch": 2, "x:3": 8})
    assert calls == [True, False]
    assert ("c" in found) == (fails == 1)
    assert found["x"] == (F, (2, 3, 8, 8))
    assert found["w"] == (F, (8, 3, 5, 5))


@pytest.mark.parametrize("shape", [None, (), (0, 3)])
def test_unknown_rank_scalars_and_empty_values(tmp_path: Path, shape: Sequence[int] | None) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, F, shape) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:])), tmp_path / "m.onnx")
    assert infer(load(tmp_path / "m.onnx")) == {"x": (F, shape), "y": (F, shape)}
