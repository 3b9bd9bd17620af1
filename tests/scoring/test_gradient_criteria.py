"""Gradient criteria say what removing a channel does to the loss, channel by channel, sample by sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from building import Net
from nets import DIMS, NETS
from oracle import prepared

import onnxprune
from onnxprune.analysis.analyze import analyze
from onnxprune.analysis.coupling import Coupling
from onnxprune.bridge.gradients import gradients
from onnxprune.data.sources import Request, open_data
from onnxprune.errors import NoScores, NotFinite, UserError
from onnxprune.execution import runtime
from onnxprune.execution.batches import Batch
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.passes import Analyze, Normalize, Score, Select, Steps
from onnxprune.pipeline.manager import PassManager
from onnxprune.scoring.gradient_criteria import GRADIENT_CRITERIA, gradient_scores

CLASSES = 5


def labelled(count: int, *shape: int, size: int = 8, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    labels = rng.integers(0, CLASSES, count)
    return [
        Batch({"image": x[i : i + size]}, labels[i : i + size], len(x[i : i + size])) for i in range(0, count, size)
    ]


def residual() -> Model:
    """A residual stream that three layers read (one of them a Gemm), a normalised block, and a depthwise layer."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 6, 3, name="stem"))
    y = n.op("Relu", n.norm(n.conv(x, 8, 3, bias=False, name="up"), name="bn"))
    y = n.op("Relu", n.conv(y, 8, 3, group=8, name="dw"))
    x = n.op("Relu", n.op("Add", n.conv(y, 6, name="down"), x))
    x = n.op("Flatten", n.op("GlobalAveragePool", n.op("Relu", n.op("Add", n.conv(x, 6, name="side"), x))))
    n.output(n.gemm(x, CLASSES, name="head"))
    return prepared(n.proto())


def losses(model: Model, batches: Iterable[Batch]) -> np.ndarray[Any, Any]:
    session = runtime.session(model)
    found = []
    for batch in batches:
        logits = torch.from_numpy(next(iter(runtime.run(session, batch.feeds).values()))).double()
        assert batch.labels is not None
        found.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels), reduction="none"))
    return torch.cat(found).numpy()


def dampened(model: Model, coupling: Coupling, group: str, unit: int, by: float) -> Model:
    """With the channel multiplied wherever a layer reads it."""
    weights = dict(model.weights)
    for slot in coupling.group(group).weights:
        if slot.role == "in":
            array = weights[slot.tensor].array().copy()
            where = (slice(None),) * slot.axis + (slot.positions[slot.units == unit],)
            array[where] *= by
            weights[slot.tensor] = Tensor.of(slot.tensor, array)
    return model.replace(weights=weights)


def assert_derivatives(model: Model, batches: list[Batch], criterion: str, groups: dict[str, int]) -> None:
    """Scores are what the losses of the samples say when one channel after the other is turned up and down."""
    coupling = analyze(model, strict=True)
    scores = gradient_scores(model, coupling, criterion, batches)
    assert {name: len(each) for name, each in scores.by_group.items()} == groups
    step = 1e-2
    for name, found in scores.by_group.items():
        for unit in range(len(found)):
            up, down = (losses(dampened(model, coupling, name, unit, by), batches) for by in (1 + step, 1 - step))
            slope = (up - down) / (2 * step)
            expected = np.abs(slope).mean() if criterion == "taylor" else np.square(slope).mean() / 2
            assert expected > 1e-6
            assert found[unit] == pytest.approx(expected, rel=0.05, abs=1e-6), (name, unit)


@pytest.mark.parametrize("criterion", ["taylor", "group_fisher"])
def test_it_is_the_derivative_by_the_channel_of_every_sample_s_loss(criterion: str) -> None:
    assert_derivatives(residual(), labelled(24, 3, 6, 6), criterion, {"stem": 6, "up": 8})


