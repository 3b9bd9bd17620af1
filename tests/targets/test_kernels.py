"""The kernels that onnxruntime runs, led back to the tensors of the file. Times differ, names and ends must not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import MS, Net
from nets import DIMS, NETS
from onnx import TensorProto, helper, numpy_helper
from oracle import prepared
from quantised import rounded, scales, stored

from onnxprune.errors import UserError
from onnxprune.execution.inputs import runnable_feeds
from onnxprune.targets import kernels as module
from onnxprune.targets.kernels import Kernel, kernels, kernels_in_turns


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times do not matter here."""
    monkeypatch.setattr(module, "SECONDS", 0.0)


def listed(proto: onnx.ModelProto, dims: Mapping[str, int] | None = None, **options: Any) -> list[Kernel]:
    """The kernels, checked for what holds for all."""
    model = prepared(proto)
    found = kernels(model, runnable_feeds(model, dims=dims).feeds, **options)
    tensors = {item.name for item in model.graph.input} | {x for node in model.graph.node for x in node.output if x}
    assert found
    assert all(kernel.microseconds > 0 for kernel in found)
    assert {x for kernel in found for x in (kernel.reads, kernel.makes) if x is not None} <= tensors
    assert len({kernel.name for kernel in found}) == len(found)
    return found


def ends(found: list[Kernel], *ops: str) -> list[tuple[str | None, str | None]]:
    return [(kernel.reads, kernel.makes) for kernel in found if kernel.op in ops]


def conv_relu(n: Net) -> None:
    x = n.op("Relu", n.conv(n.image(1, 3, 8, 8), 16, 3, name="first"), name="act")
    n.output(n.conv(x, 16, name="last"))


def proto(write: Callable[[Net], object]) -> onnx.ModelProto:
    net = Net()
    write(net)
    return net.proto()


def test_a_convolution_and_its_activation_are_one_kernel() -> None:
    found = listed(proto(conv_relu))
    convolutions = [kernel for kernel in found if "Conv" in kernel.op]
    assert [(kernel.reads, kernel.makes) for kernel in convolutions] == [("image", "act.out"), ("act.out", "last.out")]
    assert not [kernel for kernel in found if kernel.op == "Relu"]


def test_a_matrix_product_and_its_bias_are_one_kernel() -> None:
    """With reshapes around it, whose tensors only onnxruntime knows."""

    def write(n: Net) -> None:
        x = n.linear(n.input("x", 1, 8, 16), 32, name="up")
        x = n.op(f"{MS}::Gelu", x, name="gelu", made=(1, 8, 32))
        n.output(n.linear(x, 16, name="down"))

    found = listed(proto(write))
    assert ends(found, "Gemm") == [("x", "up.out"), ("gelu.out", "down.out")]
    assert ends(found, "Gelu") == [("up.add.out", "gelu.out")]
    assert all(kernel.reads and kernel.makes for kernel in found)


