"""What layers read, against NumPy on the tensors of one plain run."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from nets import DIMS, NETS
from oracle import prepared

from onnxprune.data.sources import open_data
from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.repair.linear_layers import Rows, layers
from onnxprune.scoring.statistics import Reading, read

Array = np.ndarray[Any, Any]


def tensors(model: Model, batches: list[Batch], *names: str) -> dict[str, Array]:
    """Of all samples."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    made = {name for node in model.graph.node for name in node.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name in made)
    session = runtime.session(model.replace(proto=proto))
    runs = [{**runtime.run(session, batch.feeds), **batch.feeds} for batch in batches]
    counts = [batch.count for batch in batches]
    return {
        name: np.concatenate([run[name][:count] for run, count in zip(runs, counts, strict=True)]) for name in names
    }


def readings(model: Model, batches: list[Batch], *weights: str, **options: Any) -> dict[str, Reading]:
    """Of layers that are one group."""
    found = read(model, batches, weights or list(model.weights), **options)
    assert all(len(parts) == 1 for parts in found.values())
    return {name: each for name, (each,) in found.items()}


def expect(reading: Reading, model: Model, x: Array, target: Array) -> None:
    """All that is said of a layer, or of one of its groups, that reads `x` and adds to `target`."""
    layer, shape = reading.layer, model.weights[reading.layer.weight].shape
    made = layer.makes(x.shape, shape)
    assert made is not None
    rows = Rows(layer, made, 1 << 20, np.random.default_rng(0)).read(x, shape)[reading.group].astype(np.float64)
    second = rows.T @ rows / len(rows)
    covariance = np.cov(rows.T, bias=True).reshape(second.shape) if layer.bias else second
    top = np.abs(second).max()
    assert reading.covariance is not None
    np.testing.assert_allclose(reading.covariance, covariance, atol=1e-6 * top)
    np.testing.assert_allclose(reading.second, second.diagonal(), rtol=1e-5)
    np.testing.assert_allclose(reading.active, (rows != 0).mean(axis=0))
    flat = np.moveaxis(target, layer.channel, -1).reshape(-1, target.shape[layer.channel]).astype(np.float64)
    assert reading.power == pytest.approx(flat.var(axis=0).sum(), rel=1e-4)


def test_layers_of_a_residual_network() -> None:
    model = prepared(NETS["resnet"]())
    batches = list(open_data("random:21", model))
    assert batches[-1].spare == 1
    found = readings(model, batches)
    targets = {
        "stem.conv": ("image", "stem.bn.out"),
        "layer1.0.conv": ("stem.relu.out", "layer1.0.bn.out"),
        "layer1.1.conv": ("layer1.0.relu.out", "layer1.add.out"),
        "layer2.0.conv": ("layer1.out.out", "layer2.0.bn.out"),
        "layer2.1.conv": ("layer2.0.relu.out", "layer2.add.out"),
        "layer2.down": ("layer1.out.out", "layer2.add.out"),
        "fc": ("flatten.out", "fc.out"),
    }
    assert set(found) == {f"{name}.weight" for name in targets}
    there = tensors(model, batches, *{name for pair in targets.values() for name in pair})
    for name, (x, target) in targets.items():
        expect(found[f"{name}.weight"], model, there[x], there[target])
    weight = model.weights["layer1.0.conv.weight"].array().reshape(6, -1)
    factor = model.weights["layer1.0.bn.weight"].array() / np.sqrt(model.weights["layer1.0.bn.var"].array() + 1e-5)
    np.testing.assert_allclose(found["layer1.0.conv.weight"].weight, weight * factor[:, None], rtol=1e-6)