@pytest.mark.parametrize("criterion", ["taylor", "group_fisher"])
def test_layers_that_share_a_weight_read_a_channel_once_each(criterion: str) -> None:
    """The head of a detector, on two levels: without the second one scores are others."""
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 6, 3, name="stem"))
    w, b = n.weight(4, 6, 1, 1, name="head.weight"), n.weight(4, name="head.bias", scale=0.5)
    levels = [
        n.op("Conv", each, w, b, kernel_shape=[1, 1]) for each in (x, n.op("AveragePool", x, kernel_shape=[3, 3]))
    ]
    means = [n.op("Flatten", n.op("GlobalAveragePool", n.op("Relu", level))) for level in levels]
    n.output(n.gemm(n.op("Mul", *means), CLASSES, name="last"))
    assert_derivatives(prepared(n.proto()), labelled(24, 3, 6, 6), criterion, {"stem": 6, "head": 4})


def test_a_weight_that_is_transposed_on_the_way_is_asked_as_well() -> None:
    n = Net()
    x = n.op("Relu", n.linear(n.image("batch", 3, 7), 6, name="first"))
    y = n.op("MatMul", x, n.transpose(n.weight(CLASSES, 6, name="last.weight"), 1, 0))
    n.output(n.reduce("ReduceMean", y, 1, keepdims=0))
    assert_derivatives(prepared(n.proto()), labelled(24, 3, 7), "group_fisher", {"first": 6})


def test_a_weight_that_something_else_reads_is_not_asked() -> None:
    """An embedding that is also the last layer is left whole, not scored by a part of what it does."""
    n = Net()
    x = n.op("Relu", n.linear(n.image("batch", 3, 7), 6, name="first"))
    w = n.weight(6, 6, name="twice.weight")
    y = n.op("MatMul", n.op("Relu", n.op("MatMul", x, w)), n.transpose(w, 1, 0))
    n.output(n.linear(n.reduce("ReduceMean", n.op("Relu", y), 1, keepdims=0), CLASSES, name="last"))
    model = prepared(n.proto())
    (batch,) = labelled(4, 3, 7)
    rows = next(gradients(model, [batch], gates={"twice.weight": "MatMul", "last.weight": "MatMul"}))
    assert set(rows.gates) == {"last.weight"}


def test_coupled_layers_are_added_before_they_are_squared() -> None:
    model, batches = residual(), labelled(16, 3, 6, 6)
    coupling = analyze(model, strict=True)
    slots = [slot for slot in coupling.group("stem").weights if slot.role == "in"]
    assert {slot.tensor for slot in slots} == {"up.weight", "side.weight", "head.weight"}
    rows = {slot.tensor: [] for slot in slots}  # type: ignore[var-annotated]
    for batch in gradients(model, batches, gates={slot.tensor: slot.op for slot in slots}):
        for name, each in batch.gates.items():
            rows[name].append(each)
    parts = np.stack([np.concatenate(rows[slot.tensor]) for slot in slots])
    together, apart = np.square(parts.sum(axis=0)).mean(axis=0) / 2, np.square(parts).sum(axis=0).mean(axis=0) / 2
    found = gradient_scores(model, coupling, "group_fisher", batches).by_group["stem"]
    np.testing.assert_allclose(found, together, rtol=1e-6)
    assert np.abs(apart / together - 1).max() > 0.1