@pytest.mark.parametrize("name", NETS)
def test_every_kernel_of_known_networks_is_led_back(name: str) -> None:
    found = listed(NETS[name](), DIMS.get(name))
    assert all(kernel.reads and kernel.makes for kernel in found)
    weights = {node.name: node for node in NETS[name]().graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    multiplying = [kernel for kernel in found if kernel.op in ("Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul")]
    # a norm in front of a convolution may become one as well
    assert len(weights) <= len(multiplying) <= len(weights) + 2


def half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in half floats."""
    for item in proto.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float16), item.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


def test_half_floats_are_computed_as_floats_and_led_back_all_the_same() -> None:
    found = listed(half(proto(conv_relu)))
    convolutions = ends(found, "Conv", "FusedConv")
    assert convolutions == [("image", "act.out"), ("act.out", "last.out")]
    assert all(kernel.reads and kernel.makes for kernel in listed(half(NETS["resnet"]())))


def test_quantised_layers_in_another_layout() -> None:
    def write(n: Net) -> None:
        x = rounded(n, n.image(1, 3, 8, 8))
        for name, channels in (("a", 3), ("b", 8)):
            w, zero = stored(n, 8, channels, 3, 3, name=name)
            w = n.op("DequantizeLinear", w, scales(n), zero)
            x = rounded(n, n.op("Conv", x, w, pads=[1] * 4, name=f"conv.{name}"))
        n.output(n.conv(x, 5, name="last"))

    found = listed(proto(write))
    products = [kernel for kernel in found if kernel.op == "QLinearConv"]
    assert len(products) == 2
    assert all(kernel.reads and kernel.makes for kernel in products)


def test_a_recurrent_layer_whose_sequence_nobody_reads() -> None:
    def write(n: Net) -> None:
        w, r = n.weight(1, 24, 3, name="W"), n.weight(1, 24, 6, name="R")
        inputs = [n.input("x", 4, 2, 3), w, r, n.weight(1, 48, name="B"), "", n.input("h", 1, 2, 6)]
        n.nodes.append(helper.make_node("LSTM", inputs, ["", "last_state"], name="lstm", hidden_size=6))
        n.output(n.gemm(n.squeeze("last_state", 0), 5, name="last"))

    assert ends(listed(proto(write)), "LSTM") == [("x", "last_state")]


def loop(n: Net) -> None:
    """Five times a softmax."""
    picture, flag = (TensorProto.FLOAT, [1, 8, 8, 8]), (TensorProto.BOOL, [])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"], name="again"),
            helper.make_node("Softmax", ["now"], ["next"], name="inner"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", *flag),
            helper.make_tensor_value_info("now", *picture),
        ],
        [helper.make_tensor_value_info("on", *flag), helper.make_tensor_value_info("next", *picture)],
    )
    x = n.conv(n.image(1, 3, 8, 8), 8, name="first")
    inputs = [n.const(5, np.int64, name="trips"), n.const(True, bool, name="start"), x]
    n.nodes.append(helper.make_node("Loop", inputs, ["looped"], name="loop", body=body))
    n.output(n.op("Relu", "looped", name="end"))


def test_what_runs_inside_a_loop_is_part_of_it() -> None:
    found = listed(proto(loop))
    assert {"loop", "end"} <= {kernel.name for kernel in found}
    assert not {"inner", "again"} & {kernel.name for kernel in found}
    assert ends(found, "Loop") == [("first.out", "looped")]


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", "a\nb\tc", "конв/é", "x_kernel_time", "_nchwc", "a/b//", "0", "x_token_3"]
)
def test_odd_names(name: str) -> None:
    def write(n: Net) -> None:
        x = n.op("Softmax", n.conv(n.image(1, 3, 8, 8), 8, name="first"), name=name)
        n.output(n.conv(x, 5, name="last"))

    assert ends(listed(proto(write)), "Softmax") == [("first.out", f"{name}.out")]


def test_nodes_without_names() -> None:
    net = proto(conv_relu)
    for node in net.graph.node:
        node.name = ""
    found = listed(net)
    assert ends(found, "Conv", "FusedConv") == [("image", "act.out"), ("act.out", "last.out")]


def test_a_graph_of_which_nothing_is_left() -> None:
    def write(n: Net) -> None:
        n.output(n.op("Identity", n.image(1, 3, 4, 4), name="same"))

    (only,) = listed(proto(write))
    assert only.makes == "same.out"


def test_threads_and_several_inputs_of_integers() -> None:
    def write(n: Net) -> None:
        ids, mask = (n.input(name, "batch", 5, dtype=TensorProto.INT64) for name in ("input_ids", "attention_mask"))
        x = n.op("Gather", n.weight(20, 8, name="table"), ids, name="look")
        x = n.op("Mul", x, n.unsqueeze(n.op("Cast", mask, to=TensorProto.FLOAT), 2), name="hide")
        n.output(n.linear(x, 4, name="last"))

    found = listed(proto(write), {"batch": 3}, threads=2)
    assert ends(found, "Gather") == [("input_ids", "look.out")]


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(n: Net) -> None:
        n.output(n.linear(n.image(1, 3, 8, 8), 4, name="other"))

    turns: list[int] = []
    real = module.caller

    def caller(session: Any, feeds: Any) -> Callable[[], object]:
        call, number = real(session, feeds), len(callers)
        callers.append(call)
        return lambda: (turns.append(number), call())

    callers: list[object] = []
    monkeypatch.setattr(module, "caller", caller)
    models = [prepared(proto(conv_relu)), prepared(proto(write))]
    first, second = kernels_in_turns([(model, runnable_feeds(model).feeds) for model in models])
    assert turns == [0, 1] * (1 + module.RUNS)
    assert {kernel.makes for kernel in first} >= {"act.out"}
    assert {kernel.makes for kernel in second} >= {"other.out"}


def test_mistakes_are_one_line() -> None:
    model = prepared(proto(conv_relu))
    with pytest.raises(UserError, match="onnxruntime cannot run the model: ") as error:
        kernels(model, {"image": np.ones((1, 4, 8, 8), np.float32)})
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="threads must be a whole number"):
        kernels(model, {}, threads=-1)
    broken = proto(conv_relu)
    broken.graph.node[1].op_type = "Nonsense"
    with pytest.raises(UserError, match="onnxruntime does not accept the model: ") as error:
        kernels(prepared(broken), {})
    assert "\n" not in str(error.value)


# Times


def written(path: Path, times: Mapping[str, list[float]]) -> Path:
    """A file as the profiler writes it, with entries that are no kernels."""
    events = [
        {"cat": "Session", "name": "model_run", "dur": 1, "args": {}},
        {"cat": "Node", "name": "a_fence_before", "dur": 1, "args": {}},
    ]
    for run in range(max(map(len, times.values()))):
        for name, durations in times.items():
            if run < len(durations):
                args = {"op_name": name.upper()}
                events.append({"cat": "Node", "name": f"{name}_kernel_time", "dur": durations[run], "args": args})
    path.write_text(json.dumps(events))
    return path


def test_the_first_run_does_not_count_and_the_fastest_does(tmp_path: Path) -> None:
    found = module._times(written(tmp_path / "p.json", {"a": [50, 900, 800, 850], "b": [9000, 70, 60, 65]}))
    assert found == {"a": ("A", 800), "b": ("B", 60)}


def test_of_a_few_microseconds_the_mean_of_the_faster_half_tells_more(tmp_path: Path) -> None:
    found = module._times(written(tmp_path / "p.json", {"a": [99, 2, 3, 3, 2, 9, 30], "b": [7]}))
    assert found == {"a": ("A", pytest.approx((2 + 2 + 3) / 3)), "b": ("B", 7)}


def test_as_many_runs_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    module._repeat([lambda: calls.append(1)])
    assert len(calls) == 1 + module.RUNS
    monkeypatch.setattr(module, "SECONDS", 1e9)
    calls.clear()
    module._repeat([lambda: calls.append(1)])
    assert len(calls) == 1 + module.MOST_RUNS
