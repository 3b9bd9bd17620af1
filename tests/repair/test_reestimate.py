"""Channels get the moments back that they had; what lost nothing is left alone; and nothing but numbers changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from building import Net
from nets import DIMS, NETS
from oracle import prepared

from onnxprune.accuracy.evaluate import evaluate
from onnxprune.analysis.analyze import analyze
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Request, open_data
from onnxprune.errors import UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor, same
from onnxprune.passes import Reestimate
from onnxprune.pipeline.manager import State
from onnxprune.repair.reestimate import LIMIT, reestimate
from onnxprune.scoring.scores import score
from onnxprune.selection.select import select

Array = np.ndarray[Any, Any]
EQUAL = 1e-5
"""Of the largest: moments that were brought back, in float32."""


def halved(model: Model, ratio: float = 0.5) -> tuple[Model, Plan]:
    coupling = analyze(model, strict=True)
    plan = select(coupling, score(model, coupling, "random"), ratio=ratio)
    return apply(model, plan), plan


def network(kind: str) -> tuple[Model, str]:
    """Two layers, the first to be cut; and the tensor behind the second."""
    n = Net()
    if kind in ("gemm", "matmul"):
        x = n.image("batch", 5) if kind == "gemm" else n.image("batch", 7, 5)
        layer = n.gemm if kind == "gemm" else n.linear
        y = layer(n.op("Relu", layer(x, 8, name="first")), 6, name="second")
        n.output(n.op("Relu", y))
        return prepared(n.proto()), y
    x = n.op("Relu", n.conv(n.image("batch", 3, 9, 8), 8, 3, name="first"))
    if kind == "transposed":
        y = n.deconv(x, 6, 3, name="second")
    elif kind == "depthwise":
        y = n.conv(n.conv(x, 8, 3, group=8, name="dw", bias=False), 6, name="second")
    else:
        y = n.conv(x, 6, 3, bias=kind == "conv", name="second")
    y = n.norm(y, name="bn") if kind == "norm" else y
    n.output(n.op("Relu", y))
    return prepared(n.proto()), y


def moments(model: Model, tensor: str, data: Any, axis: int) -> tuple[Array, Array]:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = runtime.session(model.replace(proto=proto))
    made = np.concatenate([runtime.run(session, batch.feeds)[tensor][: batch.count] for batch in data])
    rows = np.moveaxis(made, axis, -1).reshape(-1, made.shape[axis]).astype(np.float64)
    return rows.mean(axis=0), rows.std(axis=0)


@pytest.mark.parametrize("kind", ["conv", "norm", "transposed", "depthwise", "gemm", "matmul"])
def test_mean_and_variance_come_back(kind: str) -> None:
    model, tensor = network(kind)
    pruned, plan = halved(model)
    data = open_data("random:50", model, batch=16)
    found = reestimate(model, pruned, plan, data)
    axis = -1 if kind == "matmul" else 1
    wanted, before, after = (moments(each, tensor, data, axis) for each in (model, pruned, found.model))
    scale = float(np.abs(wanted[0]).max() + wanted[1].max())
    assert max(np.abs(b - w).max() for b, w in zip(before, wanted, strict=True)) > 0.05 * scale
    for there, should in zip(after, wanted, strict=True):
        np.testing.assert_allclose(there, should, rtol=0, atol=EQUAL * scale)
    fit = {fit.layer: fit for fit in found.fits}["bn" if kind == "norm" else "second"]
    assert fit.before > 0.01


def test_errors_that_are_told_are_those_of_the_tensor() -> None:
    model, tensor = network("norm")
    pruned, plan = halved(model)
    data = open_data("random:50", model, batch=16)
    found = reestimate(model, pruned, plan, data)
    made = []
    for each in (model, pruned, found.model):
        proto = onnx.ModelProto()
        proto.CopyFrom(each.proto)
        proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
        session = runtime.session(each.replace(proto=proto))
        made.append(np.concatenate([runtime.run(session, batch.feeds)[tensor] for batch in data]))
    y, before, after = made
    power = y.var(axis=(0, 2, 3)).sum()
    (fit,) = found.fits
    assert fit.layer == "bn"
    for told, there in ((fit.before, before), (fit.after, after)):
        assert told == pytest.approx(np.square(there - y).mean(axis=(0, 2, 3)).sum() / power, rel=1e-4)


def test_a_layer_without_bias_gets_its_power_back() -> None:
    model, tensor = network("bare")
    pruned, plan = halved(model)
    data = open_data("random:50", model, batch=16)
    found = reestimate(model, pruned, plan, data)
    powers = [np.square(moments(each, tensor, data, 1)).sum(axis=0) for each in (model, pruned, found.model)]
    assert np.abs(powers[1] / powers[0] - 1).max() > 0.1
    np.testing.assert_allclose(powers[2], powers[0], rtol=EQUAL)


@pytest.mark.parametrize("kind", ["conv", "norm"])
def test_what_lost_nothing_stays_what_it_is(kind: str) -> None:
    """Although the statistics are not those of the data."""
    model, _ = network(kind)
    found = reestimate(model, model, Plan(()), open_data("random:20", model))
    assert found.fits == ()
    assert all(found.model.weights[name] is weight for name, weight in model.weights.items())


def test_only_numbers_change_and_only_where_they_have_to() -> None:
    model = prepared(NETS["resnet"]())
    pruned, plan = halved(model)
    found = reestimate(model, pruned, plan, open_data("random:20", model))
    assert found.model.proto.SerializeToString() == pruned.proto.SerializeToString()
    assert list(found.model.weights) == list(pruned.weights)
    changed = {name for name, w in found.model.weights.items() if not same(w, pruned.weights[name])}
    behind = ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    statistics = {name for layer in behind for name in (f"{layer}.bn.mean", f"{layer}.bn.var")}
    assert changed == {*statistics, "layer2.down.weight", "layer2.down.bias", "fc.weight", "fc.bias"}
    assert all((w.dtype, w.shape) == (pruned.weights[n].dtype, pruned.weights[n].shape) for n, w in
               found.model.weights.items())  # fmt: skip


def test_dead_and_constant_channels_give_finite_weights() -> None:
    model, _ = network("conv")
    weight, bias = model.weights["second.weight"].array().copy(), model.weights["second.bias"].array().copy()
    weight[1] = 0  # the original's is always the same
    weight[2, 4:] = 0  # the pruned one's will be
    weight[3, :4] *= 1e-4
    model = model.replace(weights={**model.weights, "second.weight": Tensor.of("second.weight", weight)})
    coupling = analyze(model, strict=True)
    scores = score(model, coupling, "random")
    (name,) = scores.by_group
    by_hand = type(scores)("by hand", {name: np.r_[np.zeros(4), np.ones(4)]}, {})
    plan = select(coupling, by_hand, ratio=0.5)
    pruned = apply(model, plan)
    assert pruned.weights["second.weight"].array()[2].any() == 0
    data = open_data("random:30", model)
    found = reestimate(model, pruned, plan, data)
    new = found.model.weights["second.weight"].array()
    ratio = np.abs(new).sum(axis=(1, 2, 3)) / np.maximum(np.abs(weight[:, 4:]).sum(axis=(1, 2, 3)), 1e-30)
    assert np.isfinite(new).all()
    assert ratio[1] == ratio[2] == 0
    assert ratio[3] < 1.1
    assert max(ratio) <= LIMIT * (1 + 1e-6)
    assert found.model.weights["second.bias"].array()[1] == pytest.approx(bias[1], rel=1e-5)


def test_the_same_data_gives_the_same_bits() -> None:
    model = prepared(NETS["mobilenet"]())
    pruned, plan = halved(model)
    one, two = (reestimate(model, pruned, plan, open_data("random:30", model)) for _ in range(2))
    assert one.fits == two.fits
    assert all(same(tensor, two.model.weights[name]) for name, tensor in one.model.weights.items())


@pytest.mark.parametrize("name", NETS)
def test_the_pass_never_leads_away(name: str) -> None:
    model = prepared(NETS[name]())
    pruned, plan = halved(model, 0.5)
    bound = tuple({**DIMS[name], "batch": 16}.items()) if name in DIMS else ()
    request = Request("random:48", batch=16, dims=bound)
    state = Reestimate(request).run(State(pruned, original=model, plan=plan))
    data = open_data("random:48", model, batch=16, dims=dict(bound))
    before, after = (evaluate(each, data, original=model).deviation for each in (pruned, state.model))
    assert before is not None
    assert after is not None
    assert after <= before
    assert state.notes[0].startswith("re-estimat")
    assert (after < before) == state.notes[0].startswith("re-estimated on 48 samples: outputs are off by ")


def test_no_data_and_numbers_that_are_none_are_refused() -> None:
    model, _ = network("norm")
    pruned, plan = halved(model)
    with pytest.raises(UserError, match="no data to re-estimate"):
        reestimate(model, pruned, plan, [])
    bad = Batch({"image": np.full((2, 3, 9, 8), np.nan, np.float32)}, None, 2)
    with pytest.raises(UserError, match="NaN or Inf in input 'image'"):
        reestimate(model, pruned, plan, [bad])