def test_layers_without_a_bias_have_no_mean_to_take_away() -> None:
    n = Net()
    x = n.op("Relu", n.image("batch", 4, 5), name="relu")
    n.output(n.op("MatMul", x, n.weight(5, 3, name="w"), name="bare"), n.linear(x, 3, name="other"))
    model = prepared(n.proto())
    batches = list(open_data("random:40", model, batch=16))
    found = readings(model, batches)
    there = tensors(model, batches, "relu.out", "bare.out", "other.add.out")
    assert found["w"].layer.bias is None
    expect(found["w"], model, there["relu.out"], there["bare.out"])
    expect(found["other.weight"], model, there["relu.out"], there["other.add.out"])
    mean = there["relu.out"].reshape(-1, 5).mean(axis=0)
    bare, other = (found[name].covariance for name in ("w", "other.weight"))
    assert bare is not None
    assert other is not None
    difference = bare - other
    np.testing.assert_allclose(difference, np.outer(mean, mean), atol=1e-6)


def test_a_transformer_of_unknown_lengths() -> None:
    model = prepared(NETS["transformer"]())
    batches = list(open_data("random:24", model, batch=8, dims=DIMS["transformer"]))
    found = readings(model, batches)
    assert set(found) == {f"{name}.weight" for name in ("embed", "q", "k", "v", "o", "up", "down", "head")}
    there = tensors(model, batches, *(r.layer.x for r in found.values()), "add1.out", "add2.out", "head.add.out")
    expect(found["o.weight"], model, there[found["o.weight"].layer.x], there["add1.out"])
    expect(found["down.weight"], model, there["up.relu.out"], there["add2.out"])
    expect(found["head.weight"], model, there["add2.out"], there["head.add.out"])


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_convolution_of_several_groups_is_read_group_by_group(op: str) -> None:
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, name="first"), name="relu")
    shape = (6, 4, 3, 3) if op == "Conv" else (8, 3, 3, 3)
    y = n.op(op, x, n.weight(*shape, name="w"), n.weight(6, name="b"), group=2, pads=[1, 1, 1, 1], name="grouped")
    n.output(y)
    model = prepared(n.proto())
    batches = list(open_data("random:21", model))
    found = read(model, batches, ["w"])["w"]
    assert [each.group for each in found] == [0, 1]
    there = tensors(model, batches, "relu.out", "grouped.out")
    for each in found:
        expect(each, model, there["relu.out"], there["grouped.out"])
    weight = model.weights["w"].array()
    if op == "Conv":
        np.testing.assert_array_equal(found[1].weight, weight[3:].reshape(3, 36))
    else:
        turned = np.flip(weight[4:], axis=(2, 3)).transpose(1, 0, 2, 3)
        np.testing.assert_array_equal(found[1].weight, turned.reshape(3, 36))


def test_what_a_recurrent_layer_makes_of_its_input() -> None:
    n = Net()
    x = n.op("Relu", n.input("x", 4, "batch", 5), name="relu")
    w, r, b = n.weight(1, 16, 5, name="w"), n.weight(1, 16, 4, name="r"), n.weight(1, 32, name="b")
    n.output(n.op("LSTM", x, w, r, b, hidden_size=4, name="lstm"))
    model = prepared(n.proto())
    rows = np.random.default_rng(0).standard_normal((4, 300, 5)).astype(np.float32)
    found = readings(model, [Batch({"x": rows}, None, 300)], "w")["w"]
    seen = np.maximum(rows, 0).reshape(-1, 5)
    np.testing.assert_allclose(found.covariance, np.cov(seen.T, bias=True), atol=1e-6)
    np.testing.assert_array_equal(found.weight, model.weights["w"].array()[0])
    made = seen @ found.weight.T + model.weights["b"].array()[0, :16]
    assert found.power == pytest.approx(made.var(axis=0).sum(), rel=1e-4)


def test_only_what_is_wanted_and_can_be_asked() -> None:
    model = prepared(NETS["mobilenet"]())
    batches = list(open_data("random:4", model))
    assert set(readings(model, batches, "expand.weight", "nothing")) == {"expand.weight"}
    every = set(readings(model, batches))
    assert "dw.weight" not in every, "each channel of it reads one"
    assert {"stem.weight", "expand.weight", "se.down.weight", "project.weight", "head.weight"} <= every