@pytest.mark.parametrize("criterion", ["hessian", "grad_norm"])
def test_it_is_made_of_the_weights_gradients(criterion: str) -> None:
    model, batches = residual(), labelled(16, 3, 6, 6, size=1)
    coupling = analyze(model, strict=True)
    module = onnxprune.to_torch(model)
    parameters = dict(module.named_parameters())
    sums = {name: torch.zeros(each.shape, dtype=torch.float64) for name, each in parameters.items()}
    for batch in batches:
        module.zero_grad()
        logits = module(torch.from_numpy(batch.feeds["image"]))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels)).backward()  # type: ignore[no-untyped-call, arg-type]
        for name, each in parameters.items():
            assert each.grad is not None
            sums[name] += each.grad.double() ** (2 if criterion == "hessian" else 1)
    found = gradient_scores(model, coupling, criterion, batches).by_group["up"]
    expected = np.zeros(8)
    for name, axis in (("up.weight", 0), ("bn.weight", 0), ("bn.bias", 0), ("dw.weight", 0), ("dw.bias", 0),
                       ("down.weight", 1)):  # fmt: skip
        mean, weight = sums[name].numpy() / 16, parameters[name].detach().numpy().astype(np.float64)
        part = mean * weight**2 / 2 if criterion == "hessian" else mean**2
        expected += np.moveaxis(part, axis, 0).reshape(8, -1).sum(axis=1)
    np.testing.assert_allclose(found, expected if criterion == "hessian" else np.sqrt(expected), rtol=1e-4)


def test_batches_and_padding_make_no_difference() -> None:
    model = residual()
    coupling = analyze(model, strict=True)
    whole = labelled(10, 3, 6, 6, size=10)
    parts = labelled(10, 3, 6, 6, size=3)
    last = parts[-1]
    filled = Batch({"image": np.repeat(last.feeds["image"], 3, axis=0)}, last.labels, last.count, 2)
    for criterion in ("taylor", "group_fisher", "grad_norm"):
        one, two, three = (
            gradient_scores(model, coupling, criterion, each).by_group["stem"]
            for each in (whole, parts, [*parts[:-1], filled])
        )
        np.testing.assert_allclose(two, one, rtol=1e-4)
        np.testing.assert_allclose(three, one, rtol=1e-4)


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
def test_a_channel_that_carries_nothing_is_worth_nothing(criterion: str) -> None:
    model = residual()
    weight = model.weights["down.weight"].array().copy()
    weight[:, 3] = 0
    dead = {"down.weight": weight, "bn.weight": model.weights["bn.weight"].array().copy()}
    dead["bn.weight"][3] = 0
    dead["bn.bias"] = model.weights["bn.bias"].array().copy()
    dead["bn.bias"][3] = 0
    dead["dw.bias"] = model.weights["dw.bias"].array().copy()
    dead["dw.bias"][3] = 0
    model = model.replace(weights={**model.weights, **{name: Tensor.of(name, each) for name, each in dead.items()}})
    found = gradient_scores(model, analyze(model, strict=True), criterion, labelled(16, 3, 6, 6)).by_group["up"]
    assert found[3] == 0
    assert np.sort(found)[1] > 1e-9


