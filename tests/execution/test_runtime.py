"""A session from a model computes what its file computes, wherever the weights lie, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.execution.runtime import run, session
from onnxprune.files.model import Model
from onnxprune.files.store import load, save
from onnxprune.files.tensors import Tensor

F = TensorProto.FLOAT
X = np.random.default_rng(5).standard_normal((2, 16, 9, 9), dtype=np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Two convolutions with batch norm between (onnxruntime folds it into weights) and an odd table."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (64, 16, 3, 3), "scale": (64,), "shift": (64,), "mean": (64,), "var": (64,), "w2": (32, 64, 3, 3)}
    weights = [numpy_helper.from_array(rng.random(shape, dtype=np.float32), name) for name, shape in shapes.items()]
    weights.insert(1, numpy_helper.from_array(rng.integers(0, 9, 1501, dtype=np.int8), "odd"))
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"]),
        helper.make_node("Cast", ["odd"], ["z"], to=F),
    ]
    inputs = [helper.make_tensor_value_info("x", F, ["n", 16, 9, 9])]
    outputs = [helper.make_tensor_value_info(name, F, None) for name in "yz"]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "m.onnx")
    return load(tmp_path / "m.onnx")


def from_file(path: Path) -> dict[str, np.ndarray]:
    made = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip("yz", made.run(["y", "z"], {"x": X}), strict=True))


def agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert np.ptp(array) > 1
        np.testing.assert_allclose(found[name], array, rtol=1e-5)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("external", [True, False])
def test_a_model_computes_what_its_file_computes(model: Model, tmp_path: Path, external: bool, optimize: bool) -> None:
    save(model.replace(external=external), tmp_path / "s.onnx")
    expected = from_file(tmp_path / "m.onnx")
    agree(from_file(tmp_path / "s.onnx"), expected)
    loaded = load(tmp_path / "s.onnx")
    assert (runtime._in_place(loaded) is not None) == external
    agree(run(session(loaded, optimize=optimize, threads=2), {"x": X}), expected)


def test_aligned_weights_are_read_in_place(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model.replace(external=True), tmp_path / "s.onnx")
    monkeypatch.setattr(runtime, "_written", None)
    agree(run(session(load(tmp_path / "s.onnx")), {"x": X}), from_file(tmp_path / "m.onnx"))


def test_a_replaced_file_is_not_read_in_place(model: Model, tmp_path: Path) -> None:
    save(model.replace(external=True), tmp_path / "s.onnx")
    expected = from_file(tmp_path / "s.onnx")
    old = load(tmp_path / "s.onnx")
    zeroed = {name: weight.zero(0, np.arange(weight.shape[0])) for name, weight in model.weights.items()}
    save(old.replace(weights=zeroed), tmp_path / "s.onnx")
    agree(run(session(old), {"x": X}), expected)


def test_edits_of_external_weights_reach_the_session(model: Model, tmp_path: Path) -> None:
    save(model.replace(external=True), tmp_path / "s.onnx")
    cut = {name: weight.zero(0, np.array([3])) for name, weight in load(tmp_path / "s.onnx").weights.items()}
    found = run(session(model.replace(weights=cut)), {"x": X})
    assert not found["y"][:, 3].any()
    assert found["y"][:, 4].any()


def test_edited_weights_reach_the_session_and_no_file_stays(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = run(session(model), {"x": X})
    cut = model.replace(weights={**model.weights, "w2": model.weights["w2"].zero(0, np.array([3]))})
    after = run(session(cut), {"x": X})
    assert before["y"][:, 3].any()
    assert not after["y"][:, 3].any()
    np.testing.assert_allclose(np.delete(after["y"], 3, 1), np.delete(before["y"], 3, 1), rtol=1e-5)
    assert list(scratch.iterdir()) == []


def test_types_that_numpy_lacks_reach_the_session(tmp_path: Path) -> None:
    arrays = {
        "bf": np.arange(600).reshape(2, 300).astype(ml_dtypes.bfloat16),
        "f8": (np.arange(1200) % 9).astype(ml_dtypes.float8_e4m3fn),
        "i4": (np.arange(3001) % 16 - 8).astype(ml_dtypes.int4),
    }
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    zero = numpy_helper.from_array(np.array(0, ml_dtypes.int4), "zero")
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b" * 3000])
    nodes = [
        helper.make_node("Cast", ["bf"], ["bf_out"], to=F),
        helper.make_node("Cast", ["f8"], ["f8_out"], to=F),
        helper.make_node("DequantizeLinear", ["i4", "one", "zero"], ["i4_out"]),
        helper.make_node("Identity", ["words"], ["words_out"]),
    ]
    weights = [*(numpy_helper.from_array(array, name) for name, array in arrays.items()), one, zero, words]
    outputs = [helper.make_tensor_value_info(f"{name}_out", F, None) for name in arrays]
    outputs.append(helper.make_tensor_value_info("words_out", TensorProto.STRING, None))
    proto = helper.make_model(helper.make_graph(nodes, "g", [], outputs, weights), ir_version=10)
    proto.opset_import[0].version = 21
    onnx.save(proto, tmp_path / "m.onnx")
    found = run(session(load(tmp_path / "m.onnx")), {})
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[f"{name}_out"], array.astype(np.float32))
    assert found["words_out"].tolist() == ["a", "b" * 3000]


def test_what_onnxruntime_refuses_is_one_line(model: Model) -> None:
    unknown = onnx.ModelProto()
    unknown.CopyFrom(model.proto)
    unknown.graph.node[2].op_type = "Nonsense"
    with pytest.raises(UserError, match=r"does not accept the model.*Nonsense") as caught:
        session(model.replace(proto=unknown))
    assert "\n" not in str(caught.value)
    made = session(model)
    with pytest.raises(UserError, match=r"cannot run the model.*x"):
        run(made, {})
    with pytest.raises(UserError, match="cannot run the model"):
        run(made, {"x": X[:, :3]})
    with pytest.raises(UserError, match=r"no execution provider 'Abacus'.*CPUExecutionProvider"):
        session(model, providers=["Abacus"])


def test_no_room_for_the_weights_is_one_line(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runtime.external, "write", full)
    with pytest.raises(UserError, match="No space left on device; set TMPDIR"):
        session(model)


def test_nothing_is_printed(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    unused = Tensor.of("unused", np.zeros(9, np.float32))  # onnxruntime warns about such
    run(session(model.replace(weights={**model.weights, "unused": unused})), {"x": X})
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_second_copy_of_the_weights_is_held(tmp_path: Path) -> None:
    """18 MB of weights: a copy would show in the anonymous memory of a fresh process."""
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x0", F, [1, 1060])], [helper.make_tensor_value_info("x4", F, None)]
    )
    weights = {f"w{i}": Tensor.of(f"w{i}", np.full((1060, 1060), 1e-3, np.float32)) for i in range(4)}
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(Model(proto, weights), tmp_path / "m.onnx")
    program = """if True:
        import sys, numpy as np, onnxruntime
        from onnxprune.execution.runtime import run, session
        from onnxprune.files.store import load
        def anonymous():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
        x = {"x0": np.ones((1, 1060), np.float32)}
        model = load(sys.argv[1])
        small = session(model, optimize=False)
        before = anonymous()
        kept = [session(model, optimize=False) for _ in range(4)]
        print([float(run(made, x)["x4"][0, 0]) for made in kept][0], anonymous() - before)
    """
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    value, grown = found.stdout.split()
    assert float(value) == pytest.approx(1.06**4, rel=1e-4)
    assert int(grown) < 18_000  # KiB; four copies would be 72,000
