"""What onnxruntime's tools make of a model: which numbers are inside, and what is refused with a reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxprune.errors import UserError
from onnxprune.execution.inputs import Feeds
from onnxprune.files.model import Model
from onnxprune.files.store import load, save
from onnxprune.files.tensors import Tensor
from onnxprune.machine.providers import CPU
from onnxprune.timing import variants
from onnxprune.timing.variants import check_variant, int8_form, make_variant

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
RNG = np.random.default_rng(0)


def model(graph: str, **weights: Any) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    return Model(proto, {name: Tensor.of(name, array) for name, array in weights.items()})


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape, dtype=np.float32)


@pytest.fixture
def dense() -> Model:
    graph = "(float[batch, 64] x) => (float[batch, 16] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    return model(graph, w=normal(64, 64) / 8, v=normal(64, 16) / 8)


@pytest.fixture
def convolved() -> Model:
    graph = "(float[batch, 3, 12, 12] x) => (float[batch, 8, 10, 10] y) { h = Conv(x, w) y = Relu(h) }"
    return model(graph, w=normal(8, 3, 3, 3) / 5)


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def run(variant: str, source: Model, feeds: Feeds, provider: str = CPU) -> Path:
        target = tmp_path / "made" / f"{variant}.onnx"
        target.parent.mkdir(exist_ok=True)
        make_variant(variant, source, target, feeds=feeds, provider=provider)
        left = [path.name for path in target.parent.iterdir() if not path.name.startswith(".")]
        assert left == [target.name], "nothing that is only needed in between is left"
        return target

    return run


def outputs(path: Path, feeds: Feeds) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=[CPU])
    return session.run(None, feeds)[0]  # type: ignore[no-any-return]  # onnxruntime has no types


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_half_inside_and_float_outside(make: Make, dense: Model, tmp_path: Path) -> None:
    save(dense, tmp_path / "dense.onnx")
    feeds = {"x": normal(4, 64)}
    made = make("fp16", dense, feeds)
    proto = onnx.load(made)
    assert {item.data_type for item in proto.graph.initializer} == {FLOAT16}
    declared = [value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)]
    assert declared == [FLOAT, FLOAT]
    before, after = outputs(tmp_path / "dense.onnx", feeds), outputs(made, feeds)
    assert np.abs(before).max() > 1
    assert 0 < np.abs(after - before).max() < 1e-2


def test_int8_is_dynamic_where_it_multiplies_matrices(make: Make, dense: Model, tmp_path: Path) -> None:
    save(dense, tmp_path / "dense.onnx")
    feeds = {"x": normal(4, 64)}
    made = make("int8", dense, feeds)
    assert ops(made).count("MatMulInteger") == 2
    before, after = outputs(tmp_path / "dense.onnx", feeds), outputs(made, feeds)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_int8_is_static_where_it_convolves(make: Make, convolved: Model, tmp_path: Path) -> None:
    save(convolved, tmp_path / "convolved.onnx")
    feeds = {"x": normal(2, 3, 12, 12)}
    made = make("int8", convolved, feeds)
    assert "ConvInteger" not in ops(made)
    assert ops(made).count("QuantizeLinear") == 2, "what it reads and what it writes"
    kinds = {item.name: item.data_type for item in onnx.load(made).graph.initializer}
    assert kinds["w_quantized"] == onnx.TensorProto.INT8
    assert kinds["x_zero_point"] == onnx.TensorProto.UINT8
    before, after = outputs(tmp_path / "convolved.onnx", feeds), outputs(made, feeds)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max(), "the ranges are those of this input"


def test_other_providers_get_symmetric_numbers(make: Make, dense: Model) -> None:
    made = make("int8", dense, {"x": normal(4, 64)}, "CUDAExecutionProvider")
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(made).graph.initializer}
    zeros = [array for name, array in weights.items() if name.endswith("_zero_point")]
    assert len(zeros) > 2
    assert all(array.dtype == np.int8 and not array.any() for array in zeros)


def test_the_form_follows_the_work() -> None:
    graph = "(float[1, 4, 8, 8] x) => (float y) { h = Conv<pads = [1, 1, 1, 1]>(x, w) f = Flatten(h) y = MatMul(f, v) }"
    conv = 4 * 4 * 9 * 64
    for width, form in ((conv // 256, "static"), (conv // 256 + 1, "dynamic")):
        assert int8_form(model(graph, w=normal(4, 4, 3, 3), v=normal(256, width)), CPU) == form
    assert int8_form(model("(float[2] x) => (float y) { y = Relu(x) }"), CPU) == "dynamic"
    assert int8_form(model("(float[2] x) => (float y) { y = Relu(x) }"), "CUDAExecutionProvider") == "static"


def test_weights_that_are_inputs_too(make: Make, dense: Model) -> None:
    for name, shape in (("w", (64, 64)), ("v", (64, 16))):
        dense.graph.input.append(onnx.helper.make_tensor_value_info(name, FLOAT, shape))
        dense.graph.value_info.append(onnx.helper.make_tensor_value_info(name, FLOAT, shape))
    dense.proto.ir_version = 3
    made = make("fp16", dense, {"x": normal(4, 64)})
    assert [value.name for value in onnx.load(made).graph.input] == ["x"]
    assert outputs(made, {"x": normal(4, 64)}).shape == (4, 16)


def refused(make: Make, variant: str, source: Model, feeds: Feeds) -> str:
    with pytest.raises(UserError) as caught:
        make(variant, source, feeds)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HALF = "(float16[2] x) => (float16 y) { y = Add(x, w) }"


def test_refusals(make: Make) -> None:
    half = model(HALF, w=np.ones(2, np.float16))
    feeds = {"x": np.ones(2, np.float16)}
    assert refused(make, "fp16", half, feeds) == "there is nothing in it that is float32"
    assert "finds nothing in it that it could quantise" in refused(make, "int8", half, feeds)
    graph = "(float[2] x) => (float y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    quantised = model(graph, s=np.float32(0.1), z=np.int8(0))
    assert refused(make, "int8", quantised, {"x": np.ones(2, np.float32)}) == "it is quantised already"


def test_what_goes_wrong_in_a_tool_is_one_line(make: Make, convolved: Model) -> None:
    said = refused(make, "int8", convolved, {"x": normal(2, 4, 12, 12)})
    assert said.startswith("onnxruntime's tool fails: ")
    assert "channel" in said.casefold() or "dimension" in said.casefold()


def test_a_crash_of_a_tool_is_a_refusal(make: Make, dense: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, -11, "", "")

    monkeypatch.setattr(variants.subprocess, "run", die)
    assert refused(make, "fp16", dense, {"x": normal(4, 64)}) == "the process that makes fp16 ended with code -11"


def test_too_big(make: Make, dense: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "SINGLE_FILE_LIMIT", 1000)
    assert "fp16 is made of models up to 2 GB" in refused(make, "fp16", dense, {"x": normal(4, 64)})


def test_unknown_variants() -> None:
    for name in ("fp32", "fp16", "int8"):
        check_variant(name)
    with pytest.raises(UserError, match=r"^unknown variant 'fp61'; did you mean 'fp16'.*; there are fp32, fp16, int8$"):
        check_variant("fp61")


def test_no_torch_is_needed(dense: Model, convolved: Model, tmp_path: Path) -> None:
    save(dense, tmp_path / "dense.onnx")
    save(convolved, tmp_path / "convolved.onnx")
    code = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
import numpy as np
from onnxprune.timing.converting import to_half, to_int8
folder = Path({str(tmp_path)!r})
to_half(folder / "dense.onnx", folder / "half.onnx")
to_int8(folder / "dense.onnx", folder / "dynamic.onnx", None, symmetric=False)
feeds = {{"x": np.ones((1, 3, 12, 12), np.float32)}}
to_int8(folder / "convolved.onnx", folder / "static.onnx", iter([feeds]), symmetric=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load(tmp_path / "half.onnx").weights["w"].dtype == FLOAT16
    assert "MatMulInteger" in ops(tmp_path / "dynamic.onnx")
    assert "QuantizeLinear" in ops(tmp_path / "static.onnx")