def test_layers_beyond_a_width_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("onnxprune.scoring.statistics"), "WIDEST", 27)
    model = prepared(NETS["mobilenet"]())
    batches = list(open_data("random:4", model))
    assert set(readings(model, batches, "stem.weight", "expand.weight")) == {"stem.weight", "expand.weight"}
    monkeypatch.setattr(importlib.import_module("onnxprune.scoring.statistics"), "WIDEST", 26)
    assert set(readings(model, batches, "stem.weight", "expand.weight")) == {"expand.weight"}


def test_without_products_layers_may_be_of_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("onnxprune.scoring.statistics"), "WIDEST", 1)
    model = prepared(NETS["resnet"]())
    batches = list(open_data("random:4", model))
    weights = ["layer1.0.conv.weight", "fc.weight"]
    assert readings(model, batches, *weights) == {}
    bare = readings(model, batches, *weights, products=False)
    monkeypatch.undo()
    full = readings(model, batches, *weights)
    assert set(bare) == set(full) == set(weights)
    for name, reading in bare.items():
        assert reading.covariance is None
        np.testing.assert_array_equal(reading.active, full[name].active)
        np.testing.assert_array_equal(reading.second, full[name].second)
        assert reading.power == full[name].power


def test_more_data_is_seen_in_the_same_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are a sample of all that there are, and figures differ by chance only."""
    model = prepared(NETS["densenet"]())
    few, many = (list(open_data(f"random:{count}", model, batch=2)) for count in (8, 64))
    monkeypatch.setattr(importlib.import_module("onnxprune.scoring.statistics"), "rows_for", lambda features: 2000)
    seen: list[int] = []
    plain = Rows.read

    def counted(self: Rows, x: Array, weight: tuple[int, ...]) -> Array:
        found = plain(self, x, weight)
        seen.append(found.shape[1])
        return found

    monkeypatch.setattr(Rows, "read", counted)
    a = readings(model, few, "transition.conv.weight")["transition.conv.weight"]
    assert sum(seen) == 8 * 64, "all of them"
    seen.clear()
    b = readings(model, many, "transition.conv.weight")["transition.conv.weight"]
    assert 2000 <= sum(seen) < 2000 + len(many)
    assert b.power == pytest.approx(a.power, rel=0.2)
    np.testing.assert_allclose(b.second, a.second, rtol=0.5, atol=0.01)


def test_constant_inputs_have_no_variance() -> None:
    n = Net()
    n.output(n.gemm(n.image("batch", 4), 3, name="layer"))
    model = prepared(n.proto())
    batches = [Batch({"image": np.tile(np.float32([0, 1e-3, 0.7, 1234.5]), (50, 1))}, None, 50)]
    found = readings(model, batches)["layer.weight"]
    assert found.covariance is not None
    assert (np.abs(found.covariance) <= 1e-12 * np.outer(found.second, found.second) ** 0.5).all()
    assert found.active.tolist() == [0, 1, 1, 1]
    assert found.power < 1e-9


def test_no_data_and_no_numbers() -> None:
    n = Net()
    x = n.op("Sqrt", n.image("batch", 4), name="root")
    n.output(n.gemm(x, 3, name="layer"))
    model = prepared(n.proto())
    with pytest.raises(UserError, match="no data"):
        readings(model, [])
    bad = [Batch({"image": np.float32([[1, 2, -1, 0]])}, None, 1)]
    with pytest.raises(UserError, match="NaN or Inf in 'root.out', which node 'root' makes"):
        readings(model, bad)


def test_an_input_without_rows_is_not_read() -> None:
    n = Net()
    n.output(n.op("MatMul", n.image(4), n.weight(4, 3, name="w")))
    model = prepared(n.proto())
    assert readings(model, [Batch({"image": np.ones(4, np.float32)}, None, 1)]) == {}


def test_progress_is_told() -> None:
    model = prepared(NETS["densenet"]())
    told: list[float] = []
    wanted = [layer.weight for layer in layers(model)]
    found = read(model, list(open_data("random:4", model)), wanted, on_progress=told.append)
    assert told == [number / (2 * len(found)) for number in range(2 * len(found))]