def test_without_labels_classes_are_drawn() -> None:
    """Their mean over many draws is the Fisher information."""
    model = residual()
    coupling = analyze(model, strict=True)
    bare = [Batch(batch.feeds, None, batch.count) for batch in labelled(12, 3, 6, 6)]
    one, two, other = (gradient_scores(model, coupling, "group_fisher", bare, seed=s).by_group["up"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    drawn = np.mean([gradient_scores(model, coupling, "group_fisher", bare, seed=s).by_group["up"] for s in range(40)],
                    axis=0)  # fmt: skip
    session = runtime.session(model)
    logits = np.concatenate([next(iter(runtime.run(session, batch.feeds).values())) for batch in bare])
    chances = torch.from_numpy(logits).softmax(1).numpy()
    exact = np.zeros(8)
    for label in range(CLASSES):
        named = [Batch(batch.feeds, np.full(batch.count, label), batch.count) for batch in bare]
        gates = {slot.tensor: slot.op for slot in coupling.group("up").weights if slot.role == "in"}
        rows = np.concatenate([each.gates["down.weight"] for each in gradients(model, named, gates=gates)])
        exact += (chances[:, label, None] * np.square(rows)).mean(axis=0) / 2
    assert np.corrcoef(np.log(drawn), np.log(exact))[0, 1] > 0.9
    assert drawn.sum() == pytest.approx(exact.sum(), rel=0.3)


def test_a_softmax_at_the_end_and_outputs_that_are_no_classes() -> None:
    model, batches = residual(), labelled(16, 3, 6, 6)
    coupling = analyze(model, strict=True)
    plain = gradient_scores(model, coupling, "taylor", batches).by_group
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["head.out"], ["p"], name="softmax", axis=1))
    proto.graph.output[0].name = "p"
    soft = model.replace(proto=proto)
    again = gradient_scores(soft, analyze(soft, strict=True), "taylor", batches).by_group
    np.testing.assert_allclose(again["up"], plain["up"], rtol=1e-4)
    n = Net()
    n.output(n.conv(n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 8, 3, name="first")), 4, name="last"))
    image = prepared(n.proto())
    dense = analyze(image, strict=True)
    bare = [Batch(batch.feeds, None, batch.count) for batch in batches]
    found = gradient_scores(image, dense, "group_fisher", bare).by_group["first"]
    other = gradient_scores(image, dense, "group_fisher", batches).by_group["first"]
    np.testing.assert_array_equal(found, other)  # labels of something else are no labels of these outputs
    assert found.min() > 0


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
@pytest.mark.parametrize("name", NETS)
def test_networks_are_scored(name: str, criterion: str) -> None:
    model = prepared(NETS[name]())
    coupling = analyze(model, strict=True)
    data = open_data("random:6", model, batch=2, dims={**DIMS[name], "batch": 2} if name in DIMS else None)
    scores = gradient_scores(model, coupling, criterion, data)
    assert {*scores.by_group, *scores.skipped} == {group.name for group in coupling.groups}
    assert scores.by_group
    for group in coupling.groups:
        if group.name in scores.by_group:
            assert scores.by_group[group.name].shape == (group.size,)
            assert np.isfinite(scores.by_group[group.name]).all()
            assert scores.by_group[group.name].max() > 0
    assert scores.comparable


def test_step_by_step_and_per_cost() -> None:
    request = Request("random:16", batch=8)
    score, select = Score("group_fisher", data=request), Select(targets=("macs=0.6",), per="macs", round_to=1)
    step = Steps(score, select, steps=4)
    state = PassManager([Normalize(), Analyze(), step]).run(residual())
    assert state.plan is not None
    assert state.plan.meta["criterion"] == "group_fisher"
    assert state.plan.meta["steps"] == 4
    pruned = onnxprune.apply(state.model, state.plan)
    assert onnxprune.cost(pruned).macs <= 0.6 * onnxprune.cost(state.model).macs
    assert onnxprune.verify(state.model, pruned, state.plan).require().ok


def test_mistakes() -> None:
    model = residual()
    coupling = analyze(model, strict=True)
    (batch,) = labelled(4, 3, 6, 6)
    with pytest.raises(UserError, match="labels must be classes from 0 to 4"):
        gradient_scores(model, coupling, "taylor", [Batch(batch.feeds, np.full(4, 9), 4)])
    bad = Batch({"image": np.full((2, 3, 6, 6), np.inf, np.float32)}, None, 2)
    with pytest.raises(NotFinite, match="NaN or Inf"):
        gradient_scores(model, coupling, "taylor", [bad])
    n = Net()
    x = n.op("Relu", n.conv(n.image("batch", 3, 6, 6), 4, name="only"))
    n.output(n.op("Conv", x, n.op("Abs", n.weight(2, 4, 1, 1, name="raw")), name="computed"))
    other = prepared(n.proto())
    with pytest.raises((NoScores, UserError)):
        gradient_scores(other, analyze(other, strict=True), "taylor", [Batch(batch.feeds, None, 4)])


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name == "onnxprune.bridge.gradients"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    model = residual()
    with pytest.raises(UserError, match=r"criterion 'taylor' needs torch, which is not installed: pip install"):
        gradient_scores(model, analyze(model, strict=True), "taylor", labelled(4, 3, 6, 6))
